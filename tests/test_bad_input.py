"""Every row of docs/bad_input.md, run: what it says is said, and nothing else happens."""

from __future__ import annotations

import errno
import os
import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from wrong_things import make

from scmd.cli import COMMANDS, main

PAGE = Path(__file__).parents[1] / "docs" / "bad_input.md"


class Row(NamedTuple):
    """A line of the page's tables."""

    wrong: str
    line: str
    said: str


def read_rows(page: str) -> list[Row]:
    """The rows of all tables; a message stands between backticks, … for words of other packages."""
    found = re.findall(r"^\| (.+?) \| `(scmd .+?)` \| `(.+)` \|$", page, re.MULTILINE)
    return [Row(*(cell.replace("\\|", "|") for cell in row)) for row in found]


ROWS = read_rows(PAGE.read_text(encoding="utf-8"))


def _no_space(*arguments: object, **options: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tempfile, "mkstemp", _no_space)
    patch.setattr("PIL.Image.Image.save", _no_space)


def _no_onnx(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("scmd.deploy.onnx.find_spec", lambda name: None)


def _not_writable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "access", lambda path, mode: False)


CIRCUMSTANCES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the disk is full": _full,
    "a package is missing": _no_onnx,
    "a folder that is not for you to write to": _not_writable,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        make(root)
    os.chdir(before)
    return root


def contents(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in root.rglob("*"):
        state = path.stat()
        found[str(path)] = (state.st_size, state.st_mtime_ns if path.is_file() else 0)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.line)
def test_is_said_in_one_line_with_status_2_and_nothing_is_written(row, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    before = contents(world)
    with monkeypatch.context() as patch:
        CIRCUMSTANCES.get(row.wrong, lambda _: None)(patch)
        status = main(shlex.split(row.line)[1:])
    out, err = capsys.readouterr()
    assert status == 2
    assert re.fullmatch(_pattern(f"error: {row.said}\n"), err), err
    assert out == ""
    assert contents(world) == before


def _pattern(text: str) -> str:
    return ".+".join(re.escape(part) for part in text.split("…"))


def test_the_page_has_every_command():
    for name in COMMANDS:
        if name not in ELSEWHERE:
            assert sum(row.line.startswith(f"scmd {name} ") for row in ROWS) >= 3, name


def test_every_circumstance_is_on_the_page():
    assert {row.wrong for row in ROWS} >= CIRCUMSTANCES.keys()


ELSEWHERE = {"data get", "data import"}
"""Commands whose bad input has tests of its own."""
