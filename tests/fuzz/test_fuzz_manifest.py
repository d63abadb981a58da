"""Whatever a manifest holds, it is an index of images that are there, or one line."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import pytest
from bounds import no_longer_than, settings_for
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import Edit, edits, spoil
from soaking import cases
from wrong_things import pictures

from scmd.data.folder import load_domains
from scmd.errors import ScmdError

LONGEST = 10.0
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("manifests")
    pictures(root / "images", ("art", "photo"), ("cat", "dog"), 2)
    pictures(root.parent / "beside", ("art",), ("cat",), 1)
    return root


def names_the_file(error: ScmdError, manifest: Path) -> None:
    assert str(manifest) in str(error) or str(manifest.parent) in str(error)
    assert len(str(error)) < 20_000


def index_or_one_line(manifest: Path) -> None:
    """The promise: of what is indexed, every file is there and every number fits."""
    with no_longer_than(LONGEST):
        try:
            data = load_domains(manifest, "union", one_is_enough=True)
        except ScmdError as error:
            names_the_file(error, manifest)
            return
    assert len(data) > 0
    for row in range(len(data)):
        sample = data[row]
        assert os.path.isfile(sample.path)
        assert sample.domain
        assert sample.class_name
        assert sample.id >= 0
    assert data.counts().sum() == len(data)
    assert len(set(data.ids.tolist())) == len(data)


def written(rows: list[list[str]], delimiter: str, quoting: Any, end: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter=delimiter, quoting=quoting, lineterminator=end, escapechar="\\"
    )
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def paths(folder: Path) -> st.SearchStrategy[str]:
    """Paths that are there, spelt in all ways, and such as lead nowhere."""
    there = [f"images/{d}/{c}/{i}.png" for d in ("art", "photo") for c in ("cat", "dog")
             for i in (0, 1)]  # fmt: skip
    return st.one_of(
        st.sampled_from(there),
        st.sampled_from(there).map(lambda path: str(folder / path)),
        st.sampled_from(there).map(lambda path: f"./{path}"),
        st.sampled_from(there).map(lambda path: f"images/../{path}"),
        st.sampled_from(
            ["../beside/art/cat/0.png", "images", "", ".", "..", "/", "/etc/passwd", "\0", "a\0b",
             "images/art/cat/0.png\0", "x" * 300, "a/" * 3000, "nowhere.png", "~", "C:\\a.png"]
        ),
        TEXT,
    )  # fmt: skip


def test_any_rows(folder):
    manifest = folder / "rows.csv"
    names = st.one_of(st.sampled_from(["art", "photo", "cat", "dog", "", " ", "a\nb", "\0"]), TEXT)
    header = st.one_of(
        st.just(["path", "domain", "class"]),
        st.lists(st.sampled_from(["path", "domain", "class", "Path", "", "extra"]), max_size=5),
    )
    row = st.builds(lambda a, b, c, more: [a, b, c, *more], paths(folder), names, names,
                    st.one_of(st.just([]), st.lists(TEXT, max_size=2)))  # fmt: skip
    quoting = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE])

    @settings_for(cases(150, 1000))
    @given(
        header,
        st.lists(row, max_size=5),
        st.sampled_from([",", ",", ",", ";", "\t"]),
        quoting,
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]),
    )
    @example(["path", "domain", "class"], [["images/art/cat/0.png", "a\nb", "c"]], ",", 0, "\n",
             "utf-8")  # fmt: skip
    def try_one(
        names: list[str], rows: list[list[str]], comma: str, quotes: int, end: str, encoding: str
    ) -> None:
        if quotes == csv.QUOTE_NONE and len(names) == 1:  # cannot be written if it is empty
            quotes = csv.QUOTE_MINIMAL
        content = written([names, *rows], comma, quotes, end)
        manifest.write_bytes(content.decode("utf-8").encode(encoding, "replace"))
        index_or_one_line(manifest)

    try_one()


def test_spoiled_bytes(folder):
    manifest = folder / "spoiled.csv"
    rows = [[f"images/{d}/{c}/{i}.png", d, c] for d in ("art", "photo") for c in ("cat", "dog")
            for i in (0, 1)]  # fmt: skip
    whole = [
        written([["path", "domain", "class"], *rows], ",", csv.QUOTE_MINIMAL, "\n"),
        written([["path", "domain", "class"], *rows], ",", csv.QUOTE_ALL, "\r\n"),
    ]

    @settings_for(cases(150, 1000))
    @given(st.sampled_from(whole), st.sampled_from(whole), edits())
    def try_one(content: bytes, donor: bytes, changes: list[Edit]) -> None:
        manifest.write_bytes(spoil(content, changes, donor))
        index_or_one_line(manifest)

    try_one()


def test_extremes(folder):
    manifest = folder / "extreme.csv"
    for content in (
        b"path,domain,class\n" + b"x" * 10**6,
        b'path,domain,class\n"' + b"x" * 10**6,
        b"path,domain,class\n" + b"," * 10**6,
        b"path," * 10**5,
        b"\n" * 10**5,
        b"\0" * 10**5,
        b"path,domain,class\n" + b"images/art/cat/0.png,a,b\n" * 10**4,
    ):
        manifest.write_bytes(content)
        index_or_one_line(manifest)
