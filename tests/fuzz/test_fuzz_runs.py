"""Whatever has become of a run's files, there is a page or a table of it, or one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bounds import no_longer_than, settings_for
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import Edit, edits, spoil
from soaking import cases
from wrong_things import SMALL, pictures

from scmd.cli import main

LONGEST = 20.0
FILES = ("summary.json", "metrics.jsonl", "config.toml", "plan.json")
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.sampled_from([10**30, -1, 0, 1, 1e308]),
        st.floats(), st.text(max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run, whose images are gone: a page is made of what the run wrote."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMD_CACHE", str(root / "cache"))
        pictures(root / "images", ("art", "photo", "sketch"), ("cat", "dog"), 5)
        run = root / "comparison" / "run"
        arguments = [str(root / "images"), "--target", "sketch", *SMALL, "--out", str(run)]
        assert main(["train", *arguments]) == 0
    shutil.rmtree(root / "images")
    (run / "done").write_text('{"seconds": 1.0}')
    plan = {"run": {"label": "erm", "draw": 0}, "later": {"label": "kd", "draw": 0}}
    (root / "comparison" / "plan.json").write_text(json.dumps(plan))
    return root / "comparison"


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a tree of JSON something can be put or taken away."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [here, *(found for key, part in items for found in places(part, (*here, key)))]


def changed(value: Any, place: tuple[Any, ...], new: Any, remove: bool) -> Any:
    """A copy of a tree with something else at a place, or nothing."""
    if not place:
        return new
    copy = json.loads(json.dumps(value))
    part = copy
    for key in place[:-1]:
        part = part[key]
    if remove:
        del part[place[-1]]
    else:
        part[place[-1]] = new
    return copy


def page_or_one_line(command: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The promise."""
    capsys.readouterr()
    with no_longer_than(LONGEST):
        status = main([*command, "--out", str(out)])
    printed = capsys.readouterr()
    assert status in (0, 2)
    if status == 2:
        assert printed.out == ""
        errors = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        assert not out.exists()
    else:
        written = out / "index.html" if out.is_dir() else out
        assert written.stat().st_size > 0
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)


def try_both(comparison: Path, out: Path, page: bool, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", str(comparison / "run")] if page else ["tables", str(comparison)]
    page_or_one_line(command, out / ("page" if page else "table.txt"), capsys)


def file_of(comparison: Path, name: str) -> Path:
    return comparison / name if name == "plan.json" else comparison / "run" / name


PAGES = [False] * 6 + [True]
"""A page takes longer, for its figures."""


@pytest.fixture
def spoilt(comparison: Path):
    """The comparison's files, put back in the end."""
    kept = {name: file_of(comparison, name).read_bytes() for name in FILES}
    yield kept
    for name, content in kept.items():
        file_of(comparison, name).write_bytes(content)


def test_spoiled_bytes(comparison, spoilt, tmp_path, capsys):
    @settings_for(cases(40, 500))
    @given(st.sampled_from(FILES), st.sampled_from(FILES), edits(), st.sampled_from(PAGES))
    def try_one(name: str, donor: str, changes: list[Edit], page: bool) -> None:
        for other, content in spoilt.items():
            file_of(comparison, other).write_bytes(content)
        file_of(comparison, name).write_bytes(spoil(spoilt[name], changes, spoilt[donor]))
        try_both(comparison, tmp_path, page, capsys)

    try_one()


def test_other_values(comparison, spoilt, tmp_path, capsys):
    """Sound JSON that says something else."""
    trees: dict[str, Any] = {
        "summary.json": json.loads(spoilt["summary.json"]),
        "metrics.jsonl": [json.loads(line) for line in spoilt["metrics.jsonl"].splitlines()],
        "plan.json": json.loads(spoilt["plan.json"]),
    }
    spots = [(name, place) for name, tree in trees.items() for place in places(tree)]

    @settings_for(cases(60, 700))
    @given(st.sampled_from(spots), JSON, st.booleans(), st.sampled_from(PAGES))
    @example(("summary.json", ("results", "sketch", "domainbed_part")), None, True, False)
    @example(("summary.json", ("results", "sketch", "domainbed_part")), None, False, True)
    @example(("summary.json", ("results", "sketch")), None, True, True)
    @example(("summary.json", ("results", "sketch", "accuracy")), "high", False, False)
    @example(("summary.json", ("results", "sketch", "confusion", 0)), [1], False, True)
    @example(("summary.json", ("cost", "student", "parameters")), "many", False, True)
    @example(("metrics.jsonl", (0, "step")), 10**30, False, True)
    def try_one(spot: tuple[str, tuple[Any, ...]], new: Any, remove: bool, page: bool) -> None:
        for other, content in spoilt.items():
            file_of(comparison, other).write_bytes(content)
        name, place = spot
        tree = changed(trees[name], place, new, remove)
        lines = tree if name == "metrics.jsonl" and isinstance(tree, list) else [tree]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        file_of(comparison, name).write_text(text, encoding="utf-8")
        try_both(comparison, tmp_path, page, capsys)

    try_one()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["gone", "empty", "a folder", "deep"])
def test_a_file_that_is_no_file(name, how, comparison, spoilt, tmp_path, capsys):
    file = file_of(comparison, name)
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "gone":
        file.write_text("" if how == "empty" else "[" * 100_000)
    try:
        for page in (False, True):
            try_both(comparison, tmp_path, page, capsys)
    finally:
        if file.is_dir():
            os.rmdir(file)
