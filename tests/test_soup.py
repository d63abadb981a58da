from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from toys import ToyBackbone, ToyTeacher, make_batch

from scmd.cache import Shared
from scmd.cli import main
from scmd.errors import ScmdError
from scmd.methods import SCMD
from scmd.protocol.plan import ProtocolConfig, plan
from scmd.protocol.runner import run_plan
from scmd.protocol.soups import make_soups
from scmd.soup import soup


def weights(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        method = SCMD(ToyBackbone(batch_norm=True), ToyTeacher()).train()
        method(make_batch(seed), 0.9)
    return method.state_dict()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_soup_of_equal_weights_is_the_weights(count: int):
    found = soup([weights(0)] * count)
    for name, value in weights(0).items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype


def test_a_soup_is_the_mean_and_leaves_its_parts_alone():
    parts = [weights(seed) for seed in range(3)]
    parts[1]["backbone.norm.num_batches_tracked"] += 5
    before = [{name: value.clone() for name, value in part.items()} for part in parts]
    found = soup(parts)
    assert list(found) == list(parts[0])
    for name, value in found.items():
        if value.is_floating_point():
            expected = sum(part[name].double() for part in parts) / 3
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value, parts[0][name])
        value.zero_()
    for part, was in zip(parts, before, strict=True):
        assert all(torch.equal(part[name], was[name]) for name in part)
    mean = (parts[0]["backbone.norm.running_mean"] - parts[1]["backbone.norm.running_mean"]).abs()
    assert mean.sum() > 0  # running statistics differ, and were averaged with the rest


def test_a_soup_predicts():
    method = SCMD(ToyBackbone(batch_norm=True), ToyTeacher())
    method.load_state_dict(soup([weights(0), weights(1)]))
    assert method.eval().predict(make_batch().images / 255).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("projection.weight"), "weights 1 have 'projection.weight', weights 3 do"),
        (lambda w: w.update(extra=torch.zeros(1)), "weights 3 have 'extra', weights 1 do not"),
        (
            lambda w: w.update({"classifier.weight": torch.zeros(9, 6)}),
            r"'classifier.weight' is \[4, 6\] float32 in weights 1, \[9, 6\] float32 in weights 3",
        ),
        (
            lambda w: w.update({"classifier.bias": torch.zeros(4).half()}),
            r"'classifier.bias' is \[4\] float32 in weights 1, \[4\] float16 in weights 3",
        ),
    ],
)
def test_the_first_mismatch_is_named(change: Any, message: str):
    parts = [weights(seed) for seed in range(3)]
    change(parts[2])
    with pytest.raises(ScmdError, match=message):
        soup(parts)


def test_nothing_makes_no_soup():
    with pytest.raises(ScmdError, match="no weights to average"):
        soup([])


def test_a_soup_is_used_but_not_handed_on(
    image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """What is said of it names a run that can be."""
    images, out = image_folder(("art", "photo"), count=6), tmp_path / "comparison"
    settings = (
        "student.name=test_efficientnet", "student.pretrained=false", "data.image_size=24",
        "training.steps=2", "training.batch_per_domain=4", "training.workers=0",
        "average.average=none",
    )  # fmt: skip
    config = ProtocolConfig(str(images), methods="erm", targets="art", trials=2, set=settings)
    runs = plan(config)
    assert run_plan(runs, out, Console(quiet=True)) == []
    assert len(make_soups(out, Shared())) == 1
    (folder,) = out.glob("*+soup-*")
    capsys.readouterr()

    def export(run: Path) -> int:
        return main(["export", str(run), "--out", str(tmp_path / "exported"), "--to", "torch"])

    def push(run: Path) -> int:
        return main(["push", str(run), "someone/pets", "--dry-run", str(tmp_path / "staged")])

    first = out / min(run.name for run in runs)
    for hand_on in (export, push):
        assert hand_on(folder) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{folder} is a soup" in line
        assert line.endswith(f"Give one of them, such as {first}")
        assert hand_on(first) == 0
        capsys.readouterr()
    assert main(["predict", str(folder), str(images), "--workers", "0"]) == 0
    assert main(["evaluate", str(folder), str(images), "--workers", "0"]) == 0
