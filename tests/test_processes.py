"""Two processes that share a batch take the steps of one, to rounding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from killing import Child, training
from rich.console import Console

from scmd.averaging import AverageConfig
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.deploy.classifier import load
from scmd.errors import ScmdError
from scmd.loop import train
from scmd.machine import open_accelerator
from scmd.methods import METHODS
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.records import read_metrics
from scmd.run_folder import METRICS, SELECTION
from scmd.selection import SelectionConfig, select, select_over_processes
from scmd.stepping import Stepper

STEPS = 5


def config_for(images: Path, teacher: Path, method: str = "scmd", **selection: Any) -> RunConfig:
    hparams = METHODS[method].Config(lr=1e-3)
    if selection:
        hparams = replace(hparams, selection=SelectionConfig(**selection))
    return RunConfig(
        method=method,
        data=DataConfig(path=str(images), target="sketch", image_size=24),
        student=StudentConfig(name="test_efficientnet", pretrained=False, freeze_batch_norm=True),
        teacher=TeacherConfig(str(teacher)),
        hparams=hparams,
        training=TrainingConfig(
            steps=STEPS,
            batch_per_domain=4,
            evaluate_every=4,
            log_every=1,
            workers=0,
            device="cpu",
        ),
        average=AverageConfig(average_start=2),
    )


@pytest.mark.parametrize(
    ("method", "selection"),
    [
        ("scmd", {"fraction": 0.5}),
        ("scmd", {"fraction": 0.1}),  # one sample: the other process keeps nothing
        ("scmd", {"fraction": 0.5, "scope": "domain"}),
        ("scmd", {"fraction": 0.5, "rule": "kd-loss"}),
        ("scmd", {"fraction": 0.4, "rule": "random"}),
        ("scmd", {"rule": "all"}),
        ("kd", {}),
    ],
    ids=str,
)
def test_two_processes_equal_one(image_folder, clip_folder, tmp_path, method, selection):
    images = image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)
    config = config_for(images, clip_folder, method, **selection)
    for name, processes in (("one", 1), ("two", 2)):
        work = training(config, tmp_path / name, tmp_path / "cache")
        assert set(Child(work, processes).wait()) == {0}
    one, two = (read_metrics(tmp_path / name / METRICS) for name in ("one", "two"))
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for a, b in zip(one, two, strict=True):
        for part in a.keys() - {"holdout", "step"}:
            assert b[part] == pytest.approx(a[part], rel=1e-3, abs=1e-5), (part, a, b)
    a, b = (load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-3)
    if method == "scmd":
        kept = [
            {
                (row["step"], row["sample_id"])
                for row in pq.read_table(tmp_path / name / SELECTION).to_pylist()
                if row["kept"]
            }
            for name in ("one", "two")
        ]
        assert kept[0] == kept[1]
        # The same losses, too, where they are there at all.
        tables = [
            pq.read_table(tmp_path / name / SELECTION).sort_by(
                [("step", "ascending"), ("sample_id", "ascending"), ("loss", "ascending")]
            )
            for name in ("one", "two")
        ]
        losses = [table["loss"].to_numpy() for table in tables]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2, atol=1e-3)


def test_what_is_said_to_a_terminal_stops_nobody(image_folder, clip_folder, tmp_path):
    """One process speaks, and must not take a step for that: the others would not take it."""
    images = image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)
    config = config_for(images, clip_folder, fraction=0.5)

    def work() -> None:
        with (tmp_path / "said").open("a") as file:
            train(config, tmp_path / "out", console=Console(file=file))

    assert set(Child(work, 2).wait()) == {0}
    assert "scmd on art, photo" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_loss_that_is_not_finite_is_of_the_process_that_has_it(
    image_folder, clip_folder, tmp_path, spoilt
):
    images = image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)
    config = config_for(images, clip_folder, fraction=0.5)
    step = Stepper.step

    def work() -> None:
        def spoiling(self, batch, number):
            taken = step(self, batch, number)
            if number == 2 and self.accelerator.process_index == spoilt:
                taken.parts["loss"] = taken.parts["loss"] * float("nan")
                (tmp_path / "ids").write_text(str(batch.sample_ids.tolist()))
            return taken

        Stepper.step = spoiling  # type: ignore[method-assign]
        train(config, tmp_path / "out", console=Console(quiet=True))

    assert set(Child(work, 2).wait()) == {1}
    about = json.loads((tmp_path / "out" / "not_finite.json").read_text())
    assert about["step"] == 2
    assert str(about["sample_ids"]) == (tmp_path / "ids").read_text()


def test_one_process_selects_as_ever():
    losses, domains = torch.rand(12), torch.arange(3).repeat_interleave(4)
    config = SelectionConfig(fraction=0.3)
    chosen = select_over_processes(losses, domains, config)
    assert torch.equal(chosen.kept, select(losses, domains, config))
    assert chosen.trained is chosen.kept
    assert chosen.weight == 1


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("scope", ["batch", "domain"])
def test_ties_fall_as_in_one_process(tmp_path, processes, scope):
    """Of equal losses the earlier in the whole batch is kept, whoever has it."""
    from torch import distributed as dist

    losses = torch.tensor([1.0, 2, 2, 2, 2, 1, 2, 2, 1, 1, 2, 1, 2, 2, 2, 2, 1, 1])
    domains = torch.arange(3).repeat_interleave(6)
    config = SelectionConfig(fraction=0.4, scope=scope)

    def work() -> None:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        chosen = select_over_processes(losses[rank::processes], domains[rank::processes], config)
        assert chosen.weight * len(losses) / processes >= 0
        torch.save([chosen.kept, torch.as_tensor(chosen.weight)], tmp_path / str(rank))

    assert set(Child(work, processes).wait()) == {0}
    found = [torch.load(tmp_path / str(rank)) for rank in range(processes)]
    kept = torch.stack([kept for kept, _ in found], 1).flatten()
    assert torch.equal(kept, select(losses, domains, config))
    for own, weight in found:
        assert weight == pytest.approx(processes * own.sum() / kept.sum())


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ScmdError, match=r"2 processes and 1 GPU on .* --nproc-per-node 1, or"):
        open_accelerator("fp32", "auto")
    assert open_accelerator("fp32", "cpu").device.type == "cpu"
