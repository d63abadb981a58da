"""Disks that are full or read-only, and files that are damaged: one line, and nothing is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from killing import Child, differences, outcome, training
from rich.console import Console
from test_kills import STEPS, config_for, whole

from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.errors import ScmdError, ScmdWarning
from scmd.files import read_json, write_json
from scmd.loop import train
from scmd.records import MetricsLog
from scmd.stepping import Stepper

QUIET = Console(quiet=True)


class StopError(Exception):
    pass


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)


def test_checkpoint_that_does_not_fit_keeps_the_one_before(images, clip_folder, tmp_path, capfd):
    """A limit to the size of files makes the writing fail where a full disk would."""
    config = config_for(images, clip_folder)
    expected = whole(config, tmp_path, 1)
    out = tmp_path / "out"

    def work() -> None:
        step = Stepper.step

        def limited(self, batch, number):
            if number == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            return step(self, batch, number)

        Stepper.step = limited  # type: ignore[method-assign]
        training(config, out, tmp_path / "cache")()

    assert Child(work).wait() == [1]
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "step-00000006.pt cannot be written: File too large" in said[0]
    assert "what was there before is kept" in said[0]
    assert sorted(p.name for p in (out / "checkpoints").glob("*.pt")) == [
        "step-00000002.pt", "step-00000004.pt",
    ]  # fmt: skip
    assert not list(out.rglob("*.aside"))
    assert Child(training(config, out, tmp_path / "cache")).wait() == [0]
    assert differences(outcome(out), expected) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        made = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_ends_in_one_line_and_room_is_enough_to_go_on(
    images, clip_folder, tmp_path, small_disk, capfd
):
    config = config_for(images, clip_folder)
    expected = whole(config, tmp_path, 1)
    work = training(config, small_disk / "out", tmp_path / "cache")
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * 500_000)
    assert Child(work).wait() == [1]
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "No space left on device. Make room" in said[0]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    assert Child(work).wait() == [0]
    assert differences(outcome(small_disk / "out"), expected) == []


def test_read_only_folder_is_said(images, clip_folder, tmp_path, small_disk, capfd):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    work = training(config_for(images, clip_folder), small_disk / "out", tmp_path / "cache")
    assert Child(work).wait() == [1]
    said = capfd.readouterr().err.strip()
    assert said.endswith("cannot be written: Read-only file system. Choose another --out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_log_on_a_full_disk_is_said(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    with pytest.raises(ScmdError, match=r"metrics.jsonl cannot be written: No space left.* Make"):
        log.write({"step": 0})


def test_failed_write_keeps_the_file_and_leaves_nothing(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    before, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(ScmdError, match=r"a.json cannot be written: File too large"):
            write_json(tmp_path / "a.json", {"new": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, resource.RLIM_INFINITY))
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "no checksum", "exchanged"])
def test_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    images, clip_folder, tmp_path, monkeypatch, damage
):
    config = config_for(images, clip_folder)
    expected = whole(config, tmp_path, 1)
    out = tmp_path / "out"
    step = Stepper.step

    def stopping(self, batch, number):
        if number == STEPS - 2:
            raise StopError
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopping)
        with pytest.raises(StopError):
            train(config, out, console=QUIET)
    before, newest = sorted((out / "checkpoints").glob("*.pt"))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "truncated":
        newest.write_bytes(content[:-100])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "exchanged":
        shutil.copy(before, newest)
    else:
        newest.with_suffix(".sha256").unlink()
    with pytest.warns(ScmdWarning, match=rf"{newest.name} is damaged: going on from {before.name}"):
        train(config, out, resume=True, console=QUIET)
    assert differences(outcome(out), expected) == []


def test_no_sound_checkpoint_is_an_error(tmp_path):
    save_checkpoint(tmp_path, 1, {"a": 1})
    (tmp_path / "step-00000001.pt").write_bytes(b"nonsense")
    with pytest.raises(ScmdError, match=r"step-00000001.pt is damaged, .* start anew"):
        load_checkpoint(tmp_path)


def test_checksums_are_what_sha256sum_checks(tmp_path):
    import hashlib

    save_checkpoint(tmp_path, 3, {"a": 1})
    digest, name = (tmp_path / "step-00000003.sha256").read_text().split()
    assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_log_that_lost_lines_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ScmdError, match=r"shorter than when the checkpoint was written"):
        MetricsLog(tmp_path / "metrics.jsonl", 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_names_step_parts_and_samples(
    images, clip_folder, tmp_path, monkeypatch, value
):
    """Whenever it is looked at: here two steps later; and the checkpoint before is kept."""
    config = config_for(images, clip_folder)
    config = replace(config, training=replace(config.training, log_every=100))
    ids = []
    step = Stepper.step

    def spoiling(self, batch, number):
        taken = step(self, batch, number)
        if number == 4:
            ids.extend(batch.sample_ids.tolist())
            taken.parts["loss"] = taken.parts["loss"] * value
        return taken

    monkeypatch.setattr(Stepper, "step", spoiling)
    with pytest.raises(ScmdError, match=rf"step 4: the loss is {value} \(loss {value}, ") as error:
        train(config, tmp_path / "out", console=QUIET)
    assert str(ids[0]) in str(error.value)
    about = read_json(tmp_path / "out" / "not_finite.json")
    assert about["step"] == 4
    assert about["sample_ids"] == ids
    state = load_checkpoint(tmp_path / "out" / "checkpoints")
    assert state is not None
    assert state["steps"] == 4
