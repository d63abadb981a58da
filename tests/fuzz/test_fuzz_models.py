"""Whatever a model's folder holds, it is a model that computes numbers, or one line that says why
it is none."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from bounds import no_longer_than, settings_for
from deployed import CLASSES, method_of, save, student
from hypothesis import given
from hypothesis import strategies as st
from mutations import edits, spoil
from PIL import Image
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from soaking import cases

from scmd.deploy.classifier import load
from scmd.deploy.promptable import load_promptable, save_classes
from scmd.errors import ScmdError
from scmd.models.teacher import TeacherConfig, load_teacher, seen_domains

LONGEST = 30.0
"""Seconds of the processor that loading a model of a megabyte, or refusing it, may take."""
PICTURE = Image.linear_gradient("L").convert("RGB")

# What a value in a JSON file becomes.
NONSENSE: list[Any] = [
    None, True, 0, 1, -1, 10**9, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x",
    "test_vit", "vit_giant_patch14_224", "hf-hub:nobody/nothing", "../../etc/passwd", [], [0],
    [1, 2, 3], [[[]]], {}, {"trust_remote_code": True}, ["a\nb"], ["checkpoint_path=/etc/passwd"],
    ["depth=1000000000"], ["img_size=1000000"], ["width=100000"],
]  # fmt: skip


class Folder(dict[str, bytes]):
    """The files of a folder; a report of a failure shows their names and sizes."""

    def __repr__(self) -> str:
        return str({name: len(content) for name, content in self.items()})


class Contents(list[bytes]):
    """What may lie in the place of a file."""

    def __repr__(self) -> str:
        return f"{len(self)} files"


@st.composite
def changes(draw: st.DrawFn, whole: Folder, others: Contents) -> Folder:
    """A folder's files, with something done to one of them, or to two."""
    files = Folder(whole)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(files))) if files else "model.json"
        kind = draw(st.sampled_from(["bytes", "inside", "inside", "inside", "file"]))
        if kind == "file":
            _change_files(draw, files, name, others)
        elif kind == "inside" and files.get(name) == whole.get(name) and _inside(name):
            files[name] = _inside(name)(draw, whole[name])
        elif name in files:
            donor = others[draw(st.integers(0, len(others) - 1))]
            files[name] = spoil(files[name], draw(edits()), donor)
    return files


def _inside(name: str) -> Any:
    """Who knows what a file of that name has inside, if anybody does."""
    return {".json": _change_json, ".safetensors": _change_tensors}.get(Path(name).suffix)


def _change_files(draw: st.DrawFn, files: Folder, name: str, others: Contents) -> None:
    """Missing, extra, truncated and swapped ones."""
    another = others[draw(st.integers(0, len(others) - 1))]
    how = draw(st.sampled_from(["missing", "extra", "empty", "cut", "another's", "swapped"]))
    content = files.pop(name, b"")
    if how == "extra":
        extra = draw(st.sampled_from(["README.md", "model.safetensors", "open_clip_model.bin"]))
        files.setdefault(extra, another)
    if how == "swapped" and files:
        other = draw(st.sampled_from(sorted(files)))
        files[name], files[other] = files[other], content
    elif how != "missing":
        cut = content[: draw(st.integers(0, max(0, len(content) - 1)))]
        files[name] = {"empty": b"", "cut": cut, "another's": another}.get(how, content)


def _change_json(draw: st.DrawFn, content: bytes) -> bytes:
    """One value is another, or there is none."""
    value = json.loads(content)
    place, key = value, draw(st.sampled_from(sorted(value)))
    while isinstance(place[key], dict) and place[key] and draw(st.integers(0, 4)):
        place = place[key]
        key = draw(st.sampled_from(sorted(place)))
    place[key] = draw(st.sampled_from(NONSENSE))
    if not draw(st.integers(0, 5)):
        del place[key]
    return json.dumps(value).encode()


def _change_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """One tensor has another name, shape, kind of numbers or value, or there is none."""
    state = read_tensors(content)
    name = draw(st.sampled_from(sorted(state)))
    old = state.pop(name)
    how = draw(st.sampled_from(["gone", "name", "shape", "kind", "value", "precision"]))
    if how == "name":
        state[draw(st.sampled_from([f"{name}.x", f"module.{name}", ""]))] = old
    elif how == "shape":
        shapes = [old[None], old.flatten(), old[..., :-1] if old.ndim else old.expand(3)]
        state[name] = draw(st.sampled_from(shapes)).contiguous()
    elif how == "kind":
        kinds = [torch.int64, torch.bool, torch.uint8, torch.complex64]
        state[name] = old.to(draw(st.sampled_from(kinds)))
    elif how == "value":
        values = [float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 0.0]
        state[name] = torch.full_like(old, 0)
        filled = draw(st.sampled_from(values))
        if old.is_floating_point():
            state[name].fill_(filled)
    elif how == "precision":
        state[name] = old.to(draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64])))
    return write_tensors(state, {"format": "pt"})


def content_of(folder: Path) -> Folder:
    return Folder({file.name: file.read_bytes() for file in folder.iterdir()})


@contextmanager
def one_line_or_none() -> Iterator[None]:
    """Nothing but a ScmdError of one line, soon, and no warning."""
    with warnings.catch_warnings(record=True) as said, no_longer_than(LONGEST):
        warnings.simplefilter("always")
        message = ""
        try:
            yield
        except ScmdError as error:
            message = str(error) or "\n"
        assert "\n" not in message
        assert len(message) < 2_000
    said = [warning for warning in said if not issubclass(warning.category, DeprecationWarning)]
    assert [str(warning.message) for warning in said] == []


def fuzz(whole: Folder, others: Contents, count: int, folder: Path, use: Callable) -> None:
    @settings_for(count)
    @given(changes(whole, others))
    def try_one(files: Folder) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with one_line_or_none():
            use(folder)

    try_one()


@pytest.fixture
def classifier(tmp_path: Path) -> Folder:
    return content_of(save(tmp_path / "erm", method_of(student()), student(), temperature=1.5))


@pytest.fixture
def others(classifier: Folder, clip_folder: Path, write_image: Callable[..., Path]) -> Contents:
    """What may lie in the place of a file."""
    image = write_image(clip_folder.parent / "a.png").read_bytes()
    small = [b"", b"{}", b"[" * 100_000, b"\x80\x04.", image]
    return Contents([*small, *classifier.values(), *content_of(clip_folder).values()])


def test_spoilt_classifiers(classifier: Folder, others: Contents, tmp_path: Path):
    def use(folder: Path) -> None:
        model = load(folder)
        probabilities = model.predict([PICTURE])
        assert bool(probabilities.isfinite().all())
        assert probabilities.shape == (1, len(model.classes))

    fuzz(classifier, others, cases(40, 900), tmp_path / "spoilt", use)


def test_spoilt_teachers(clip_folder: Path, others: Contents, tmp_path: Path):
    whole = content_of(clip_folder)
    whole["teacher.json"] = b'{"seen": {"domains": ["photo"]}}'

    def use(folder: Path) -> None:
        teacher = load_teacher(TeacherConfig(str(folder)), CLASSES)
        logits = teacher.logits(torch.full((1, 3, 40, 32), 0.3))
        assert bool(logits.isfinite().all())
        assert all(isinstance(name, str) for name in seen_domains(str(folder)))

    fuzz(whole, others, cases(10, 250), tmp_path / "spoilt", use)


def test_spoilt_promptable_students(clip_folder: Path, others: Contents, tmp_path: Path):
    teacher = load_teacher(TeacherConfig(str(clip_folder)), CLASSES)
    method = method_of(student(), "scmd", teacher)
    run = save(tmp_path / "scmd", method, student(), method="scmd", teacher=str(clip_folder))
    save_classes(run, "some", load_promptable(run, ["cat", "a zebra"]))
    (run / "config.toml").write_text('method = "scmd"\n[hparams]\nlambda2 = 0.5\n')

    def use(folder: Path) -> None:
        model = load_promptable(folder, "some")
        assert bool(model(torch.full((1, 3, 40, 32), 0.3)).isfinite().all())

    fuzz(content_of(run), others, cases(15, 350), tmp_path / "spoilt", use)
