"""A run that is asked to stop checkpoints and leaves, and goes on as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import LEFT, Child, differences, outcome, training
from rich.console import Console
from soaking import SOAK
from test_kills import config_for, whole

from scmd.checkpoint import load_checkpoint
from scmd.choosing import Chooser
from scmd.config import save_config
from scmd.errors import Stopped
from scmd.loop import train
from scmd.stepping import Stepper
from scmd.stopping import GivenUpError, Stop

QUIET = Console(quiet=True)


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_is_answered_by_a_checkpoint(images, clip_folder, tmp_path, number, processes):
    """At any moment; also where the workers get it, too, as after Ctrl-C in a terminal."""
    config = config_for(images, clip_folder, workers=2)
    began = time.perf_counter()
    expected = whole(config, tmp_path, processes)
    lasts = time.perf_counter() - began
    draw = random.Random(number)
    checkpointed = 0
    for attempt in range(6 if SOAK else 2):
        out, cache = tmp_path / f"stopped-{attempt}", tmp_path / f"cache-{attempt}"
        child = Child(training(config, out, cache), processes)
        deadline = child.began + draw.uniform(0.2, 0.9) * lasts
        while time.perf_counter() < deadline:
            time.sleep(0.005)
        child.signal(number)
        if processes == 1:  # it left by itself, or was not yet listening, and never broke
            assert child.wait()[0] in (0, LEFT, -number)
        had = load_checkpoint(out / "checkpoints") if out.exists() else None
        checkpointed += had is not None
        assert set(Child(training(config, out, cache), processes).wait()) == {0}
        assert differences(outcome(out), expected) == [], attempt
    assert checkpointed


def _ask_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send a signal to ourselves when that step is scored."""
    score = Chooser.score

    def scoring(self, number, watch=iter):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, number, watch)

    monkeypatch.setattr(Chooser, "score", scoring)


@pytest.mark.parametrize("average", ["sma", "swad"])
@pytest.mark.parametrize("step", [0, 3, 8])
def test_scoring_is_given_up_and_done_again(
    images, clip_folder, tmp_path, monkeypatch, average, step
):
    config = config_for(images, clip_folder, average=average)
    expected = whole(config, tmp_path, 1)
    with monkeypatch.context() as patch:
        _ask_at(patch, step)
        with pytest.raises(Stopped, match=rf"stopped after {step + 1} steps. Pass --resume"):
            train(config, tmp_path / "out", console=QUIET)
    state = load_checkpoint(tmp_path / "out" / "checkpoints")
    assert state is not None
    finishing = average == "swad" and step == 8  # what has changed the average is finished
    assert state["unscored"] is not finishing
    train(config, tmp_path / "out", resume=True, console=QUIET)
    assert differences(outcome(tmp_path / "out"), expected) == []


def test_stopped_twice_the_log_has_no_line_more(images, clip_folder, tmp_path, monkeypatch):
    """Once in a score, and once after a step that is not scored."""
    config = config_for(images, clip_folder)
    expected = whole(config, tmp_path, 1)
    with monkeypatch.context() as patch:
        _ask_at(patch, 3)
        with pytest.raises(Stopped):
            train(config, tmp_path / "out", console=QUIET)
    step = Stepper.step

    def asking(self, batch, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", asking)
        with pytest.raises(Stopped, match="stopped after 5 steps"):
            train(config, tmp_path / "out", resume=True, console=QUIET)
    train(config, tmp_path / "out", resume=True, console=QUIET)
    assert differences(outcome(tmp_path / "out"), expected) == []


def test_signal_handlers_are_put_back(images, clip_folder, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(config_for(images, clip_folder), tmp_path / "out", console=QUIET)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background it has none
    stop = Stop()
    try:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            with pytest.raises(GivenUpError):
                list(stop.watch([1]))
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_so_and_its_status_is_the_signals(
    images, clip_folder, tmp_path, number, status
):
    from dataclasses import replace

    config = config_for(images, clip_folder)
    long = replace(config, training=replace(config.training, steps=10_000, evaluate_every=10_000))
    save_config(long, tmp_path / "config.toml")
    command = [sys.executable, "-m", "scmd.cli", "train", "--config", tmp_path / "config.toml"]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "out"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    while not list((tmp_path / "out").glob("checkpoints/step-*.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped after ")
    assert "Pass --resume to go on" in said
