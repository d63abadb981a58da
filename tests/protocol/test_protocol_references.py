"""The teacher as a row of a comparison: zero-shot, and with a linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import DOMAINS, tiny

import scmd.protocol.references as references
from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.protocol.plan import PlannedRun, plan
from scmd.protocol.records import read_runs
from scmd.protocol.references import embed, measure_reference
from scmd.records import read_metrics
from scmd.run_folder import METRICS, SUMMARY


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=10)


def planned(images: Path, teacher: Path, label: str, **changes: Any) -> list[PlannedRun]:
    return plan(tiny(images, teacher, methods=label, **{"targets": "art", "trials": 1} | changes))


def toy_embeddings(monkeypatch, values) -> None:
    """Embeddings that are a function of data and roles, in the place of the teacher's."""
    monkeypatch.setattr(
        references, "embed", lambda teacher, roles, workers: torch.tensor(values(roles)).float()
    )


def test_zero_shot_is_what_teacher_eval_measures(images, clip_folder, tmp_path):
    shared = Shared()
    runs = planned(images, clip_folder, "zero-shot", targets="all", trials=2)
    expected = evaluate_teacher(runs[0].config.teacher, load_domains(images), 0)["results"]
    for run in runs:
        summary = measure_reference(run, tmp_path / run.name, shared)
        result = summary["results"][run.target]
        same = {key: value for key, value in result.items() if key != "role"}
        assert same == expected[run.target]


def test_its_folder_reads_as_a_runs(images, clip_folder, tmp_path):
    (run,) = planned(images, clip_folder, "linear-probe")
    summary = measure_reference(run, tmp_path / "run", Shared())
    ((record,), unfinished) = read_runs([tmp_path / "run"])
    assert not unfinished
    assert record.summary == summary
    assert record.config == run.config
    (line,) = record.lines
    assert set(line["holdout"]) == {"photo", "sketch"}
    assert line["holdout_accuracy"] == pytest.approx(np.mean(list(line["holdout"].values())))
    scores = line["held_out"]["art"]
    assert scores["accuracy"] == summary["results"]["art"]["accuracy"]
    parts = 0.8 * scores["domainbed_part"] + 0.2 * scores["holdout"]
    assert scores["accuracy"] == pytest.approx(parts)


def test_the_teacher_is_asked_once_for_all_references(images, clip_folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(references, "embed", lambda *args: asked.append(1) or embed(*args))
    shared = Shared()
    for label in ("zero-shot", "linear-probe"):
        for run in planned(images, clip_folder, label, targets="all", search=2):
            measure_reference(run, tmp_path / run.name, shared)
    assert len(asked) == 1


def test_embeddings_are_normalised(images, clip_folder):
    (run,) = planned(images, clip_folder, "zero-shot")
    roles = assign_roles(run.config)
    found = embed(Shared().teacher(run.config.teacher, roles.data.classes), roles, 0)
    assert found.shape == (60, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(60))


def test_probe_is_perfect_where_classes_can_be_told_apart(
    images, clip_folder, tmp_path, monkeypatch
):
    def values(roles):
        noise = np.random.default_rng(0).normal(size=(len(roles.data), 4))
        noise[:, 0] = 20 * roles.data.labels + 0.1 * noise[:, 0]
        return noise

    toy_embeddings(monkeypatch, values)
    (run,) = planned(images, clip_folder, "linear-probe")
    summary = measure_reference(run, tmp_path / "run", Shared())
    assert summary["results"]["art"]["accuracy"] == 1
    assert summary["model_selection"]["line"]["holdout_accuracy"] == 1


def test_probe_learns_from_the_sources_training_part_only(
    images, clip_folder, tmp_path, monkeypatch
):
    """Whatever the embeddings of the other images are, those of the rest fare the same."""
    results = []
    for other in ("target", "target-holdout", "holdout"):

        def values(roles, other=other):
            noise = np.random.default_rng(1).normal(size=(len(roles.data), 4))
            noise[roles.split == other] = 100.0
            return noise

        toy_embeddings(monkeypatch, values)
        (run,) = planned(images, clip_folder, "linear-probe")
        line = measure_reference(run, tmp_path / other, Shared())["model_selection"]["line"]
        scores = line["held_out"]["art"]
        results.append((line["holdout_accuracy"], scores["domainbed_part"], scores["holdout"]))
    assert results[0][0] == results[1][0]
    assert results[1][1] == results[2][1]
    assert results[0][2] == results[2][2]


def test_a_class_without_a_training_image_is_never_predicted(
    image_folder, clip_folder, tmp_path, monkeypatch
):
    """Its place is in the middle of the classes, so that a shifted column would be seen."""
    count = {(d, "cow"): 0 for d in DOMAINS[1:]} | {("art", "cow"): 4}
    images = image_folder(DOMAINS, ("cat", "cow", "dog"), count=count)
    toy_embeddings(monkeypatch, lambda roles: 1.0 + np.eye(3)[roles.data.labels])
    (run,) = planned(
        images, clip_folder, "linear-probe", set=("data.classes=union", "data.holdout=0.34")
    )
    summary = measure_reference(run, tmp_path / "run", Shared())
    result = summary["results"]["art"]
    assert np.array(result["confusion"])[:, 1].tolist() == [0, 0, 0]
    assert {name: c["accuracy"] for name, c in result["per_class"].items()} == {
        "cat": 1, "cow": 0, "dog": 1,
    }  # fmt: skip
    assert np.isfinite(result["ece"])


def test_a_stronger_penalty_is_another_probe(images, clip_folder, tmp_path):
    """Draws change it; with c next to nothing only the most frequent class is left."""
    changes: dict[str, Any] = {"search": 2, "set": ("search.linear-probe.c=[1e-9]",)}
    weak, strong = planned(images, clip_folder, "linear-probe", **changes)
    assert (weak.drawn, strong.drawn) == ({}, {"c": 1e-9})
    results = [
        measure_reference(run, tmp_path / run.name, Shared())["results"]["art"]["ece"]
        for run in (weak, strong)
    ]
    assert results[0] != results[1]


def test_bad_images_are_left_out_where_they_are_to_be(images, clip_folder, tmp_path):
    for name in ("art/cat/000.png", "photo/dog/001.png"):
        (images / name).write_bytes(b"no image")
    for label in ("zero-shot", "linear-probe"):
        (run,) = planned(images, clip_folder, label, set=("data.skip_bad=true",))
        summary = measure_reference(run, tmp_path / label, Shared())
        assert summary["results"]["art"]["n"] == 19


def test_the_teacher_is_measured_on_what_it_says_it_has_seen(images, clip_folder, tmp_path):
    (run,) = planned(images, clip_folder, "zero-shot")
    summary = measure_reference(run, tmp_path / "run", Shared())
    assert summary["teacher"] == {"name": str(clip_folder), "fitted_on_domains": []}
    assert (summary["steps"], summary["sources"]) == (0, ["photo", "sketch"])
    assert len(read_metrics(tmp_path / "run" / METRICS)) == 1
    assert (tmp_path / "run" / SUMMARY).exists()
