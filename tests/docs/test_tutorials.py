"""The tutorials, followed to the letter: every block of Python, and every command."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import runpy
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from scmd.cli import main
from scmd.methods import METHODS

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"


class Block(NamedTuple):
    language: str
    text: str
    line: int
    follows: bool
    """Whether nothing stands between it and the block before."""


def blocks(page: str) -> Iterator[Block]:
    end = 0
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        between = page[end : found.start()]
        yield Block(found[1], found[2], page.count("\n", 0, found.start(2)), not between.strip())
        end = found.end()


def follow(page: Path) -> None:
    """Do what a page says, in the current folder.

    A block of Python whose first line is ``# name.py`` is a file to write; the others are run, one
    after the other, with the same variables. Of a block of the shell every command is run. What a
    block of text directly behind it says has to be in what the last of them printed.
    """
    variables: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            if file := re.match(r"# (\w+\.py)\n", block.text):
                Path(file[1]).write_text(block.text, encoding="utf-8")
            else:
                exec(compile("\n" * block.line + block.text, page.name, "exec"), variables)
        elif block.language == "sh":
            for command in block.text.replace("\\\n", " ").splitlines():
                printed = run(shlex.split(command, comments=True), where)
        else:
            assert block.language == "text", f"{where}: what is a block of {block.language!r}?"
            for line in block.text.splitlines() if block.follows else ():
                assert line in " ".join(printed.split()), where


def run(command: list[str], where: str) -> str:
    """Run a command in this process; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        match command:
            case ["scmd", *arguments]:
                status = status_of(main, arguments)
            case ["python", "-m", "pytest", "-q", file]:
                module = importlib.import_module(file.removesuffix(".py"))
                tests = [name for name in vars(module) if name.startswith("test_")]
                assert tests
                for name in tests:
                    getattr(module, name)()
                status = 0
            case ["python", script, *arguments]:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", [script, *arguments])
                    status = status_of(runpy.run_path, script, run_name="__main__")
            case ["pip", "install", *_]:
                status = 0
            case _:
                pytest.fail(f"{where}: how is {shlex.join(command)!r} tested?")
    assert status == 0, f"{where}: {shlex.join(command)}"
    return printed.getvalue()


def status_of(function: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return function(*arguments, **named)
    except SystemExit as end:
        return end.code or 0


@pytest.fixture(autouse=True, scope="module")
def _without_network() -> Iterator[None]:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:  # which the processes that decode images speak by
            raise OSError("a tutorial needs the network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first tutorial has been followed; the others go on there."""
    folder = tmp_path_factory.mktemp("tutorials")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.jpg")  # "a picture of yours"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SCMD_CACHE", str(folder / "cache"))
        follow(TUTORIALS / "own_data.md")
    return folder


def test_every_tutorial_is_followed():
    assert {page.stem for page in TUTORIALS.iterdir()} == {
        "own_data", "own_teacher", "deploy", "add_a_method",
    }  # fmt: skip


def test_own_data(folder: Path):
    for run, method in (("erm", "erm"), ("scmd", "scmd"), ("final", "scmd")):
        model = json.loads((folder / "runs" / run / "model.json").read_text())
        assert model["method"] == method
    summary = json.loads((folder / "runs" / "scmd" / "summary.json").read_text())
    assert summary["results"]["photo"]["role"] == "target"
    assert (folder / "report" / "index.html").stat().st_size > 10_000
    header = (folder / "report" / "label-review-scmd.csv").read_text().splitlines()[0]
    assert header.startswith("path,domain,label,teacher")


def test_own_teacher(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    follow(TUTORIALS / "own_teacher.md")
    card = json.loads((folder / "teachers" / "tuned" / "teacher.json").read_text())
    assert {"halftone", "neon"} < set(card["seen"]["domains"])  # and the embedded one's
    summary = json.loads((folder / "runs" / "tuned-teacher" / "summary.json").read_text())
    assert summary["teacher"]["fitted_on_domains"] == card["seen"]["domains"]


def test_deploy(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    follow(TUTORIALS / "deploy.md")
    exported = {path.name for path in (folder / "exported").iterdir()}
    assert exported == {"README.md", "model.onnx", "model-int8.onnx", "preprocessing.json"}
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(list((folder / "next-place").rglob("*.png")))
    assert (folder / "staged" / "README.md").is_file()


def test_add_a_method(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    before = METHODS.copy()
    try:
        follow(TUTORIALS / "add_a_method.md")
    finally:
        METHODS.clear()
        METHODS.update(before)
        for name in ("trusted_kd", "test_trusted_kd", "my_scmd"):
            sys.modules.pop(name, None)
    rows = {json.loads(file.read_text())["method"] for file in folder.rglob("summary.json")}
    assert rows == {"erm", "scmd", "trusted-kd"}
    log = (folder / "runs" / "trusted-kd" / "metrics.jsonl").read_text()
    assert '"trusted"' in log
    # A trained student does not know how it was trained.
    assert main(["evaluate", str(folder / "runs" / "trusted-kd"), "next-place"]) == 0
