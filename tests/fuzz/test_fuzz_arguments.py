"""Whatever follows a command, it is help, or one line and exit status 2: nothing is begun."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bounds import no_longer_than, settings_for
from hypothesis import given
from hypothesis import strategies as st
from soaking import cases

from scmd.cli import COMMANDS, main

LONGEST = 20.0
# What makes sure that nothing can be trained, fetched or written, whatever is before it.
LEADS_NOWHERE = {
    "demo": ["--out", "file/demo"],
    "train": ["--out", "file/run"],
    "protocol": ["--out", "file/runs"],
    "tables": [],
    "report": ["--out", "file/page"],
    "push": ["--dry-run", "file/x"],
    "evaluate": [],
    "predict": [],
    "export": ["--out", "file/x"],
    "bench": ["--rounds", "0"],
    "teacher fit": ["--out", "file/x"],
    "teacher eval": [],
    "data digits": ["--styles", "no-style"],
    "data halves": ["--out", "file/x"],
    "data check": [],
}
POSITIONAL = {
    "train": ["nowhere"], "protocol": ["nowhere"], "tables": ["nowhere"], "report": ["nowhere"],
    "push": ["nowhere", "me/it"], "evaluate": ["nowhere", "nowhere"],
    "predict": ["nowhere", "nowhere"], "export": ["nowhere"], "teacher fit": ["nowhere"],
    "teacher eval": ["nowhere", "nowhere"], "data digits": ["file/x"], "data halves": ["nowhere"],
    "data check": ["nowhere"],
}  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
VALUES = st.one_of(
    st.sampled_from(["nan", "inf", "-inf", "-1", "0", "1e400", "9" * 30, "", " ", "file", "None",
                     "x" * 5000, "a,b", "\0", "a\nb", "True", "--", "-", "[", "{}", "=", "../.."]),
    st.integers().map(str),
    st.floats().map(str),
    TEXT,
)  # fmt: skip


def flags_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    return sorted(set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out)))


def status_of(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as end:  # of --help
        return int(end.code or 0)


def said_in_one_line(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The promise."""
    capsys.readouterr()
    with no_longer_than(LONGEST):
        status = status_of(argv)
    printed = capsys.readouterr()
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert status in (0, 2)
    if status == 2:
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert all(line.startswith(("warning: ", "error: ")) for line in lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    return tmp_path


def test_every_command_is_tried():
    assert {*LEADS_NOWHERE, "data get", "data import"} >= COMMANDS.keys()


@pytest.mark.parametrize("name", LEADS_NOWHERE)
def test_any_flags(name, folder, capsys):
    flags = flags_of(name, capsys)
    # Of these, the last one given counts, and it is the one that leads nowhere.
    own = {flag for flag in LEADS_NOWHERE[name] if flag.startswith("--")}
    one = st.one_of(
        st.tuples(st.sampled_from([flag for flag in flags if flag not in own]), VALUES).map(list),
        st.sampled_from(flags).map(lambda flag: [flag]),
        st.builds("{}={}".format, st.sampled_from(flags), VALUES).map(lambda text: [text]),
        st.builds("--{}".format, TEXT).map(lambda text: [text]),
        VALUES.map(lambda text: [text]),
    )

    @settings_for(cases(6, 75))
    @given(st.lists(one, min_size=1, max_size=3))
    def try_one(parts: list[list[str]]) -> None:
        given_ones = [word for part in parts for word in part]
        argv = [*POSITIONAL.get(name, []), *given_ones, *LEADS_NOWHERE[name]]
        said_in_one_line([*name.split(), *argv], folder, capsys)

    try_one()


def test_any_words(folder, capsys):
    words = st.one_of(st.sampled_from([w for name in COMMANDS for w in name.split()]), VALUES)

    @settings_for(cases(20, 200))
    @given(st.lists(words, max_size=2), st.sampled_from(["nowhere", "--no-such-flag", ""]))
    def try_one(argv: list[str], last: str) -> None:
        if argv[:1] != ["demo"] and argv[:1] != ["bench"]:
            said_in_one_line([*argv, last, "--no-such-flag"], folder, capsys)

    try_one()
