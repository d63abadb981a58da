"""Runs side by side: each is done exactly once, whoever is killed, and to the same bits."""

from __future__ import annotations

import fcntl
import io
import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hand_made import DOMAINS, tiny
from rich.console import Console

import scmd.protocol.runner as runner
from scmd.cli import main
from scmd.errors import ScmdError
from scmd.files import read_json, write_json
from scmd.protocol.elsewhere import processors, threads_of_each
from scmd.protocol.jobs import LocalCrew
from scmd.protocol.outcomes import Outcome
from scmd.protocol.plan import PlannedRun, ProtocolConfig, plan
from scmd.protocol.runner import BROKEN, DONE, run_plan
from scmd.protocol.sent import pack_run, unpack_run
from scmd.protocol.sweep import Event, Shares, sweep
from scmd.run_folder import CONFIG

QUIET = Console(quiet=True)
FILES = ("model.safetensors", "metrics.jsonl", "model.json", "config.toml")
SLOW = ("training.steps=400", "training.checkpoint_every=1", "training.evaluate_every=400")


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=10)


def same_bits(runs: list[PlannedRun], one: Path, other: Path) -> None:
    for run in runs:
        assert (one / run.name / DONE).exists()
        for name in () if run.reference else FILES:
            assert (one / run.name / name).read_bytes() == (other / run.name / name).read_bytes()


def ended(said: str) -> list[str]:
    """What the lines of runs that ended begin with, their numbers left out."""
    return sorted(re.findall(r"^\[\d+/\d+\] (.*?): ", said, re.MULTILINE))


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_free(folder: Path) -> bool:
    with (folder / ".lock").open() as lock, suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


# Real processes.


def test_a_killed_job_loses_no_run_and_changes_no_bit(images, clip_folder, tmp_path):
    more = ("training.steps=16", "training.checkpoint_every=2")
    config = tiny(images, clip_folder, methods="zero-shot,erm,kd", targets="art,photo", trials=1,
                  set=more)  # fmt: skip
    runs, out, said = plan(config), tmp_path / "out", io.StringIO()
    with LocalCrew(2, out) as crew:

        def kill() -> None:
            until(lambda: list(out.glob("*/checkpoints/*.pt")))
            begun = next(out.glob("*/checkpoints")).parent
            for member in list(crew._members.values()):
                if any(str(begun) in os.readlink(file) for file in files_of(member.process.pid)):
                    os.kill(member.process.pid or 0, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        assert sweep(runs, out, crew, Console(file=said, width=200), 3) == []
        thread.join()
    assert "its process was ended by SIGKILL; it goes on elsewhere" in said.getvalue()
    assert len(ended(said.getvalue())) == len(set(ended(said.getvalue()))) == len(runs) == 6
    assert run_plan(runs, tmp_path / "here", QUIET) == []
    same_bits(runs, out, tmp_path / "here")


def files_of(pid: int | None) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


@pytest.fixture
def start() -> Callable[[list[str]], BaseProcess]:
    """``start(argv)`` runs a command in a process of its own."""
    servers = multiprocessing.get_context("forkserver")
    servers.set_forkserver_preload(["scmd.commands", "scmd.protocol.runner", "scmd.protocol.plan"])

    def start(argv: list[str]) -> BaseProcess:
        process = servers.Process(target=_run, args=(argv,))
        process.start()
        return process

    return start


def _run(argv: list[str]) -> None:
    sys.exit(main(argv))


def command(config: ProtocolConfig, out: Path, *more: str) -> list[str]:
    return [
        "protocol", config.data, "--methods", config.methods, "--targets", config.targets,
        "--trials", "1", "--out", str(out), *more, "--set", *config.set,
    ]  # fmt: skip


def test_two_commands_in_one_folder_share_its_runs(start, images, clip_folder, tmp_path):
    config = tiny(images, clip_folder, methods="erm,kd", targets="art,photo", trials=1)
    out, runs = tmp_path / "out", plan(config)
    both = [start(command(config, out, "--jobs", "2")), start(command(config, out))]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert not list(out.glob("*/broken.json"))
    assert run_plan(runs, tmp_path / "here", QUIET) == []
    same_bits(runs, out, tmp_path / "here")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_job_outlives_its_command(start, images, clip_folder, tmp_path, number, status):
    """What they were at can be taken up by others."""
    config = tiny(images, clip_folder, methods="erm", targets="art,photo", trials=1, set=SLOW)
    process = start(command(config, tmp_path / "out", "--jobs", "2"))
    until(lambda: len({p.parent for p in tmp_path.glob("out/*/checkpoints/*.pt")}) == 2)
    folders = [path.parent for path in tmp_path.glob("out/*/checkpoints")]
    assert not any(map(is_free, folders))
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == status
    if number == signal.SIGKILL:
        until(lambda: all(map(is_free, folders)))
    assert all(map(is_free, folders))
    assert not any((folder / DONE).exists() for folder in folders)


def test_a_broken_run_is_reported_by_its_job_and_the_others_finish(
    images, clip_folder, tmp_path, capsys
):
    config = tiny(images, tmp_path / "none", methods="erm,kd", targets="art", trials=1)
    assert main(command(config, tmp_path / "out", "--jobs", "2")) == 1
    printed = capsys.readouterr()
    assert "images: accuracy" in printed.out
    assert re.search(r"\] kd, target art, draw 0, trial 0: broken \(ScmdError: .*none", printed.err)
    (note,) = tmp_path.glob(f"out/*/{BROKEN}")
    assert "-kd-" in note.parent.name
    assert len(list(tmp_path.glob(f"out/*/{DONE}"))) == 1


# Claims, without processes.


def test_a_run_that_another_process_holds_is_left_for_last(images, tmp_path, monkeypatch):
    trained: list[str] = []

    def train(config, out: Path, *rest):
        trained.append(out.name)
        write_json(out / CONFIG, "a configuration")
        return {"training_seconds": 1.0, "results": {config.data.target: {"accuracy": 0.5}}}

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(runner, "LOOK_AGAIN", 0.02)
    runs, out, said = plan(ProtocolConfig(str(images), "erm,kd", trials=1)), tmp_path, io.StringIO()
    first = out / runs[0].name
    first.mkdir()
    lock = (first / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=run_plan, args=(runs, out, Console(file=said, width=200)))
    thread.start()
    until(lambda: "waiting for 1 runs that other processes are at" in said.getvalue())
    assert trained == [run.name for run in runs[1:]]
    assert {path.name for path in first.iterdir()} == {".lock"}
    lock.close()
    thread.join()
    assert trained == [run.name for run in [*runs[1:], runs[0]]]


def test_what_was_done_meanwhile_is_not_done_again(images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train", None)  # nobody calls it
    (run, *_) = plan(ProtocolConfig(str(images), "erm", trials=1))
    (tmp_path / run.name).mkdir()
    write_json(tmp_path / run.name / DONE, {"seconds": 1.0})
    outcome = runner.attempt(run, tmp_path / run.name, runner.Shared())
    assert outcome == Outcome("done", "done by another process")


# Who does what, with workers that are only thought of.


class Imagined:
    """A crew whose workers do runs at once, or are lost, by chance."""

    def __init__(self, chance: random.Random, losing: float = 0.0, holding: float = 0.0) -> None:
        self.chance, self.losing, self.holding = chance, losing, holding
        self.hired = 0
        self.events: list[Event] = []
        self.done: list[str] = []
        self.given: Counter[str] = Counter()

    def size(self) -> int:
        return self.chance.randint(1, 4)

    def hire(self) -> int:
        self.hired += 1
        self.events.append(Event("ready", self.hired))
        return self.hired

    def give(self, worker: int, run: PlannedRun) -> None:
        self.given[run.name] += 1
        draw = self.chance.random()
        if draw < self.losing:
            self.events.append(Event("lost", worker, why="lost"))
        elif draw < self.losing + self.holding:
            self.events.append(Event("ended", worker, Outcome("held", "held")))
        else:
            self.done.append(run.name)
            self.events.append(Event("ended", worker, Outcome("done", "0.5")))

    def wait(self, seconds: float) -> list[Event]:
        self.chance.shuffle(self.events)
        return [self.events.pop()] if self.events else []


@pytest.mark.parametrize("seed", range(10))
def test_every_run_is_done_once_whatever_happens(images, tmp_path, monkeypatch, seed):
    monkeypatch.setattr("scmd.protocol.sweep.LOOK_AGAIN", 0.0)
    runs = plan(ProtocolConfig(str(images), "erm,kd,scmd", trials=2))
    crew = Imagined(random.Random(seed), losing=0.3, holding=0.2)
    assert sweep(runs, tmp_path, crew, QUIET, retries=1000) == []
    assert sorted(crew.done) == sorted(run.name for run in runs)


def test_a_run_that_loses_every_worker_is_broken(images, tmp_path):
    runs = plan(ProtocolConfig(str(images), "erm", targets="art", trials=1))
    crew = Imagined(random.Random(0), losing=1.0)
    assert sweep(runs, tmp_path, crew, QUIET, retries=2) == [(runs[0].name, "broken (lost)")]
    assert crew.given[runs[0].name] == 3
    assert read_json(tmp_path / runs[0].name / BROKEN) == {"reason": "lost"}


def test_workers_that_never_begin_end_the_sweep(images, tmp_path):
    class NeverReady(Imagined):
        def hire(self) -> int:
            self.hired += 1
            self.events.append(Event("lost", self.hired, why="no such module"))
            return self.hired

    runs = plan(ProtocolConfig(str(images), "erm", trials=1))
    with pytest.raises(ScmdError, match="end before they have begun: no such module"):
        sweep(runs, tmp_path, NeverReady(random.Random(0)), QUIET, retries=3)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_runs_with_the_same_batches_meet_in_one_worker(images, workers):
    """Whole groups as long as there are some; only what is left in the end is shared out."""
    runs = plan(ProtocolConfig(str(images), "erm,kd,scmd,coral", trials=5))
    shares, taken = Shares(runs), {worker: [] for worker in range(workers)}
    for number in range(len(runs)):
        run = shares.next(number % workers)
        assert run is not None
        taken[number % workers].append(run)
    assert all(shares.next(worker) is None for worker in taken)
    assert sorted(r.name for own in taken.values() for r in own) == sorted(r.name for r in runs)
    switches = sum(
        (one.trial, one.target) != (other.trial, other.target)
        for own in taken.values()
        for one, other in itertools.pairwise(own)
    )
    assert switches <= 15 - workers + 2 * workers


def test_each_of_several_processes_has_its_part_of_the_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_of_each(1) == processors()
    assert threads_of_each(10_000) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(2) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--jobs", "0"], "--jobs 0: give a whole number from 1"),
        (["--jobs", "-1"], "--jobs -1: give a whole number from 1"),
        (["--retries", "-1"], "--retries -1: give a whole number from 0"),
        (["--ray", "--cpus-per-run", "0"], "--cpus-per-run 0: give a whole number from 1"),
        (["--ray", "--gpus-per-run", "1.5"], "--gpus-per-run 1.5: give a whole number from 0"),
        (["--ray", "--gpus-per-run", "nan"], "--gpus-per-run nan: give a whole number from 0"),
        (["--ray", "--gpus-per-run", "inf"], "--gpus-per-run inf: give a whole number from 0"),
        (["--ray", "--jobs", "2"], "--jobs is for this machine without --ray"),
        (["--ray-address", "a:1"], "--ray-address is for a cluster. Pass --ray, too"),
        (["--cpus-per-run", "2"], "--cpus-per-run is for a cluster. Pass --ray, too"),
    ],
)
def test_bad_values_are_said_in_a_line(images, tmp_path, capsys, flags, said):
    out = tmp_path / "out"
    assert main(["protocol", str(images), "--methods", "erm", "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not out.exists()


# Folders that are sent.


@pytest.fixture
def finished(tmp_path) -> Path:
    folder = tmp_path / "there" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "opinions").mkdir()
    for name in (DONE, CONFIG, ".lock", ".x.aside", "checkpoints/step.pt", "opinions/a"):
        (folder / name).write_text(name)
    return folder


def test_a_run_that_is_sent_arrives_without_what_nobody_reads(finished, tmp_path):
    place = tmp_path / "here" / "run"
    assert unpack_run(pack_run(finished), place)
    found = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
    assert found == {DONE, CONFIG, "opinions/a"}
    assert [path.name for path in place.parent.iterdir()] == ["run"]
    assert not unpack_run(pack_run(finished), place)  # it is there already


def test_what_is_no_finished_run_does_not_arrive(finished, tmp_path):
    place = tmp_path / "here" / "run"
    whole = pack_run(finished)
    (finished / "link").symlink_to("/etc/passwd")
    linked = pack_run(finished)
    (finished / "link").unlink()
    (finished / DONE).unlink()
    for packed, why in ((linked, "holds a link: link"), (whole[:700], "damaged"), (b"", "damaged"),
                        (pack_run(finished), "is no finished run")):  # fmt: skip
        with pytest.raises(ScmdError, match=why):
            unpack_run(packed, place)
        assert [path.name for path in place.parent.iterdir()] == ["run"]
        assert [path.name for path in place.iterdir()] == [".lock"]
