"""The teacher fitted on the sources, as a row of a comparison."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import DOMAINS, tiny
from PIL import Image
from rich.console import Console
from torch import Tensor

import scmd.fit as fitting
import scmd.protocol.fine_tuning as fine_tuning
import scmd.protocol.references as references
from scmd.build import Roles, assign_roles
from scmd.cache import Shared
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.fit import fit_teacher
from scmd.models.fit_config import FitConfig
from scmd.protocol.dry_run import print_plan
from scmd.protocol.fine_tuning import TEACHER, fit_config
from scmd.protocol.plan import PlannedRun, plan
from scmd.protocol.present import TablesConfig, tables_of
from scmd.protocol.records import read_runs
from scmd.protocol.references import measure_reference
from scmd.protocol.runner import DONE, run_plan
from scmd.run_folder import SUMMARY

QUIET = Console(quiet=True)


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=6)


def planned(images: Path, teacher: Path, **changes: Any) -> list[PlannedRun]:
    settings = {"methods": "fine-tuned", "targets": "art", "trials": 1} | changes
    return plan(tiny(images, teacher, **settings))


def measured(run: PlannedRun, out: Path) -> dict[str, Any]:
    return measure_reference(run, out, Shared())


def same(summary: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {key: value for key, value in summary.items() if key != "training_seconds"}


def test_it_is_what_teacher_fit_makes_of_the_sources(images, clip_folder, tmp_path):
    (run,) = planned(images, clip_folder)
    summary = measured(run, tmp_path / "run")
    config = fit_config(run, assign_roles(run.config))
    assert config.domains == ("photo", "sketch")
    assert (config.steps, config.batch_per_domain, config.lr) == (8, 4, FitConfig.lr)
    card = fit_teacher(config, tmp_path / "by hand", console=QUIET)
    teacher = replace(run.config.teacher, name=str(tmp_path / "by hand"))
    expected = evaluate_teacher(teacher, load_domains(images), 0)["results"]["art"]
    found = {key: value for key, value in summary["results"]["art"].items() if key != "role"}
    assert found == expected
    assert summary["teacher"]["card"] == card
    assert summary["teacher"]["fitted_on_domains"] == ["photo", "sketch"]
    assert card["seen"]["domains"] == ["photo", "sketch"]
    assert card["captions"] == ["this is a photo of a {class}"]  # as it is asked
    # It is not what it was, its folder reads as a run's, and it is in it no more.
    before = evaluate_teacher(run.config.teacher, load_domains(images), 0)["results"]["art"]
    assert found["ece"] != before["ece"]
    ((record,), unfinished) = read_runs([tmp_path / "run"])
    assert not unfinished
    assert record.summary == summary
    assert not (tmp_path / "run" / TEACHER).exists()


def test_nothing_of_the_target_reaches_it(images, clip_folder, tmp_path, monkeypatch):
    """Whatever the target's images are, the fitted teacher says the same of the others."""
    said = []
    summary_of = references._summary

    def spy(run: PlannedRun, roles: Roles, logits: Tensor) -> dict[str, Any]:
        said.append(logits[torch.from_numpy(roles.data.domain_index != 0)])
        return summary_of(run, roles, logits)

    monkeypatch.setattr(references, "_summary", spy)
    for name in ("first", "second"):
        (run,) = planned(images, clip_folder)
        measured(run, tmp_path / name)
        for path in (images / "art").glob("*/*.png"):
            Image.fromarray(np.full((16, 16, 3), 200, dtype=np.uint8)).save(path)
    assert torch.equal(*said)


class BrokenError(Exception):
    """Ends an attempt."""


def test_what_is_stopped_goes_on_from_its_checkpoint(images, clip_folder, tmp_path, monkeypatch):
    (run,) = planned(images, clip_folder)
    expected = measured(run, tmp_path / "whole")
    saved, steps = fitting.save_checkpoint, []

    def save(folder: Path, step: int, state: Any) -> None:
        saved(folder, step, state)
        steps.append(step)
        if len(steps) == 1:
            raise BrokenError

    monkeypatch.setattr(fitting, "save_checkpoint", save)
    with pytest.raises(BrokenError):
        measured(run, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / SUMMARY).exists()
    # With other workers, on which nothing depends.
    training = replace(run.config.training, workers=1)
    again = replace(run, config=replace(run.config, training=training))
    assert same(measured(again, tmp_path / "stopped")) == same(expected)
    assert steps == [3, 6, 8]


def test_an_attempt_that_ended_before_it_began_or_at_the_very_end_is_done_over(
    images, clip_folder, tmp_path, monkeypatch
):
    (run,) = planned(images, clip_folder)
    out = tmp_path / "run"
    (out / TEACHER).mkdir(parents=True)
    (out / TEACHER / "open_clip_model.safetensors").write_bytes(b"half of it")
    summary = measured(run, out)
    (out / TEACHER).mkdir()  # what a removal that was stopped leaves
    monkeypatch.setattr(fine_tuning, "fit_teacher", lambda *args: pytest.fail("fitted again"))
    assert measured(run, out) == summary == read_json(out / SUMMARY)
    assert not (out / TEACHER).exists()


def test_a_source_image_that_cannot_be_decoded_is_named(images, clip_folder, tmp_path):
    (run,) = planned(images, clip_folder, set=("data.skip_bad=true",))
    (images / "art/cat/000.png").write_bytes(b"no image")
    assert measured(run, tmp_path / "target")["results"]["art"]["n"] == 11
    (images / "photo/dog/001.png").write_bytes(b"no image")
    with pytest.raises(ScmdError, match=r"1 images of the sources .*photo/dog/001.png. Repair"):
        measured(run, tmp_path / "source")


def test_captions_are_the_prompts_unless_those_are_of_single_classes(images, clip_folder, tmp_path):
    change = 'teacher.prompts.templates=["a {}", "the {}"]'
    (run,) = planned(images, clip_folder, set=(change,))
    roles = assign_roles(run.config)
    assert fit_config(run, roles).captions == ("a {class}", "the {class}")
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('cat = ["a cat"]\ndog = ["a dog"]\n')
    (run,) = planned(images, clip_folder, set=(f"teacher.prompts.file={prompts}",))
    assert fit_config(run, roles).captions == FitConfig.captions


def test_a_search_draws_the_learning_rate(images, clip_folder):
    runs = planned(images, clip_folder, search=3)
    roles = assign_roles(runs[0].config)
    rates = [fit_config(run, roles).lr for run in runs]
    assert rates[0] == FitConfig.lr
    assert len(set(rates)) == 3
    assert all(1e-6 <= rate < 1e-4 for rate in rates)
    (_, given) = planned(images, clip_folder, search=2, set=("search.fine-tuned.lr=[0.5]",))
    assert fit_config(given, roles).lr == 0.5
    with pytest.raises(ScmdError, match=r"search.fine-tuned.c: fine-tuned has no hyper-parameter"):
        planned(images, clip_folder, set=("search.fine-tuned.c=[1.0]",))


def test_it_is_a_row_beside_the_others(images, clip_folder, tmp_path, capsys):
    runs = planned(images, clip_folder, methods="zero-shot,linear-probe,fine-tuned,erm")
    out = tmp_path / "out"
    print_plan(runs, out, Console(width=100))
    assert "not timed before one is finished" in capsys.readouterr().out
    assert run_plan(runs, out, QUIET) == []
    assert all((out / run.name / DONE).exists() for run in runs)
    table = tables_of(TablesConfig((out,)))
    for name in ("zero-shot", "linear-probe", "fine-tuned", "erm"):
        assert f"\n  {name} " in table
    shutil.rmtree(out)
