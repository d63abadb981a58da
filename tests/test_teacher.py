from __future__ import annotations

import copy
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from scmd.errors import ScmdError, ScmdWarning
from scmd.models.prompts import DEFAULT_TEMPLATE, PromptConfig, class_prompts, class_texts, readable
from scmd.models.teacher import CLIPTeacher, TeacherConfig, load_teacher

CLASSES = ("dog", "art_painting", "giraffe")
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def teacher_of(folder: Path, classes: tuple[str, ...] = CLASSES, **prompts: Any) -> CLIPTeacher:
    return load_teacher(TeacherConfig(str(folder), PromptConfig(**prompts)), classes)


@pytest.fixture
def own_clip(clip_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small CLIP that a test may damage."""
    return Path(shutil.copytree(clip_folder, tmp_path / "own"))


@pytest.fixture
def change(own_clip: Path) -> Callable[..., Path]:
    """Changes values in the configuration of ``own_clip`` and returns its folder."""

    def write(section: str, **values: Any) -> Path:
        config = json.loads((own_clip / CONFIG).read_text())
        config[section] |= values
        (own_clip / CONFIG).write_text(json.dumps(config))
        return own_clip

    return write


def fails(name: str | Path, *messages: str) -> None:
    with pytest.raises(ScmdError) as error:
        load_teacher(TeacherConfig(str(name)), CLASSES)
    assert "\n" not in str(error.value)
    for message in (repr(str(name)), *messages):
        assert message in str(error.value)


# It is open_clip's model.


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_logits_are_those_of_open_clip(clip_folder: Path, prefix: str):
    teacher = load_teacher(TeacherConfig(f"{prefix}{clip_folder}"), CLASSES)
    name = f"local-dir:{clip_folder}"
    model: Any = open_clip.create_model(name).eval()
    tokens = open_clip.get_tokenizer(name)(
        ["this is a photo of a dog", "this is a photo of a art painting",
         "this is a photo of a giraffe"]
    )  # fmt: skip
    images = torch.rand(4, 3, 32, 32)
    pixels = (images - torch.tensor([0.4, 0.45, 0.5]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.3]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected, _ = model.get_logits(pixels, tokens)
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-5, atol=1e-5)
    assert teacher.text_embeddings.shape == (3, 16)
    torch.testing.assert_close(teacher.text_embeddings.norm(dim=1), torch.ones(3))


def test_logits_do_not_depend_on_who_else_is_asked_about(clip_folder: Path):
    teacher, images = teacher_of(clip_folder), torch.rand(6, 3, 40, 32)
    together = teacher.logits(images, torch.arange(6))
    apart = torch.cat([teacher.logits(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_open_clips_own_transform_and_the_tensors_agree(clip_folder: Path):
    teacher = teacher_of(clip_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    given = teacher.preprocess(Image.fromarray(pixels))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(given[None], teacher.normalize(tensor))
    torch.testing.assert_close(
        teacher.normalized_logits(given[None]), teacher.logits(tensor), rtol=1e-5, atol=1e-5
    )


def test_size_and_normalisation_are_the_models_own(clip_folder: Path):
    teacher = teacher_of(clip_folder)
    assert teacher.image_size == 32
    seen: list[Tensor] = []
    teacher.model.get_submodule("visual").register_forward_pre_hook(
        lambda module, given: seen.append(given[0])
    )
    teacher.logits(torch.full((1, 3, 50, 70), 0.65))
    expected = torch.tensor([0.25 / 0.2, 0.2 / 0.25, 0.15 / 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], expected.expand(1, 3, 32, 32))


def test_normalisation_can_be_given(clip_folder: Path):
    config = TeacherConfig(str(clip_folder), mean=(0.0, 0.0, 0.5), std=(1.0, 2.0, 1.0))
    normalize = load_teacher(config, CLASSES).normalize
    pixels = normalize(torch.full((1, 3, 32, 32), 0.5))
    assert pixels[0, :, 0, 0].tolist() == [0.5, 0.25, 0.0]


def test_logits_are_exact_where_everything_else_is_half_precision(clip_folder: Path):
    teacher = teacher_of(clip_folder)
    images = torch.rand(4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = teacher.logits(images)
        embeddings = teacher.embeddings(images)
    assert logits.dtype == embeddings.dtype == torch.float32
    scale = teacher.model.logit_scale.exp()  # type: ignore[operator]
    torch.testing.assert_close(logits, scale * embeddings @ teacher.text_embeddings.T)


def test_half_precision_moves_embeddings_a_little_and_weights_not_at_all(clip_folder: Path):
    teacher = teacher_of(clip_folder)
    images = torch.rand(4, 3, 32, 32)
    exact = teacher.embeddings(images)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        half = teacher.embeddings(images)
    assert not torch.equal(half, exact)
    assert (half * exact).sum(1).min() > 0.999
    torch.testing.assert_close(half.norm(dim=1), torch.ones(4))
    assert torch.equal(teacher.embeddings(images), exact)
    assert teacher.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


# It is frozen.


def test_a_teacher_is_always_in_eval_mode_and_without_gradient(clip_folder: Path):
    teacher = teacher_of(clip_folder)
    for _ in range(2):
        assert not any(module.training for module in teacher.modules())
        torch.nn.Sequential(teacher).train()
        teacher.train()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert not teacher.logits(images).requires_grad
    assert not teacher.text_embeddings.requires_grad


def test_texts_are_encoded_once(clip_folder: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    encode_text = open_clip.CLIP.encode_text

    def counting(self: Any, text: Tensor, *rest: Any, **named: Any) -> Any:
        calls.append(len(text))
        return encode_text(self, text, *rest, **named)

    monkeypatch.setattr(open_clip.CLIP, "encode_text", counting)
    teacher = teacher_of(clip_folder, templates=("a {}", "the {}"))
    assert sum(calls) == 3 * 2
    calls.clear()
    for _ in range(3):
        teacher.logits(torch.rand(2, 3, 32, 32))
    assert calls == []


def test_loading_draws_nothing_that_others_would_miss(clip_folder: Path):
    first, second = (teacher_of(clip_folder).text_embeddings for _ in range(2))
    assert torch.equal(first, second)


# Weights are required.


def test_missing_weights_are_an_error(own_clip: Path):
    (own_clip / WEIGHTS).unlink()
    fails(own_clip, "has no weights", WEIGHTS)


def test_weights_of_another_shape_are_an_error(own_clip: Path):
    state = load_file(own_clip / WEIGHTS)
    state["text_projection"] = torch.zeros(32, 8)
    save_file(state, own_clip / WEIGHTS)
    fails(own_clip, "text_projection")


def test_weights_that_lack_something_are_an_error(own_clip: Path):
    state = load_file(own_clip / WEIGHTS)
    del state["visual.conv1.weight"]
    save_file(state, own_clip / WEIGHTS)
    fails(own_clip, "visual.conv1.weight")


def test_damaged_weights_are_an_error(own_clip: Path):
    file = own_clip / WEIGHTS
    file.write_bytes(file.read_bytes()[:1000])
    fails(own_clip, "cannot be loaded")


def test_a_missing_configuration_is_an_error(own_clip: Path):
    (own_clip / CONFIG).unlink()
    fails(own_clip, CONFIG)


@pytest.mark.parametrize("text", ["", "{}", '{"model_cfg": 3}', '{"model_cfg": {}}'])
def test_a_damaged_configuration_is_an_error(own_clip: Path, text: str):
    (own_clip / CONFIG).write_text(text)
    fails(own_clip, "cannot be loaded")


def test_a_missing_folder_is_an_error(tmp_path: Path):
    fails(tmp_path / "nowhere", "neither a folder nor a model that open_clip knows", "NAME/TAG")
    fails(f"local-dir:{tmp_path / 'nowhere'}", "not found")


@pytest.mark.parametrize("name", ["ViT-Z-99/openai", "ViT-Z-99"])
def test_an_unknown_model_is_an_error(name: str):
    fails(name, "nor a model that open_clip knows", "ViT-B-32-quickgelu/openai")


@pytest.mark.parametrize("name", ["", "/", "hf-hub:", "local-dir:"])
def test_half_a_name_is_an_error(name: str):
    fails(name, "cannot be loaded", "ViT-B-32-quickgelu/openai")


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    fails("ViT-B-32-quickgelu/openai", "the hub cannot be reached. Check the connection, give a")
    assert not caplog.records


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32/"])
def test_a_name_without_weights_is_an_error_that_lists_some(name: str):
    fails(name, "names no weights", "ViT-B-32/openai")


def test_an_unknown_tag_is_an_error():
    fails("ViT-B-32/no_such_tag", "no_such_tag", "is not a known tag")


def test_open_clips_chatter_is_kept_back_and_logging_is_as_it_was(
    own_clip: Path, caplog: pytest.LogCaptureFixture
):
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    teacher_of(own_clip)
    (own_clip / WEIGHTS).unlink()
    fails(own_clip)
    assert root.level == logging.INFO
    assert caplog.messages == []


# Models by name, on a registry with a small one in it.


@pytest.fixture
def registered(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """``registered(model, tag_quick_gelu=...)`` adds models to open_clip, with a tag ``own``."""
    config = json.loads((clip_folder / CONFIG).read_text())["model_cfg"]
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))

    def register(model: str, tag_quick_gelu: bool) -> None:
        for name in (model, f"{model}-quickgelu"):
            quick = {"quick_gelu": True} if "quickgelu" in name else {}
            (tmp_path / f"{name}.json").write_text(json.dumps(config | quick))
            open_clip.add_model_config(tmp_path / f"{name}.json")
            tag = {"quick_gelu": tag_quick_gelu, "mean": (0.1,) * 3, "std": (0.9,) * 3}
            monkeypatch.setitem(pretrained._PRETRAINED, name, {"own": tag})

    monkeypatch.setattr(
        factory, "download_pretrained", lambda *args, **named: str(clip_folder / WEIGHTS)
    )
    return register


def test_a_model_by_name_and_tag(registered: Callable[..., None], clip_folder: Path):
    registered("tiny", tag_quick_gelu=False)
    teacher = load_teacher(TeacherConfig("tiny/own"), CLASSES)
    torch.testing.assert_close(teacher.text_embeddings, teacher_of(clip_folder).text_embeddings)
    assert teacher.normalize.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert teacher.normalize.std.flatten().tolist() == pytest.approx([0.9] * 3)


def test_a_model_by_name_and_file(registered: Callable[..., None], clip_folder: Path):
    registered("tiny", tag_quick_gelu=True)  # of the tag, which is not asked for
    teacher = load_teacher(TeacherConfig(f"tiny/{clip_folder / WEIGHTS}"), CLASSES)
    torch.testing.assert_close(teacher.text_embeddings, teacher_of(clip_folder).text_embeddings)


def test_weights_trained_with_another_gelu_are_an_error(registered: Callable[..., None]):
    registered("tiny", tag_quick_gelu=True)
    fails("tiny/own", "trained with another GELU", "Use tiny-quickgelu/own")
    load_teacher(TeacherConfig("tiny-quickgelu/own"), CLASSES)
    registered("tiny", tag_quick_gelu=False)
    fails("tiny-quickgelu/own", "trained with another GELU", "Use tiny/own")


def test_the_default_teacher_has_the_gelu_of_its_weights():
    model, tag = TeacherConfig().name.split("/")
    config = open_clip.get_model_config(model)
    assert config is not None
    assert config.get("quick_gelu") == pretrained.get_pretrained_cfg(model, tag)["quick_gelu"]


def test_a_download_that_fails_is_an_error(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    registered("tiny", tag_quick_gelu=False)

    def no_network(*args: Any, **named: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(factory, "download_pretrained", no_network)
    fails("tiny/own", "no route to host")


@pytest.mark.parametrize("weights", [True, False])
def test_a_model_of_the_hub_with_and_without_its_weights(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, weights: bool
):
    def download(model_id: str, filename: str = WEIGHTS, **named: Any) -> str:
        if not weights and filename == WEIGHTS:
            raise OSError("no such file on the hub")
        return str(clip_folder / filename)

    config = json.loads((clip_folder / CONFIG).read_text())
    monkeypatch.setattr(factory, "_get_hf_config", lambda *args, **named: copy.deepcopy(config))
    monkeypatch.setattr(factory, "download_pretrained_from_hf", download)
    if weights:
        teacher = load_teacher(TeacherConfig("hf-hub:someone/small"), CLASSES)
        torch.testing.assert_close(teacher.text_embeddings, teacher_of(clip_folder).text_embeddings)
    else:
        fails("hf-hub:someone/small", "weights cannot be had from the hub: no such file")


# Prompts.


def embedding(folder: Path, *prompts: str) -> Tensor:
    """Normalised, averaged, normalised again, by open_clip itself."""
    name = f"local-dir:{folder}"
    model: Any = open_clip.create_model(name).eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        rows = F.normalize(model.encode_text(tokenizer(list(prompts))), dim=-1)
    return F.normalize(rows.mean(0), dim=0)


def test_one_prompt(clip_folder: Path):
    teacher = teacher_of(clip_folder, templates=("a {}.",))
    for row, text in zip(teacher.text_embeddings, ("dog", "art painting", "giraffe"), strict=True):
        torch.testing.assert_close(row, embedding(clip_folder, f"a {text}."))


def test_embeddings_of_several_prompts_are_averaged_and_renormalised(clip_folder: Path):
    templates = ("a {}.", "one photo of many {}s", "{}")
    teacher = teacher_of(clip_folder, templates=templates)
    for row, text in zip(teacher.text_embeddings, ("dog", "art painting", "giraffe"), strict=True):
        expected = embedding(clip_folder, *(t.replace("{}", text) for t in templates))
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(teacher.text_embeddings.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_prompts_of_every_class_from_a_file(clip_folder: Path, tmp_path: Path, suffix: str):
    prompts = {"giraffe": ["a giraffe", "a tall one"], "dog": ["a dog"], "art_painting": "Kunst ö"}
    file = tmp_path / f"prompts{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(prompts))
    else:
        file.write_text("\n".join(f"{name} = {json.dumps(p)}" for name, p in prompts.items()))
    assert class_prompts(CLASSES, PromptConfig(file=file)) == [
        ["a dog"], ["Kunst ö"], ["a giraffe", "a tall one"],
    ]  # fmt: skip
    rows = teacher_of(clip_folder, file=file).text_embeddings
    torch.testing.assert_close(rows[0], embedding(clip_folder, "a dog"))
    torch.testing.assert_close(rows[2], embedding(clip_folder, "a giraffe", "a tall one"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dog", "dog"),
        ("art_painting", "art painting"),
        ("alarm-clock", "alarm clock"),
        ("Post-it_Notes", "Post it Notes"),
        ("_a__b-", "a b"),
        ("日本_犬", "日本 犬"),
    ],
)
def test_class_names_are_made_readable(name: str, text: str):
    assert readable(name) == text


def test_class_names_can_be_mapped(tmp_path: Path):
    file = tmp_path / "names.toml"
    file.write_text('dog = "hound"\n')
    assert class_texts(CLASSES, file) == ["hound", "art painting", "giraffe"]
    prompts = class_prompts(CLASSES, PromptConfig(templates=("a {}",), class_names=file))
    assert prompts == [["a hound"], ["a art painting"], ["a giraffe"]]
    assert class_prompts(["dog"]) == [[DEFAULT_TEMPLATE.replace("{}", "dog")]]


def test_braces_in_a_class_name_stay(tmp_path: Path):
    assert class_prompts(["a{}b{x}"], PromptConfig(templates=("{}, {}",))) == [["a{}b{x}, a{}b{x}"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"templates": ()}, "no prompt"), ({"templates": ("a {}", "a photo")}, "'a photo'")],
)
def test_bad_templates_are_errors(settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError, match=message):
        class_prompts(CLASSES, PromptConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"templates": "a {}"}, "prompts.templates = 'a {}': give a list of texts"),
        ({"templates": (3,)}, "prompts.templates = (3,): give a list of texts"),
        ({"file": 3}, "prompts.file = 3: give a path"),
        ({"class_names": 3}, "prompts.class_names = 3: give a path"),
    ],
)
def test_prompts_of_another_type_are_errors(settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError) as error:
        PromptConfig(**settings)
    assert str(error.value) == message


def test_lists_and_texts_are_taken_from_python():
    settings: dict[str, Any] = {"templates": ["a {}"], "file": "p.toml", "class_names": "n.toml"}
    expected = PromptConfig(("a {}",), Path("p.toml"), Path("n.toml"))
    assert PromptConfig(**settings) == expected
    assert hash(PromptConfig(**settings)) == hash(expected)


def test_a_clean_view_names_the_way_out_of_a_presets_normalisation():
    with pytest.raises(ScmdError, match="--teacher-mean None --teacher-std None"):
        TeacherConfig(view="clean", mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dog = "a"\nart_painting = "b"', "no prompt for class 'giraffe'. Add"),
        ('dog = []\nart_painting = "b"\ngiraffe = "c"', "no prompt for class 'dog'"),
        ('dog = ""\nart_painting = "b"\ngiraffe = "c"', "no prompt for class 'dog'"),
        ('dog = [1]\nart_painting = "b"\ngiraffe = "c"', "no prompt for class 'dog'"),
        ('dogs = "a"', "names 'dogs', which is no class of the data (dog, art_painting, giraffe)"),
        ("dog = ", "neither TOML nor JSON"),
        ("dog = \udcff", "neither TOML nor JSON"),
    ],
)
def test_bad_files_of_prompts_are_errors(tmp_path: Path, text: str, message: str):
    file = tmp_path / "prompts.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ScmdError) as error:
        class_prompts(CLASSES, PromptConfig(file=file))
    assert str(file) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dog": 3}', "the name of 'dog' is 3. Expected a text"),
        ('{"cat": "x"}', "names 'cat', which is no class of the data"),
        ("[1, 2]", "not a mapping"),
        ("{", "neither TOML nor JSON"),
    ],
)
def test_bad_files_of_names_are_errors(tmp_path: Path, text: str, message: str):
    file = tmp_path / "names.json"
    file.write_text(text)
    with pytest.raises(ScmdError) as error:
        class_texts(CLASSES, file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    for config in (
        PromptConfig(file=tmp_path / "nowhere.toml"),
        PromptConfig(class_names=tmp_path / "nowhere.toml"),
        PromptConfig(file=tmp_path),
    ):
        with pytest.raises(ScmdError, match="cannot be read"):
            class_prompts(CLASSES, config)


# Classes that a teacher is told the same about.


@pytest.mark.parametrize(
    ("classes", "template"),
    [
        (("dog", "alarm-clock", "alarm_clock"), "a {}"),
        (("dog", "Polish", "polish"), "a {}"),
        (("dog", "cat"), "a photo of what one finds in many a house and in many a garden: {}"),
    ],
)
def test_classes_with_the_same_words_are_warned_of(
    clip_folder: Path, classes: tuple[str, ...], template: str
):
    first, second = classes[-2:]
    with pytest.warns(ScmdWarning, match=f"the same of {first!r} and {second!r}"):
        teacher_of(clip_folder, classes, templates=(template,))


def test_classes_of_different_words_are_not(clip_folder: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScmdWarning)
        teacher_of(clip_folder, ("alarm", "alarm clock", "clock"))


def test_an_empty_name_is_no_name(tmp_path: Path):
    file = tmp_path / "names.toml"
    file.write_text('dog = " "\n')
    with pytest.raises(ScmdError, match=r"the name of 'dog' is ' '\. Expected a text"):
        class_texts(CLASSES, file)


# What open_clip reads besides.


@pytest.mark.parametrize("there", [(), (1,)])
def test_a_scale_of_another_shape_is_taken_as_open_clip_takes_it(
    own_clip: Path, clip_folder: Path, there: tuple[int, ...], change: Callable[..., Path]
):
    state = load_file(own_clip / WEIGHTS)
    save_file(state | {"logit_scale": state["logit_scale"].reshape(there)}, own_clip / WEIGHTS)
    change("model_cfg", nonscalar_logit_scale=not there)
    images = torch.rand(2, 3, 32, 32)
    expected = teacher_of(clip_folder).logits(images)
    torch.testing.assert_close(teacher_of(own_clip).logits(images), expected)


def test_of_several_weights_none_is_taken(own_clip: Path):
    state = load_file(own_clip / WEIGHTS)
    (own_clip / WEIGHTS).unlink()
    torch.save(state, own_clip / "epoch_1.pt")
    teacher_of(own_clip)
    torch.save(state, own_clip / "epoch_10.pt")
    fails(own_clip, "several weights: epoch_1.pt, epoch_10.pt")


def test_a_package_that_is_missing_is_named(change: Callable[..., Path], monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    folder = change("model_cfg", text_cfg=config | {"hf_tokenizer_name": "someone/words"})
    fails(folder, "needs the package transformers", "pip install transformers")
