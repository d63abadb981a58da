"""A comparison can be stopped and started again at any moment, and sharing changes no result."""

from __future__ import annotations

import io
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hand_made import DOMAINS, tiny
from rich.console import Console

import scmd.protocol.runner as runner
from scmd.cli import main
from scmd.errors import ScmdError
from scmd.files import ASIDE, read_json, write_json
from scmd.loop import train
from scmd.protocol.dry_run import print_plan
from scmd.protocol.plan import PlannedRun, ProtocolConfig, plan
from scmd.protocol.present import TablesConfig, tables_of
from scmd.protocol.runner import BROKEN, DONE, PLAN, remember, run_plan
from scmd.run_folder import CONFIG

QUIET = Console(quiet=True)


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=10)


class Trainer:
    """Stands in for training: it notes who came, and breaks as often as it is told to."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.breaks: Counter[str] = Counter()
        self.error: Exception = RuntimeError("no luck\nat all")

    def train(self, config, out: Path, *rest: Any) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        write_json(out / CONFIG, "a configuration")
        return self._run(config.data.target, config.method, out)

    def measure(self, run: PlannedRun, out: Path, *rest: Any) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        return self._run(run.target, run.label, out)

    def _run(self, target: str, label: str, out: Path) -> dict[str, Any]:
        self.trained.append(out.name)
        if self.breaks[label] > 0:
            self.breaks[label] -= 1
            raise self.error
        return {"training_seconds": 2.5, "results": {target: {"accuracy": 0.5}}}


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(runner, "train", trainer.train)
    monkeypatch.setattr(runner, "measure_reference", trainer.measure)
    return trainer


@pytest.fixture
def planned(images) -> Callable[..., list[PlannedRun]]:
    def make(methods: str = "zero-shot,erm,kd", trials: int = 1, **more: Any) -> list[PlannedRun]:
        return plan(ProtocolConfig(str(images), methods, trials=trials, **more))

    return make


def names(runs: list[PlannedRun]) -> list[str]:
    return [run.name for run in runs]


def test_a_finished_run_is_never_run_again(planned, trainer, tmp_path):
    runs = planned()
    assert run_plan(runs[:4], tmp_path / "out", QUIET) == []
    assert run_plan(runs, tmp_path / "out", QUIET) == []
    assert run_plan(runs, tmp_path / "out", QUIET) == []
    assert trainer.trained == names(runs)
    assert read_json(tmp_path / "out" / runs[0].name / DONE) == {"seconds": 2.5}


def test_a_stroke_of_bad_luck_is_tried_once_more(planned, trainer, tmp_path):
    runs = planned()
    trainer.breaks["kd"] = 1
    assert run_plan(runs, tmp_path / "out", QUIET) == []
    assert sorted(trainer.trained) == sorted([*names(runs), runs[2].name])
    assert not list(tmp_path.glob("out/*/broken.json"))


def test_a_broken_run_is_reported_and_the_others_finish(planned, trainer, tmp_path):
    runs = planned()
    out = tmp_path / "out"
    trainer.breaks["kd"] = 99
    said = io.StringIO()
    broken = run_plan(runs, out, Console(file=said, width=60))
    kd = [run.name for run in runs if run.label == "kd"]
    assert broken == [(name, "broken (RuntimeError: no luck)") for name in kd]
    assert Counter(trainer.trained) == {run.name: 1 + (run.label == "kd") for run in runs}
    for run in runs:
        assert (out / run.name / DONE).exists() == (run.label != "kd")
        assert (out / run.name / BROKEN).exists() == (run.label == "kd")
    assert read_json(out / kd[0] / BROKEN) == {"reason": "RuntimeError: no luck"}
    lines = said.getvalue().splitlines()
    assert lines[0] == "9 runs, 0 of them done already"
    assert len(lines) == 10  # a line for every run, however narrow the terminal is
    assert lines[3].startswith("[3/9] kd, target art, draw 0, trial 0: broken (RuntimeError: no l")
    assert "zero-shot, target art, draw 0, trial 0: 0.500 (" in lines[1]
    # Repaired, only what broke is run again, and its note goes.
    trainer.breaks.clear()
    trainer.trained.clear()
    assert run_plan(runs, out, QUIET) == []
    assert trainer.trained == kd
    assert not list(out.glob("*/broken.json"))


def test_a_stop_by_hand_stops(planned, trainer, tmp_path):
    trainer.breaks["erm"] = 1
    trainer.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        run_plan(planned(), tmp_path / "out", QUIET)
    assert len(trainer.trained) == 2
    assert not list(tmp_path.glob("out/*/broken.json"))


def test_plan_json_is_the_union_of_all_plans(planned, trainer, tmp_path):
    out = tmp_path / "out"
    first = planned("erm", targets="art")
    second = planned("erm,scmd-no-cm", search=2, cross_validate=True)
    run_plan(first, out, QUIET)
    remember(second, out)
    known = read_json(out / PLAN)
    assert set(known) == {*names(first), *names(second)}
    remember(first, out)
    assert read_json(out / PLAN) == known
    run = next(r for r in second if r.draw and r.config.data.also_held_out)
    said = known[run.name]
    assert said["label"] == run.label
    assert said["drawn"] == run.drawn
    assert said["also_held_out"] == list(run.config.data.also_held_out)
    assert (said["draw"], said["trial"], said["target"]) == (1, 0, run.target)


def test_a_folder_that_cannot_be_made(planned, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScmdError, match=r"file cannot be made: .*Choose another --out"):
        run_plan(planned("erm"), tmp_path / "file", QUIET)


def test_dry_run_says_what_is_left_and_writes_nothing(planned, trainer, tmp_path, monkeypatch):
    runs = planned("zero-shot,erm,kd", trials=2)
    monkeypatch.setattr("scmd.protocol.dry_run.estimate_run", lambda config: 40.0)

    def said(out: Path) -> str:
        file = io.StringIO()
        print_plan(runs, out, Console(file=file, width=100))
        return file.getvalue()

    text = said(tmp_path / "[out]")
    assert not (tmp_path / "[out]").exists()
    assert text.splitlines()[0] == f"18 runs in {tmp_path / '[out]'}"
    assert "targets: art, photo, sketch; trials: 2; draws: 1" in text
    assert "left: about 8 min 0 s" in text  # 12 runs of 40 s; the teacher's cost nothing
    run_plan(runs[:2], tmp_path / "out", QUIET)
    text = said(tmp_path / "out")
    # 6 of kd as estimated; of the others 5 each, as long as the finished one.
    assert "left: about 4 min 25 s" in text
    assert [line.split()[:4] for line in text.splitlines() if "finished runs" in line] == [
        ["zero-shot", "6", "1", "2"], ["erm", "6", "1", "2"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "view", "said"),
    [("erm,kd", "clean", True), ("kd", "fixed", True), ("kd", "augmented", False),
     ("zero-shot,erm", "clean", False)],
)  # fmt: skip
def test_dry_run_does_not_count_what_the_teacher_is_asked_before(
    images, clip_folder, tmp_path, monkeypatch, methods, view, said
):
    monkeypatch.setattr("scmd.protocol.dry_run.estimate_run", lambda config: 40.0)
    runs = plan(tiny(images, clip_folder, methods=methods, set=(f"teacher.view={view}",)))
    file = io.StringIO()
    print_plan(runs, tmp_path / "out", Console(file=file, width=100))
    assert ("besides: asking the teacher" in file.getvalue()) == said


def test_what_broke_before_it_began_can_be_repaired(images, clip_folder, tmp_path):
    """Bad data ends a run before its folder holds a configuration."""
    runs = plan(tiny(images, clip_folder, methods="zero-shot,erm", targets="art", trials=1))
    picture = images / "art" / "cat" / "000.png"
    content = picture.read_bytes()
    picture.write_bytes(b"no image")
    out = tmp_path / "out"
    broken = run_plan(runs, out, QUIET)
    assert [name for name, _ in broken] == names(runs)
    assert all("000.png cannot be decoded" in why for _, why in broken)
    picture.write_bytes(content)
    # A kill may leave an unfinished file, too.
    for name in (f".{CONFIG}.x7{ASIDE}", f".{BROKEN}.x8{ASIDE}"):
        (out / runs[1].name / name).write_bytes(b"unfin")
    assert run_plan(runs, out, QUIET) == []
    assert not list(out.glob("*/broken.json"))
    assert not list(out.glob(f"*/.*{ASIDE}"))


def test_a_cross_validated_comparison_has_tables(images, clip_folder, tmp_path):
    rows = "zero-shot,erm"
    config = tiny(images, clip_folder, methods=rows, targets="art", trials=1, cross_validate=True)
    assert run_plan(plan(config), tmp_path / "out", QUIET) == []
    for rule in ("training", "leave-one-out", "last", "oracle"):
        assert "erm" in tables_of(TablesConfig((tmp_path / "out",), selection=rule))


def test_a_target_too_small_for_a_holdout_of_its_own(image_folder, clip_folder, tmp_path):
    """It has four images, of which a fifth is none."""
    count = {(d, c): 2 if d == "art" else 8 for d in DOMAINS for c in ("cat", "dog")}
    images = image_folder(DOMAINS, count=count)
    config = tiny(images, clip_folder, methods="zero-shot,erm", targets="art", trials=1)
    assert run_plan(plan(config), tmp_path / "out", QUIET) == []
    assert "erm" in tables_of(TablesConfig((tmp_path / "out",)))
    with pytest.raises(ScmdError, match="no score on the holdout of art, which has too few images"):
        tables_of(TablesConfig((tmp_path / "out",), selection="oracle"))


def test_the_command_ends_with_tables_and_status_1_where_a_run_broke(
    images, clip_folder, tmp_path, capsys, monkeypatch
):
    def breaking(config, *rest):
        if config.method == "kd":
            raise RuntimeError("no luck")
        return train(config, *rest)

    out = tmp_path / "out"
    config = tiny(images, clip_folder)
    argv = ["protocol", str(images), "--methods", "erm,kd", "--targets", "art", "--trials", "1"]
    argv += ["--out", str(out), "--set", *config.set, "training.steps=1"]
    assert main([*argv, "--dry-run"]) == 0
    assert not out.exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", breaking)
        assert main(argv) == 1
    printed = capsys.readouterr()
    assert "images: accuracy" in printed.out
    assert "MISSING: 1 planned runs are not finished" in printed.out
    assert "broken (RuntimeError: no luck)" in printed.err
    assert main(argv) == 0
    assert "MISSING" not in capsys.readouterr().out


FILES = ("model.safetensors", "metrics.jsonl", "model.json", "config.toml")


def test_sharing_changes_no_result(images, clip_folder, tmp_path):
    """To the bit, for methods with and without teacher, in any order."""
    rows = "zero-shot,erm,scmd,erm@swad"
    runs = plan(tiny(images, clip_folder, methods=rows, targets="art", trials=1))
    students = [run for run in runs if not run.reference]
    for run in students:
        train(run.config, tmp_path / "alone" / run.name, console=QUIET)
    assert run_plan(runs, tmp_path / "shared", QUIET) == []
    assert run_plan(students[::-1], tmp_path / "reversed", QUIET) == []
    for run in students:
        for name in FILES:
            alone = (tmp_path / "alone" / run.name / name).read_bytes()
            for other in ("shared", "reversed"):
                assert (tmp_path / other / run.name / name).read_bytes() == alone, (run.name, name)


def test_killed_and_started_again_gives_the_same_tables(images, clip_folder, tmp_path):
    """SIGKILL at random moments; the processes' hashes are others than here."""
    config = tiny(
        images, clip_folder, methods="erm,scmd", targets="art,photo", trials=1,
        set=("training.steps=16", "training.checkpoint_every=4", "training.evaluate_every=4"),
    )  # fmt: skip
    servers = multiprocessing.get_context("forkserver")  # imports once, then forks every time
    servers.set_forkserver_preload(["scmd.commands", "scmd.protocol.runner", "scmd.protocol.plan"])

    def start(out: Path) -> BaseProcess:
        command = [
            "protocol", config.data, "--methods", config.methods, "--targets", config.targets,
            "--trials", "1", "--out", str(out), "--set", *config.set,
        ]  # fmt: skip
        process = servers.Process(target=_run, args=(command,))
        process.start()
        return process

    def end(process: BaseProcess, after: float | None = None) -> int | None:
        process.join(after)
        process.kill()
        process.join()
        return process.exitcode

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert end(start(tmp_path / "warm-up"), 0.1) in (0, -signal.SIGKILL)  # the server starts
    process, began = start(whole), time.monotonic()
    assert end(process) == 0
    took = time.monotonic() - began
    runs = plan(config)
    assert set(read_json(whole / PLAN)) == set(names(runs))
    chance = random.Random(0)
    codes = [end(start(killed), chance.uniform(0.1, 0.6) * took) for _ in range(4)]
    assert -signal.SIGKILL in codes
    assert end(start(killed)) == 0
    both = [tables_of(TablesConfig((out,), per_class=True)) for out in (whole, killed)]
    assert both[0] == both[1]
    for run in runs:
        for name in FILES:
            assert (whole / run.name / name).read_bytes() == (killed / run.name / name).read_bytes()


def _run(argv: list[str]) -> None:
    sys.exit(main(argv))


def test_workers_may_change_between_starts(images, clip_folder, tmp_path):
    (run,) = plan(tiny(images, clip_folder, methods="erm", targets="art", trials=1))
    other = replace(
        run, config=replace(run.config, training=replace(run.config.training, workers=1))
    )
    assert other.name == run.name
    assert run_plan([run], tmp_path / "out", QUIET) == []
    (tmp_path / "out" / run.name / DONE).unlink()  # killed just before
    assert run_plan([other], tmp_path / "out", QUIET) == []
    assert (tmp_path / "out" / run.name / DONE).exists()
