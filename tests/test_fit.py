"""A teacher of one's own: the loss, the weights, and what ends up in its folder."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import scmd.fit as fitting
from scmd.build import build_method
from scmd.config import DataConfig, RunConfig
from scmd.data.folder import load_domains
from scmd.data.splits import holdout_mask
from scmd.errors import ScmdError, ScmdWarning
from scmd.fit import fit_teacher, schedule
from scmd.models.fit import caption, contrastive, interpolate, open_start
from scmd.models.fit_config import FitConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig, load_teacher

QUIET = Console(quiet=True)
TOWER = "test_efficientnet"


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo"), ("cat", "dog"), count=5)


@pytest.fixture
def model_file(tmp_path) -> Path:
    """A small architecture with a timm image tower, as a JSON file."""
    vision = {"timm_model_name": TOWER, "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def config(images, model_file) -> FitConfig:
    return FitConfig(
        data=str(images), model=str(model_file), from_scratch=True, steps=4, batch_per_domain=2,
        lr=1e-3, checkpoint_every=2, workers=0,
    )  # fmt: skip


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_contrastive_is_clips_loss_where_all_classes_differ():
    images, texts = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    labels, scale = torch.arange(5), torch.tensor(7.0)
    features = open_clip.ClipLoss()(images, texts, scale)
    assert contrastive(images, texts, labels, scale) == pytest.approx(float(features), rel=1e-5)


def test_contrastive_with_several_positives_in_closed_form():
    # Two classes at right angles, two images each: with scale s a row has two logits s and two 0.
    a, b = [1.0, 0.0], [0.0, 1.0]
    points, labels, s = unit(a, a, b, b), torch.tensor([0, 0, 1, 1]), 3.0
    expected = np.log(2 * np.exp(s) + 2) - s  # each positive has half of the target
    assert contrastive(points, points, labels, torch.tensor(s)) == pytest.approx(expected, rel=1e-6)
    # A class of its own for every image would punish equal captions of one class.
    alone = contrastive(points, points, torch.arange(4), torch.tensor(s))
    assert alone == pytest.approx(expected, rel=1e-6)  # equal logits: the same, by symmetry
    # One class: the target is uniform, and so is the best softmax.
    same = contrastive(
        unit(a, a, a), unit(a, a, a), torch.zeros(3, dtype=torch.long), torch.ones(1)
    )
    assert float(same) == pytest.approx(np.log(3), rel=1e-6)


def test_contrastive_treats_an_unlike_caption_of_the_same_class_as_positive():
    images = unit([1.0, 0.0], [0.0, 1.0]).requires_grad_()
    texts = unit([1.0, 0.0], [0.0, 1.0])
    contrastive(images, texts, torch.tensor([0, 0]), torch.tensor(5.0)).backward()
    assert images.grad is not None
    # The first image is pulled towards the second's caption; with other labels, pushed away.
    assert images.grad[0, 1] < 0
    images.grad = None
    contrastive(images, texts, torch.tensor([0, 1]), torch.tensor(5.0)).backward()
    assert images.grad is not None
    assert images.grad[0, 1] > 0


def test_interpolation_has_its_endpoints_and_is_linear_between():
    start, fitted = ({"w": torch.randn(3), "n": torch.tensor(i)} for i in (1, 2))
    for alpha, expected in ((0.0, start["w"]), (1.0, fitted["w"])):
        assert torch.equal(interpolate(start, fitted, alpha)["w"], expected)
    middle = interpolate(start, fitted, 0.25)
    torch.testing.assert_close(middle["w"], 0.75 * start["w"] + 0.25 * fitted["w"])
    assert middle["n"] == 2


def test_fitted_teacher_loads_through_open_clip_itself(config, tmp_path):
    fit_teacher(config, tmp_path / "teacher", console=QUIET)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'teacher'}", require_pretrained=True)
    saved = load_file(tmp_path / "teacher" / "open_clip_model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name])
    teacher = load_teacher(TeacherConfig(str(tmp_path / "teacher")), ("cat", "dog"))
    assert teacher.image_size == 32
    assert teacher.normalize.std.flatten().tolist() == [0.25] * 3


def test_result_does_not_depend_on_decoding_once_but_on_the_augmentation(config, tmp_path):
    found = []
    for number, changes in enumerate(
        ({"decode_once": False}, {}, {"workers": 1}, {"augmentation": "torchvision"})
    ):
        fit_teacher(replace(config, **changes), tmp_path / str(number), console=QUIET)
        found.append(load_file(tmp_path / str(number) / "open_clip_model.safetensors"))
    first, *others = found
    equal = [all(torch.equal(first[n], other[n]) for n in first) for other in others]
    assert equal == [True, True, False]


def test_card_says_what_it_has_seen_and_the_holdout_is_not_among_it(config, tmp_path, monkeypatch):
    seen: list[int] = []
    batches = fitting.training_batches

    def spy(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            seen.extend(batch.sample_ids.tolist())
            yield batch

    monkeypatch.setattr(fitting, "training_batches", spy)
    card = fit_teacher(replace(config, steps=12), tmp_path / "teacher", console=QUIET)
    data = load_domains(config.data)
    held_out = holdout_mask(data, 0.2, 0)
    assert set(seen) == set(data.ids[~held_out].tolist())
    assert card["seen"]["images"] == 16
    assert card["seen"]["domains"] == ["art", "photo"]
    assert {d: r["n"] for d, r in card["zero_shot_on_held_out_images"].items()} == {
        "art": 2, "photo": 2,
    }  # fmt: skip
    assert card["started_from"] == "random weights"
    assert "symmetric" in card["image_tower"]
    assert json.loads((tmp_path / "teacher" / "teacher.json").read_text()) == card
    names = {path.name for path in (tmp_path / "teacher").iterdir()} - {".lock"}
    assert names == {
        "open_clip_config.json", "open_clip_model.safetensors", "teacher.json", "fit.json",
    }  # fmt: skip


def test_what_a_teacher_was_fitted_from_is_seen_as_well(config, tmp_path):
    fit_teacher(replace(config, domains=("photo",)), tmp_path / "first", console=QUIET)
    further = replace(
        config, model=str(tmp_path / "first"), from_scratch=False, image_tower_weights=None,
        domains=("art",),
    )  # fmt: skip
    card = fit_teacher(further, tmp_path / "second", console=QUIET)
    assert card["seen"]["domains"] == ["art", "photo"]


def test_domains_that_were_not_asked_for_are_not_seen(config, tmp_path):
    card = fit_teacher(replace(config, domains=("photo",)), tmp_path / "teacher", console=QUIET)
    assert card["seen"]["domains"] == ["photo"]
    assert card["seen"]["images"] == 8
    assert list(card["zero_shot_on_held_out_images"]) == ["photo"]


def test_resumed_equals_uninterrupted(config, tmp_path, monkeypatch):
    fit_teacher(config, tmp_path / "whole", console=QUIET)
    loss = fitting._loss

    def stopping(model, batch, normalize, captions, step):
        if step == 3:
            raise KeyboardInterrupt
        return loss(model, batch, normalize, captions, step)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit_teacher(config, tmp_path / "stopped", console=QUIET)
    assert not (tmp_path / "stopped" / "open_clip_model.safetensors").exists()
    fit_teacher(config, tmp_path / "stopped", resume=True, console=QUIET)
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        whole, stopped = (tmp_path / run / name for run in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes()


def test_resuming_is_free_in_what_has_no_effect_on_the_weights(config, tmp_path, monkeypatch):
    fit_teacher(config, tmp_path / "whole", console=QUIET)
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            fit_teacher(config, tmp_path / "stopped", console=QUIET)
    other = replace(config, workers=1, checkpoint_every=1, decode_once=False)
    fit_teacher(other, tmp_path / "stopped", resume=True, console=QUIET)
    whole, stopped = (
        tmp_path / run / "open_clip_model.safetensors" for run in ("whole", "stopped")
    )
    assert whole.read_bytes() == stopped.read_bytes()


def test_fine_tuning_starts_from_the_weights_and_interpolates_back(config, clip_folder, tmp_path):
    tuned = replace(config, model=str(clip_folder), from_scratch=False, interpolate=0.0)
    fit_teacher(tuned, tmp_path / "start", console=QUIET)
    fit_teacher(replace(tuned, interpolate=1.0), tmp_path / "end", console=QUIET)
    fit_teacher(replace(tuned, interpolate=0.5), tmp_path / "half", console=QUIET)
    folders = (clip_folder, *(tmp_path / name for name in ("start", "end", "half")))
    before, start, end, half = (load_file(f / "open_clip_model.safetensors") for f in folders)
    for name in before:
        assert torch.equal(start[name], before[name])
        torch.testing.assert_close(half[name], (before[name] + end[name]) / 2)
    assert any(not torch.equal(end[name], before[name]) for name in before)


def test_image_tower_weights_reach_the_trunk(model_file, tmp_path):
    donor = timm.create_model(TOWER, num_classes=11)
    save_file(donor.state_dict(), tmp_path / "tower.safetensors")
    start = open_start(str(model_file), True, tmp_path / "tower.safetensors")
    for name, value in start.model.visual.trunk.state_dict().items():
        assert torch.equal(value, donor.state_dict()[name])
    state = donor.state_dict()
    del state["conv_stem.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(ScmdError, match=r"cut\.safetensors does not fit.*no conv_stem\.weight"):
        open_start(str(model_file), True, tmp_path / "cut.safetensors")


def test_image_tower_weights_need_a_timm_tower(clip_folder, tmp_path):
    with pytest.raises(ScmdError, match="the image tower is not a timm model"):
        open_start(str(clip_folder), False, tmp_path / "tower.safetensors")


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics(config, tmp_path, frozen):
    torch.manual_seed(config.seed)
    before = open_start(config.model, True).model.state_dict()
    fit_teacher(replace(config, freeze_batch_norm=frozen), tmp_path / "teacher", console=QUIET)
    after = load_file(tmp_path / "teacher" / "open_clip_model.safetensors")
    statistics = [name for name in before if name.endswith("running_mean")]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics) == frozen


def test_half_stores_fp16(config, tmp_path):
    fit_teacher(replace(config, half=True), tmp_path / "teacher", console=QUIET)
    saved = load_file(tmp_path / "teacher" / "open_clip_model.safetensors")
    assert {v.dtype for v in saved.values() if v.is_floating_point()} == {torch.float16}
    load_teacher(TeacherConfig(str(tmp_path / "teacher")), ("cat", "dog"))


def test_captions():
    assert caption("a {domain} of a {class}", "sea lion", "art_painting") == (
        "a art painting of a sea lion"
    )
    with pytest.raises(ScmdError, match=r"'a photo'.*\{class\}"):
        FitConfig(captions=("a photo",))


def test_schedule_rises_then_falls_to_nothing():
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 1e-3


def test_bad_input_is_clear_and_leaves_nothing(config, tmp_path, clip_folder):
    wrong: list[tuple[FitConfig, str]] = [
        (replace(config, data=""), "no data given"),
        (replace(config, data="nowhere"), "no such folder or manifest"),
        (replace(config, domains=("phto",)), "Did you mean 'photo'"),
        (replace(config, from_scratch=False), "has no weights. Pass --from-scratch"),
        (replace(config, model="nowhere"), "neither a folder nor a model"),
        (replace(config, model="ViT-B-32", from_scratch=False), "names no weights"),
    ]
    for bad, message in wrong:
        with pytest.raises(ScmdError, match=message):
            fit_teacher(bad, tmp_path / "teacher", console=QUIET)
        assert not (tmp_path / "teacher").exists()
    with pytest.raises(ScmdError, match="holds a teacher already"):
        fit_teacher(config, clip_folder, console=QUIET)
    fit_teacher(config, tmp_path / "teacher", console=QUIET)
    for finished in (True, False):
        if not finished:
            (tmp_path / "teacher" / "teacher.json").unlink()
        with pytest.raises(ScmdError, match=r"other settings \(lr: 0.001 -> 0.5\)"):
            fit_teacher(replace(config, lr=0.5), tmp_path / "teacher", resume=True, console=QUIET)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").touch()
    with pytest.raises(ScmdError, match="not empty and holds no teacher"):
        fit_teacher(config, tmp_path / "letters", console=QUIET)


def sizes_seen(config: FitConfig, model_file: Path, out: Path) -> set[tuple[int, int]]:
    """Height and width of what the image tower is shown in a fit."""
    sizes = set()
    start = open_start(str(model_file), from_scratch=True)
    start.model.visual.register_forward_pre_hook(lambda _, args: sizes.add(args[0].shape[2:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scmd.fit.open_start", lambda *_: start)
        fit_teacher(config, out, console=QUIET)
    return sizes


@pytest.mark.parametrize("bare", [False, True], ids=["without a size", "model_cfg alone"])
def test_images_have_the_size_of_the_image_tower(config, model_file, tmp_path, bare):
    given = json.loads(model_file.read_text())
    del given["preprocess_cfg"]["size"]
    model_file.write_text(json.dumps(given["model_cfg"] if bare else given))
    assert sizes_seen(config, model_file, tmp_path / "teacher") == {(32, 32)}
    saved = json.loads((tmp_path / "teacher" / "open_clip_config.json").read_text())
    assert saved["preprocess_cfg"]["size"] in (32, [32, 32])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no model_cfg"),
        ({"embed_dim": 8}, "no model_cfg"),
        ({"model_cfg": 3}, "no model_cfg"),
        ({"model_cfg": {"vision_cfg": {}}}, "no text_cfg"),
        ({"vision_cfg": {}, "text_cfg": 1}, "no text_cfg"),
        ({"model_cfg": {"vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": 3}, "no mapping"),
    ],
)
def test_what_is_no_architecture_is_said(config, model_file, tmp_path, given, message):
    model_file.write_text(json.dumps(given))
    with pytest.raises(ScmdError, match=message):
        fit_teacher(config, tmp_path / "teacher", console=QUIET)
    assert not (tmp_path / "teacher").exists()


def test_training_warns_where_the_teacher_has_seen_the_target(config, images, tmp_path):
    fit_teacher(replace(config, domains=("photo",)), tmp_path / "teacher", console=QUIET)
    run = RunConfig(
        data=DataConfig(str(images), target="photo", image_size=32),
        student=StudentConfig(TOWER, pretrained=False),
        teacher=TeacherConfig(str(tmp_path / "teacher")),
    )
    with pytest.warns(ScmdWarning, match="was fitted on images of 'photo', held out here"):
        build_method(run, ("cat", "dog"), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScmdWarning)
        build_method(replace(run, data=replace(run.data, target="art")), ("cat", "dog"), 2)


def changed(model_file: Path, part: str = "", **values: object) -> Path:
    """The architecture with other values, in ``part`` of its model_cfg or at its top."""
    given = json.loads(model_file.read_text())
    where = given["model_cfg"][part] if part else given["model_cfg"]
    where.update(values)
    model_file.write_text(json.dumps(given))
    return model_file


NATIVE = {"image_size": [32, 48], "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}


@pytest.mark.parametrize("vision", [{"image_size": [32, 48]}, {"timm_model_name": None, **NATIVE}])
def test_images_of_a_tower_that_is_not_square_have_both_its_sides(
    config, model_file, tmp_path, vision
):
    changed(model_file, "vision_cfg", **vision)
    assert sizes_seen(config, model_file, tmp_path / "teacher") == {(32, 48)}
    teacher = load_teacher(TeacherConfig(str(tmp_path / "teacher")), ("cat", "dog"))
    assert teacher.image_size == 48


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("text_cfg", {"vocab_size": 1000}, "index out of range"),
        ("vision_cfg", {"timm_model_name": "vit_tiny_patch16_224"}, "Input height"),
        ("vision_cfg", {"timm_proj": "none"}, "shapes cannot be multiplied"),
    ],
)
def test_a_model_that_does_not_compute_is_said_before_anything_is_written(
    config, model_file, tmp_path, part, values, message
):
    changed(model_file, part, **values)
    with pytest.raises(ScmdError, match=message) as error:
        fit_teacher(config, tmp_path / "teacher", console=QUIET)
    assert str(model_file) in str(error.value)
    assert not (tmp_path / "teacher").exists()


def test_the_card_says_with_which_prompt_it_asked(config, tmp_path):
    card = fit_teacher(replace(config, captions=("a {class}",)), tmp_path / "t", console=QUIET)
    assert card["asked_with"] == ["this is a photo of a {}"]


def test_the_card_asks_with_the_names_that_the_captions_had(config, tmp_path, monkeypatch):
    (tmp_path / "names.json").write_text('{"cat": "hound", "dog": "tabby"}')
    asked: list[str] = []
    tokenize = open_clip.SimpleTokenizer.__call__

    def listening(self, texts, *rest):
        asked.extend(texts)
        return tokenize(self, texts, *rest)

    monkeypatch.setattr(open_clip.SimpleTokenizer, "__call__", listening)
    named = replace(config, class_names=tmp_path / "names.json")
    fit_teacher(named, tmp_path / "teacher", console=QUIET)
    assert asked
    assert not [text for text in asked if "cat" in text or "dog" in text]


def test_the_card_names_the_classes_that_were_seen_and_no_others(config, image_folder, tmp_path):
    counts = {("art", "bird"): 5, ("photo", "bird"): 0}
    image_folder(("art", "photo"), ("cat", "dog", "bird"), counts, name="more")
    some = replace(config, data=str(tmp_path / "more"), classes="union", domains=("photo",))
    card = fit_teacher(some, tmp_path / "teacher", console=QUIET)
    assert card["seen"]["classes"] == ["cat", "dog"]


def test_a_single_class_is_nothing_to_fit(config, image_folder, tmp_path):
    one = image_folder(("art", "photo"), ("cat",), name="one")
    with pytest.raises(ScmdError, match="single class 'cat'"):
        fit_teacher(replace(config, data=str(one)), tmp_path / "teacher", console=QUIET)
    assert not (tmp_path / "teacher").exists()


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = fitting._loss

    def stopping(model, batch, normalize, captions, now):
        if now == step:
            raise KeyboardInterrupt
        return loss(model, batch, normalize, captions, now)

    monkeypatch.setattr(fitting, "_loss", stopping)


@pytest.mark.parametrize("change", ["gone", "new"])
def test_a_fit_is_not_resumed_with_other_images(
    config, images, write_image, tmp_path, monkeypatch, change
):
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            fit_teacher(config, tmp_path / "teacher", console=QUIET)
    if change == "gone":
        (images / "art" / "cat" / "001.png").unlink()
    else:
        write_image(images / "art" / "cat" / "new.png")
    with pytest.raises(ScmdError, match=rf"changed since the run began: .*\.png is {change}"):
        fit_teacher(config, tmp_path / "teacher", resume=True, console=QUIET)


def test_an_undecodable_image_of_the_holdout_is_said_before_the_fit(config, images, tmp_path):
    data = load_domains(config.data)
    bad = images / data.paths[int(np.flatnonzero(holdout_mask(data, 0.2, 0))[0])]
    bad.write_bytes(b"no image")
    with pytest.raises(ScmdError, match=f"{bad.name} cannot be decoded"):
        fit_teacher(config, tmp_path / "teacher", console=QUIET)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("use", ["train", "holdout"])
def test_undecodable_images_are_left_out_where_that_is_asked_for(config, images, tmp_path, use):
    data = load_domains(config.data)
    held_out = holdout_mask(data, 0.2, 0)
    bad = images / data.paths[int(np.flatnonzero(held_out == (use == "holdout"))[0])]
    bad.write_bytes(b"no image")
    config = replace(config, steps=8)  # an epoch and more
    with pytest.raises(ScmdError, match=rf"{bad.name} cannot be .*--skip-bad") as said:
        fit_teacher(config, tmp_path / "stopped", console=QUIET)
    assert "scmd train" not in str(said.value)
    card = fit_teacher(replace(config, skip_bad=True), tmp_path / "fitted", console=QUIET)
    scored = sum(result["n"] for result in card["zero_shot_on_held_out_images"].values())
    assert card["seen"]["images"] == (~held_out).sum() - (use == "train")
    assert scored == held_out.sum() - (use == "holdout")


def test_a_domain_with_nothing_to_fit_on_or_to_score_is_said(config, images, tmp_path):
    for path in (images / "art").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ScmdError, match="domain 'art' has too few images to fit to any"):
        fit_teacher(replace(config, skip_bad=True), tmp_path / "teacher", console=QUIET)
    fit_teacher(replace(config, skip_bad=True, domains=("photo",)), tmp_path / "t", console=QUIET)


@pytest.mark.parametrize("tower", ["test_resnet", "test_vit"])
def test_image_tower_weights_leave_a_projection_in_the_place_of_the_head(
    model_file, tmp_path, tower
):
    changed(model_file, "vision_cfg", timm_model_name=tower, timm_pool="", timm_proj=None)
    changed(model_file, "vision_cfg", image_size=160)
    if tower == "test_resnet":
        changed(model_file, "vision_cfg", timm_pool="avg")
    else:
        changed(model_file, "vision_cfg", timm_pool="token")
    donor = timm.create_model(tower, num_classes=11)
    save_file(donor.state_dict(), tmp_path / "tower.safetensors")
    start = open_start(str(model_file), True, tmp_path / "tower.safetensors")
    own, given = start.model.visual.trunk.state_dict(), donor.state_dict()
    differ = [name for name in own if not torch.equal(own[name], given[name])]
    head = "fc" if tower == "test_resnet" else "head"
    assert sorted(differ) == [f"{head}.bias", f"{head}.weight"]
    assert own[f"{head}.weight"].shape[0] == 8


def test_a_folder_to_begin_anew_from_keeps_its_preprocessing(clip_folder):
    for name in (str(clip_folder), f"local-dir:{clip_folder}"):
        cfg = open_start(name, from_scratch=True).preprocess_cfg
        assert list(cfg["mean"]) == [0.4, 0.45, 0.5]
    with pytest.raises(ScmdError, match="nowhere"):
        open_start("local-dir:nowhere", from_scratch=True)


class FolderTokenizer(open_clip.SimpleTokenizer):
    """Stands for Hugging Face's: needs its own file, of a folder or of the hub."""

    def __init__(self, source: str | Path, context_length: int, **settings: object) -> None:
        super().__init__(context_length=context_length)
        if source != "someone/words" and not (Path(source) / "tokenizer.json").is_file():
            raise OSError(f"no tokenizer in {source}")

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / "tokenizer.json").touch()


@pytest.mark.parametrize("scratch", [True, False])
def test_a_tokenizer_with_files_of_its_own_is_saved_with_the_weights(
    config, model_file, clip_folder, tmp_path, monkeypatch, scratch
):
    monkeypatch.setattr("open_clip.factory.HFTokenizer", FolderTokenizer)
    changed(model_file, "text_cfg", hf_tokenizer_name="someone/words")
    name = model_file
    if not scratch:
        name = tmp_path / "start"
        shutil.copytree(clip_folder, name)
        (name / "tokenizer.json").touch()
        given = json.loads((name / "open_clip_config.json").read_text())
        given["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/words"
        (name / "open_clip_config.json").write_text(json.dumps(given))
    card = fit_teacher(
        replace(config, model=str(name), from_scratch=scratch), tmp_path / "teacher", console=QUIET
    )
    assert set(card["zero_shot_on_held_out_images"]) == {"art", "photo"}
    again = open_start(str(tmp_path / "teacher"), from_scratch=True)
    assert isinstance(again.tokenizer, FolderTokenizer)


def test_captions_that_do_not_tell_two_classes_apart_are_warned_of(config, tmp_path):
    (tmp_path / "names.json").write_text('{"cat": "Pet", "dog": "pet"}')
    same = replace(config, class_names=tmp_path / "names.json", steps=1)
    with pytest.warns(ScmdWarning, match="the same of 'cat' and 'dog'"):
        fit_teacher(same, tmp_path / "teacher", console=QUIET)
