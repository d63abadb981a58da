"""A run, from a folder of images to a folder of results: resumable, and honest about its parts."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import scmd.loop as training
import scmd.scoring as scoring
from scmd.averaging import AverageConfig
from scmd.build import assign_roles, build_method
from scmd.cache import Shared
from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.config import DataConfig, RunConfig, TrainingConfig, save_config
from scmd.data.splits import domainbed_seed, holdout_keys
from scmd.deploy.classifier import load
from scmd.errors import ScmdError, ScmdWarning
from scmd.finished import read_summary
from scmd.loop import train
from scmd.methods import METHODS
from scmd.methods.kd import KD
from scmd.methods.scmd import SCMDConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import CLIPTeacher, TeacherConfig
from scmd.records import read_metrics
from scmd.selection import SelectionConfig
from scmd.stepping import Stepper
from scmd.store import cache_root
from scmd.summary import print_summary

STEPS = 8
QUIET = Console(quiet=True)


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=10)


def config_for(
    images: Path, teacher: Path | None, method: str = "scmd", **training: Any
) -> RunConfig:
    settings: dict[str, Any] = {
        "steps": STEPS,
        "batch_per_domain": 4,
        "evaluate_every": 3,
        "checkpoint_every": 3,
        "log_every": 1,
        "workers": 0,
        **training,
    }
    hparams = METHODS[method].Config(lr=1e-3)
    if isinstance(hparams, SCMDConfig):
        hparams = replace(hparams, selection=SelectionConfig(fraction=0.5))
    return RunConfig(
        method=method,
        data=DataConfig(path=str(images), target="sketch", image_size=24),
        student=StudentConfig(name="test_efficientnet", pretrained=False, freeze_batch_norm=False),
        teacher=TeacherConfig(str(teacher)),
        hparams=hparams,
        training=TrainingConfig(**settings),
        average=AverageConfig(average_start=4),
    )


def outcome(run: Path) -> dict[str, object]:
    """All of a run's files that have to be the same, by name."""
    names = ("model.safetensors", "model.json", "metrics.jsonl", "config.toml")
    files: dict[str, object] = {name: (run / name).read_bytes() for name in names}
    for name in ("selection.parquet", "samples.parquet"):
        if (run / name).exists():
            table = pq.read_table(run / name).combine_chunks()
            # By bytes: a loss that was not computed is NaN, which equals nothing.
            files |= {
                f"{name}.{column}": str(table[column].type).encode()
                + b"".join(
                    bytes(buffer or b"") for c in table[column].chunks for buffer in c.buffers()
                )
                for column in table.column_names
            }
    state = load_checkpoint(run / "checkpoints")
    assert state is not None
    for part in ("method", "average"):
        files |= {f"{part}.{k}": v.numpy().tobytes() for k, v in state[part].items()}
    return files


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", ["erm", "scmd"])
def test_resumed_equals_uninterrupted(images, clip_folder, tmp_path, monkeypatch, method):
    config = config_for(images, clip_folder, method)
    train(config, tmp_path / "whole", console=QUIET)
    step = Stepper.step
    # Before the first checkpoint, between two, just after one; a run that is stopped twice.
    for name, stops in {"early": [1], "between": [4], "after": [6], "twice": [4, 7]}.items():
        out = tmp_path / name
        for stop in stops:

            def stopping(self, batch, number, *rest, stop=stop):
                if number == stop:
                    raise StopError
                return step(self, batch, number, *rest)

            with monkeypatch.context() as patch:
                patch.setattr(Stepper, "step", stopping)
                with pytest.raises(StopError):
                    train(config, out, resume=out.exists(), console=QUIET)
        train(config, out, resume=True, console=QUIET)
        assert outcome(out) == outcome(tmp_path / "whole"), name


def test_mixtures_are_what_student_and_teacher_see_in_every_step(
    images, clip_folder, tmp_path, monkeypatch
):
    predict, logits = KD.predict, CLIPTeacher.logits
    trained: list[torch.Tensor] = []
    asked: list[torch.Tensor] = []

    def spied_predict(self, images):
        if self.training:
            trained.append(images.clone())  # the loader fills its memory again
        return predict(self, images)

    def spied_logits(self, images, *rest):
        asked.append(images.clone())
        return logits(self, images, *rest)

    monkeypatch.setattr(KD, "predict", spied_predict)
    monkeypatch.setattr(CLIPTeacher, "logits", spied_logits)
    plain = config_for(images, clip_folder, "kd")
    mixing = replace(plain, data=replace(plain.data, mixtures=True))
    for name, config in {"plain": plain, "mixing": mixing}.items():
        train(config, tmp_path / name, console=QUIET)
    one, other = trained[:STEPS], trained[STEPS:]
    assert len(other) == STEPS
    assert not any(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    assert all(any(torch.equal(batch, seen) for seen in asked) for batch in trained)


def test_result_does_not_depend_on_workers(images, clip_folder, tmp_path):
    results = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        train(config_for(images, clip_folder, workers=workers), out, console=QUIET)
        files = outcome(out)
        del files["config.toml"]
        results.append(files)
    assert results[0] == results[1]


@pytest.mark.parametrize("augmentation", ["tensor", "torchvision"])
def test_result_does_not_depend_on_decoding_once(image_folder, clip_folder, tmp_path, augmentation):
    """Nor on whether an earlier run has; with images that are larger than training needs."""
    images = image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=10, size=70)
    config = config_for(images, clip_folder)
    config = replace(config, data=replace(config.data, augmentation=augmentation))
    results = []
    for number, once in enumerate((False, True, True)):
        data = replace(config.data, decode_once=once)
        train(replace(config, data=data), tmp_path / str(number), console=QUIET)
        assert (cache_root() / "decoded").exists() == (number > 0)
        results.append(outcome(tmp_path / str(number)))
        del results[-1]["config.toml"]
    assert results[0] == results[1] == results[2]


def test_augmentations_are_not_the_same(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder)
    other = replace(config, data=replace(config.data, augmentation="torchvision"))
    train(config, tmp_path / "a", console=QUIET)
    train(other, tmp_path / "b", console=QUIET)
    assert outcome(tmp_path / "a")["metrics.jsonl"] != outcome(tmp_path / "b")["metrics.jsonl"]


def test_an_estimate_decodes_nothing_for_later(images, clip_folder):
    assert training.estimate_run(config_for(images, clip_folder)) > 0
    assert not (cache_root() / "decoded").exists()


def test_random_selection_and_dropout_are_resumable_too(images, clip_folder, tmp_path, monkeypatch):
    config = config_for(images, clip_folder)
    config = replace(
        config,
        hparams=SCMDConfig(lr=1e-3, selection=SelectionConfig(rule="random", fraction=0.5)),
        student=replace(config.student, args=("drop_path_rate=0.5", "drop_rate=0.2")),
    )
    train(config, tmp_path / "whole", console=QUIET)
    score = training.Run._score

    def stopping(self, number, *rest):
        score(self, number, *rest)
        if number == 6:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "_score", stopping)
        with pytest.raises(StopError):
            train(config, tmp_path / "stopped", console=QUIET)
    train(config, tmp_path / "stopped", resume=True, console=QUIET)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_selection_log_traces_every_decision_to_a_file(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder, seed=3)
    train(config, tmp_path / "run", console=QUIET)
    log = pq.read_table(tmp_path / "run" / "selection.parquet").to_pydict()
    samples = pq.read_table(tmp_path / "run" / "samples.parquet").to_pydict()
    split = dict(zip(samples["sample_id"], samples["split"], strict=True))
    paths = dict(zip(samples["sample_id"], samples["path"], strict=True))
    steps = np.array(log["step"])
    kept = np.array(log["kept"])
    losses = np.array(log["loss"])
    assert set(log["seed"]) == {3}
    for step in range(STEPS):
        here = steps == step
        assert here.sum() == 8  # 4 of each of 2 sources, once
        if step < 6:  # in the last quarter the whole batch is kept
            assert kept[here].sum() == 4
            assert losses[here][kept[here]].min() >= losses[here][~kept[here]].max()
        else:
            assert kept[here].all()
    for sample_id in log["sample_id"]:
        assert split[sample_id] == "train"
        assert (images / paths[sample_id]).is_file()
        assert not paths[sample_id].startswith("sketch/")


def test_first_decisions_are_those_of_the_initial_student(images, clip_folder, tmp_path):
    """The logged losses are the student's, on the very images that the step was given."""
    config = config_for(images, clip_folder)
    train(config, tmp_path / "run", console=QUIET)
    roles = assign_roles(config)
    method = build_method(config, roles.data.classes, len(roles.sources))
    from scmd.data.loader import DomainBatches, training_batches

    batches = DomainBatches(roles.data, roles.train_rows(), 4, 0, 0, 1)
    batch = next(training_batches(batches, roles.data, 32, 0, 0, False))
    with torch.no_grad():
        logits = method.eval().predict(batch.images / 255)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    log = pq.read_table(tmp_path / "run" / "selection.parquet").slice(0, 8).to_pydict()
    assert log["sample_id"] == batch.sample_ids.tolist()
    assert log["loss"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_summary_and_files(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder)
    summary = train(config, tmp_path / "run", console=QUIET)
    run = tmp_path / "run"
    assert summary == json.loads((run / "summary.json").read_text())
    assert set(summary["results"]) == {"art", "photo", "sketch"}
    assert summary["results"]["sketch"]["n"] == 20
    assert summary["results"]["sketch"]["domainbed_part"]["n"] == 16
    assert summary["results"]["art"]["n"] == 4
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "selection").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(STEPS))
    scores = {line["step"]: line["holdout_accuracy"] for line in lines if "holdout" in line}
    assert list(scores) == [0, 3, 6, 7]
    chosen = summary["model_selection"]
    assert chosen["holdout_accuracy"] == max(scores.values()) == scores[chosen["step"]]
    assert chosen["step"] == min(s for s, v in scores.items() if v == max(scores.values()))
    teacher, student = summary["cost"]["teacher, image tower"], summary["cost"]["student"]
    assert student["parameters"] == sum(p.numel() for p in load(run).parameters())
    assert teacher["flops"] > 0


def test_target_is_never_used(images, clip_folder, tmp_path, write_image):
    """Another target with as many images changes nothing that was learned or chosen."""
    config = config_for(images, clip_folder)
    train(config, tmp_path / "a", console=QUIET)
    for path in (images / "sketch").rglob("*.png"):
        path.unlink()
        write_image(path.with_name(f"other-{path.name}"))
    train(config, tmp_path / "b", console=QUIET)
    a, b = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    same = [name for name in a if not name.startswith("samples.parquet")]
    assert [a[name] for name in same] == [b[name] for name in same]


def test_deployed_model_is_the_chosen_average(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder, evaluate_every=STEPS - 1)
    train(config, tmp_path / "run", console=QUIET)
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state is not None
    if state["best"]["step"] == STEPS - 1:
        expected = {
            name.removeprefix("module."): value
            for name, value in state["average"].items()
            if name.startswith("module.")
        }
    else:
        expected = state["best"]["weights"]
    for name, value in load(tmp_path / "run").state_dict().items():
        assert torch.equal(value, expected[name])


def test_holdout_is_domainbeds(images, clip_folder):
    config = config_for(images, clip_folder, seed=5)
    roles = assign_roles(config)
    for index, domain in enumerate(("art", "photo", "sketch")):
        rows = roles.data.rows(domain)
        keys = holdout_keys(len(rows), 0.2, domainbed_seed(5, index))
        held_out = "target-holdout" if domain == "sketch" else "holdout"
        assert set(roles.rows(domain, held_out)) == set(rows[keys])


def test_without_target_every_domain_is_a_source(images, tmp_path):
    config = config_for(images, None, "erm")
    config = replace(config, data=replace(config.data, target=None))
    summary = train(config, tmp_path / "run", console=QUIET)
    assert summary["sources"] == ["art", "photo", "sketch"]
    assert summary["target"] is None
    assert not (tmp_path / "run" / "confusion.png").exists()


def test_a_target_of_which_nothing_can_be_decoded_is_refused_at_once(images, tmp_path):
    config = config_for(images, None, "erm")
    for path in (images / (config.data.target or "")).rglob("*.png"):
        path.write_bytes(b"nothing")
    config = replace(config, data=replace(config.data, skip_bad=True))
    with pytest.raises(ScmdError, match=r"no image of the held-out domain .* can be decoded"):
        train(config, tmp_path / "run", console=QUIET)


def test_a_target_of_which_domainbeds_part_cannot_be_decoded_is_measured_on_the_rest(
    images, tmp_path
):
    config = config_for(images, None, "erm")
    config = replace(config, data=replace(config.data, skip_bad=True))
    roles = assign_roles(config)
    for row in roles.rows("sketch", "target"):
        (images / roles.data.paths[row]).write_bytes(b"nothing")
    summary = train(config, tmp_path / "run", console=QUIET)
    result = summary["results"]["sketch"]
    assert result["n"] == len(roles.rows("sketch", "target-holdout"))
    assert "domainbed_part" not in result
    for use in ("tables", "pages"):
        assert read_summary(tmp_path / "run", use, "sketch") == summary
    print_summary(summary, tmp_path / "run", QUIET)


def test_bad_image_ends_the_run_with_its_name_unless_skipped(images, tmp_path):
    config = config_for(images, None, "erm")
    bad = sorted((images / "photo").rglob("*.png"))
    held_out = set(assign_roles(config).rows("photo", "holdout"))
    names = [path.relative_to(images).as_posix() for path in bad]
    rows = [assign_roles(config).data.paths.index(name) for name in names]
    victim = next(p for p, row in zip(bad, rows, strict=True) if row not in held_out)
    victim.write_bytes(victim.read_bytes()[:100])
    for workers in (0, 1):
        with pytest.raises(ScmdError, match=rf"{victim.name}.*--skip-bad"):
            train(
                replace(config, training=replace(config.training, workers=workers)),
                tmp_path / f"run{workers}",
                console=QUIET,
            )
    skipping = replace(config, data=replace(config.data, skip_bad=True))
    before = assign_roles(config).split
    train(skipping, tmp_path / "skipping", console=QUIET)
    samples = pq.read_table(tmp_path / "skipping" / "samples.parquet").to_pydict()
    # It is left out after the split: everything else keeps its role.
    for path, was, now in zip(samples["path"], before, samples["split"], strict=True):
        assert now == ("bad" if path == victim.relative_to(images).as_posix() else was)


def test_folder_of_another_run_is_refused(images, tmp_path):
    config = config_for(images, None, "erm")
    train(config, tmp_path / "run", console=QUIET)
    with pytest.raises(ScmdError, match=r"holds a run already\. Pass --resume"):
        train(config, tmp_path / "run", console=QUIET)
    other = replace(config, hparams=replace(config.hparams, lr=5e-4))
    with pytest.raises(ScmdError, match=r"another configuration \(hparams.lr: 0.001 -> 0.0005"):
        train(other, tmp_path / "run", resume=True, console=QUIET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ScmdError, match="not empty"):
        train(config, tmp_path / "full", console=QUIET)
    (tmp_path / "file").touch()
    with pytest.raises(ScmdError, match="is a file"):
        train(config, tmp_path / "file", console=QUIET)


def test_bad_input_leaves_no_folder(images, tmp_path):
    config = config_for(images, None, "erm")
    for wrong in (
        config_for(images, tmp_path / "no-teacher", "kd"),
        replace(config, data=replace(config.data, target="skech")),
        replace(config, data=replace(config.data, path="")),
    ):
        with pytest.raises(ScmdError):
            train(wrong, tmp_path / "run", console=QUIET)
        assert not (tmp_path / "run").exists()


def test_finished_run_is_not_run_again(images, tmp_path):
    config = config_for(images, None, "erm")
    summary = train(config, tmp_path / "run", console=QUIET)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train(config, tmp_path / "run", resume=True, console=QUIET) == summary
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_second_process_in_one_folder_is_refused(images, tmp_path):
    import fcntl

    config = config_for(images, None, "erm")
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ScmdError, match="another process is training in"):
            train(config, tmp_path / "run", console=QUIET)


def test_loss_that_is_not_finite_stops_with_step_and_samples(images, tmp_path):
    config = config_for(images, None, "erm", checkpoint_every=1)
    config = replace(config, hparams=replace(config.hparams, lr=1e30))
    with pytest.raises(ScmdError, match=r"step \d+: the (loss|weights)") as error:
        train(config, tmp_path / "run", console=QUIET)
    assert "Lower --lr" in str(error.value)
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    if state is not None:
        assert all(bool(value.isfinite().all()) for value in state["method"].values())


def test_warnings(images, tmp_path, monkeypatch):
    config = config_for(images, None, "erm")
    late = replace(config, average=AverageConfig(average_start=STEPS + 1))
    with pytest.warns(ScmdWarning, match="before the average starts"):
        train(late, tmp_path / "late", console=QUIET)
    scores = iter([0.9, 0.9, 0.5, 0.5])
    monkeypatch.setattr(
        training.Scorer,
        "holdout",
        lambda self, *rest: (dict.fromkeys(("a", "b"), next(scores)), 0.0),
    )
    monkeypatch.setattr(training.Chooser, "chance", 0.1)
    with pytest.warns(ScmdWarning, match=r"fell to 0.500, from 0.900 at step 0"):
        train(config, tmp_path / "collapse", console=QUIET)
    # Around chance, scores go up and down without meaning anything.
    scores = iter([0.15, 0.05, 0.05, 0.05])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScmdWarning)
        train(config, tmp_path / "chance", console=QUIET)


def test_checkpoints_keep_the_last_two_and_no_teacher(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder, checkpoint_every=2)
    train(config, tmp_path / "run", console=QUIET)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step-0000000{n}.{kind}" for n in (6, 8) for kind in ("pt", "sha256")]
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state is not None
    parts = {name.split(".")[0] for name in state["method"]}
    assert parts == {"backbone", "classifier", "projection", "log_scale"}


def test_holdout_is_scored_without_augmentation_unless_asked(images, tmp_path):
    config = config_for(images, None, "erm")
    plain = Stepper(config, assign_roles(config), tmp_path, QUIET, Shared(0))
    augmented_config = replace(config, data=replace(config.data, augment_holdout=True))
    augmented = Stepper(augmented_config, assign_roles(config), tmp_path, QUIET, Shared(0))
    seen = []
    collect = scoring.collect_logits

    def spy(predict, batches, device):
        batches = list(batches)
        seen.append(torch.cat(batches))
        return collect(predict, batches, device)

    scoring.collect_logits = spy
    try:
        training.Run(plain, tmp_path).chooser.scorer.holdout(plain.method)
        augmented_run = training.Run(augmented, tmp_path)
        augmented_run.chooser.scorer.holdout(augmented.method)
        augmented_run.chooser.scorer.holdout(augmented.method)
    finally:
        scoring.collect_logits = collect
    from scmd.data.loader import evaluation_batches

    roles = plain.roles
    rows = np.concatenate([roles.rows(domain, "holdout") for domain in roles.sources])
    assert torch.equal(seen[0], torch.cat(list(evaluation_batches(roles.data, rows, 24, 64, 0))))
    assert not torch.equal(seen[1], seen[0])
    assert torch.equal(seen[1], seen[2])  # the same views at every score


def test_batch_carries_the_larger_of_both_sizes(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder)
    assert Stepper(config, assign_roles(config), tmp_path, QUIET, Shared(0)).size == 32
    large = replace(config, data=replace(config.data, image_size=40))
    assert Stepper(large, assign_roles(large), tmp_path, QUIET, Shared(0)).size == 40


def test_class_balanced_draws_classes_equally(image_folder, tmp_path, clip_folder):
    images = image_folder(
        ("art", "photo", "sketch"), ("cat", "dog"), count={("art", "cat"): 40, ("art", "dog"): 5}
    )
    config = config_for(images, clip_folder)
    config = replace(config, data=replace(config.data, class_balanced=True))
    train(config, tmp_path / "run", console=QUIET)
    log = pq.read_table(tmp_path / "run" / "selection.parquet").to_pydict()
    samples = pq.read_table(tmp_path / "run" / "samples.parquet").to_pydict()
    cell = {
        i: (d, c)
        for i, d, c in zip(samples["sample_id"], samples["domain"], samples["class"], strict=True)
    }
    drawn = [cell[i] for i in log["sample_id"]]
    assert drawn.count(("art", "cat")) == drawn.count(("art", "dog")) == STEPS * 2
    assert math.isclose(len(drawn), STEPS * 8)


def test_two_processes_share_a_batch(images, tmp_path):
    """The loss that is logged is the whole batch's, and every file is written once."""
    config = config_for(images, None, "erm", steps=4)
    config = replace(config, student=replace(config.student, freeze_batch_norm=True))
    train(config, tmp_path / "one", console=QUIET)
    save_config(config, tmp_path / "config.toml")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scmd.cli",
        "train", "--config", tmp_path / "config.toml", "--out", tmp_path / "two",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    a, b = (load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-3)


def test_kill_at_the_end_loses_no_selection(images, clip_folder, tmp_path, monkeypatch):
    """While a part is written, after the merge, before the summary: all rows are there at last."""
    config = config_for(images, clip_folder)
    train(config, tmp_path / "whole", console=QUIET)
    expected = pq.read_table(tmp_path / "whole" / "selection.parquet")
    assert expected.num_rows == STEPS * 8

    for name in ("write_part", "merge"):
        out = tmp_path / name
        original = getattr(training.SelectionLog, name)
        calls = []

        def dying(self, *args, original=original, calls=calls, name=name):
            calls.append(1)
            if name == "write_part" and len(calls) < 2:
                return original(self, *args)
            if name != "write_part":
                original(self, *args)
            (self.folder if self.folder.exists() else self.folder.parent).joinpath(
                ".part-00000003.parquet.x7.aside"
            ).write_bytes(b"unfinished")
            raise StopError

        with monkeypatch.context() as patch:
            patch.setattr(training.SelectionLog, name, dying)
            with pytest.raises(StopError):
                train(config, out, console=QUIET)
        train(config, out, resume=True, console=QUIET)
        assert pq.read_table(out / "selection.parquet").equals(expected), name
        assert not (out / "selection").exists()


def test_damaged_part_is_named(images, clip_folder, tmp_path, monkeypatch):
    config = config_for(images, clip_folder)

    def damaging(self):
        next(self.folder.glob("part-*")).write_bytes(b"")
        merge(self)

    merge = training.SelectionLog.merge
    monkeypatch.setattr(training.SelectionLog, "merge", damaging)
    with pytest.raises(ScmdError, match=r"part-.*parquet is damaged"):
        train(config, tmp_path / "run", console=QUIET)


def stop_at_the_score_after_step_6(config: RunConfig, out: Path, monkeypatch) -> None:
    """Begin a run and leave it with the checkpoint before that."""

    def stop(self, step, *rest):
        if step == 6:
            raise StopError
        score(self, step, *rest)

    score = training.Run._score
    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "_score", stop)
        with pytest.raises(StopError):
            train(config, out, console=QUIET)


def outcome_so_far(run: Path) -> dict[str, bytes]:
    """What a run has written and would go on from."""
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["gone", "new"])
def test_resuming_on_changed_data_is_refused(images, tmp_path, monkeypatch, write_image, change):
    config = config_for(images, None, "erm")
    stop_at_the_score_after_step_6(config, tmp_path / "run", monkeypatch)
    before = (tmp_path / "run" / "samples.parquet").read_bytes()
    path = images / "photo" / "cat" / "000.png"
    if change == "gone":
        path.unlink()
    else:
        write_image(images / "photo" / "cat" / "zzz.png")
    with pytest.raises(
        ScmdError, match=rf"has changed since the run began: photo/cat/.* is {change}"
    ):
        train(config, tmp_path / "run", resume=True, console=QUIET)
    assert (tmp_path / "run" / "samples.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "becomes", "what"),
    [
        (r",dog$", ",dogs", "art/dog/000.png was in the class 'dog' and is in 'dogs'"),
        (r"(photo/dog/009.png,photo),dog$", r"\1,cat", "photo/dog/009.png was in the class 'dog'"),
        (r"(photo/cat/004.png),photo,", r"\1,art,", "photo/cat/004.png was in the domain 'photo'"),
    ],
    ids=["a class renamed", "an image relabelled", "an image in another domain"],
)
def test_resuming_on_relabelled_data_is_refused(
    images, tmp_path, monkeypatch, pattern, becomes, what
):
    names = [path.relative_to(tmp_path) for path in sorted(images.rglob("*.png"))]
    lines = [f"{name.as_posix()},{name.parts[1]},{name.parts[2]}\n" for name in names]
    manifest = tmp_path / "images.csv"
    manifest.write_text("".join(["path,domain,class\n", *lines]))
    config = config_for(manifest, None, "erm")
    stop_at_the_score_after_step_6(config, tmp_path / "run", monkeypatch)
    before = outcome_so_far(tmp_path / "run")
    edited = re.sub(pattern, becomes, manifest.read_text(), flags=re.MULTILINE)
    assert edited != manifest.read_text()
    manifest.write_text(edited)
    with pytest.raises(ScmdError, match=rf"has changed since the run began: images/{what}"):
        train(config, tmp_path / "run", resume=True, console=QUIET)
    assert outcome_so_far(tmp_path / "run") == before


@pytest.mark.parametrize("role", ["holdout", "target", "target-holdout"])
def test_bad_image_that_is_only_scored_is_found_before_training(images, tmp_path, role):
    config = config_for(images, None, "erm")
    roles = assign_roles(config)
    name = roles.data.paths[int(np.flatnonzero(roles.split == role)[0])]
    (images / name).write_bytes(b"no image")
    with pytest.raises(ScmdError, match=rf"{name} cannot be decoded.*--skip-bad"):
        train(config, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_single_class_is_refused(image_folder):
    images = image_folder(("art", "photo"), ("cat",), name="cats")
    config = config_for(images, None, "erm")
    with pytest.raises(ScmdError, match="single class 'cat'"):
        assign_roles(replace(config, data=replace(config.data, target=None)))


def test_fp16_needs_a_gpu(images, tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU here")
    config = config_for(images, None, "erm", precision="fp16")
    with pytest.raises(ScmdError, match="--precision fp16 cannot be had"):
        train(config, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_bf16_trains_and_selects(images, clip_folder, tmp_path):
    config = config_for(images, clip_folder, precision="bf16")
    train(config, tmp_path / "run", console=QUIET)
    losses = [
        line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line
    ]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state is not None
    assert {value.dtype for value in state["method"].values()} <= {torch.float32, torch.int64}


def test_workers_may_change_on_resume_and_processes_may_not(images, tmp_path):
    config = config_for(images, None, "erm", steps=3)
    train(config, tmp_path / "run", console=QUIET)
    (tmp_path / "run" / "summary.json").unlink()
    other = replace(config, training=replace(config.training, workers=1))
    train(other, tmp_path / "run", resume=True, console=QUIET)
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state is not None
    save_checkpoint(tmp_path / "run" / "checkpoints", 3, state | {"processes": 2})
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ScmdError, match="started with 2 processes"):
        train(config, tmp_path / "run", resume=True, console=QUIET)


def test_tensorboard_is_told_what_the_log_is(images, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_for(images, None, "erm")
    tracked = replace(config, training=replace(config.training, tracker="tensorboard"))
    train(tracked, tmp_path / "tracked", console=QUIET)
    train(config, tmp_path / "plain", console=QUIET)
    told = EventAccumulator(str(tmp_path / "tracked" / "scmd")).Reload()
    lines = read_metrics(tmp_path / "tracked" / "metrics.jsonl")
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert {e.step: e.value for e in told.Scalars("train/loss")} == pytest.approx(losses)
    means = [line["holdout_accuracy"] for line in lines if "holdout" in line]
    assert [e.value for e in told.Scalars("holdout/mean")] == pytest.approx(means)
    same = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("tracked", "plain")]
    assert same[0] == same[1]


def test_a_tracker_that_is_not_installed(images, tmp_path, monkeypatch):
    monkeypatch.setattr("scmd.machine.get_available_trackers", list)
    config = config_for(images, None, "erm")
    tracked = replace(config, training=replace(config.training, tracker="mlflow"))
    with pytest.raises(ScmdError, match="--tracker mlflow: its package is not installed"):
        train(tracked, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
