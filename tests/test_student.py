from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.errors import ScmdError
from scmd.models.images import Normalize, as_float
from scmd.models.student import StudentConfig, TimmBackbone, create_backbone, evaluating, parse_args
from scmd.models.weights import read_state_dict

SMALL = "test_efficientnet"


def build(name: str = SMALL, size: int = 32, **settings: Any) -> TimmBackbone:
    return create_backbone(StudentConfig(name=name, pretrained=False, **settings), size)


def timm_state(classes: int = 10, name: str = SMALL) -> dict[str, Tensor]:
    """Weights as timm saves them, with a head."""
    return timm.create_model(name, num_classes=classes).state_dict()


@pytest.mark.parametrize(
    ("name", "size"),
    [(SMALL, 48), ("test_vit", 160), ("mobilenetv3_small_050", 64), ("test_resnet", 64)],
)
def test_any_timm_model_maps_images_to_features(name: str, size: int):
    backbone = build(name, size).eval()
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, size, size))
        other = backbone(torch.rand(2, 3, 40, 30))  # it resizes for itself
    assert features.shape == other.shape == (2, backbone.num_features)


# Weights from a file.


@pytest.mark.parametrize("form", ["safetensors", "pt", "pth-wrapped", "parallel"])
def test_weights_come_from_a_file(tmp_path: Path, form: str):
    state = timm_state()
    if form == "safetensors":
        file = tmp_path / "weights.safetensors"
        save_file(state, file)
    else:
        file = tmp_path / "weights.pt"
        wrapped = {"state_dict": state, "epoch": 3}
        parallel = {f"module.{name}": value for name, value in state.items()}
        torch.save({"pt": state, "pth-wrapped": wrapped, "parallel": parallel}[form], file)
    own = build(weights=file).model.state_dict()
    assert own.keys() == {name for name in state if not name.startswith("classifier.")}
    for name, value in own.items():
        assert torch.equal(value, state[name]), name


def test_a_student_saved_without_a_head_loads_as_it_is(tmp_path: Path):
    backbone = build()
    file = tmp_path / "weights.safetensors"
    save_file(backbone.model.state_dict(), file)
    again = build(weights=file)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(backbone.eval()(images), again.eval()(images))


@pytest.mark.parametrize(
    ("name", "head"),
    [(SMALL, "classifier"), ("test_vit", "head"), ("test_resnet", "fc")],
)
def test_a_head_is_dropped_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, head: str
):
    file = tmp_path / "weights.safetensors"
    save_file(timm_state(5, name), file)
    with caplog.at_level(logging.WARNING):
        build(name, 160, weights=file)
    (line,) = caplog.messages
    assert str(file) in line
    assert "dropped" in line
    assert f"{head}.weight [5, " in line
    assert f"{head}.bias [5]" in line


def test_nothing_is_said_where_there_is_no_head(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "weights.safetensors"
    save_file(build().model.state_dict(), file)
    with caplog.at_level(logging.INFO):
        build(weights=file)
    assert caplog.messages == []


def test_weights_that_do_not_fit_are_errors(tmp_path: Path):
    def fails(state: dict[str, Tensor], *messages: str) -> None:
        file = tmp_path / "weights.safetensors"
        save_file(state, file)
        with pytest.raises(ScmdError) as error:
            build(weights=file)
        for message in (f"{file} does not fit", "Name the architecture", *messages):
            assert message in str(error.value)

    state = timm_state()
    first = "conv_stem.weight"
    fails({n: v for n, v in state.items() if n != first}, f"no {first}")
    fails(state | {"neck.weight": torch.zeros(3)}, "an unknown neck.weight")
    fails(
        state | {first: torch.zeros(7, 3, 3, 3)},
        f"{first} is [7, 3, 3, 3] there and {list(state[first].shape)} here",
    )
    fails(timm_state(name="test_resnet"), "differences")


class Code:
    """What a pickle that runs code holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def damaged_files(folder: Path) -> dict[str, Path]:
    whole = folder / "whole.safetensors"
    save_file(timm_state(), whole)
    saved = folder / "saved.pt"
    torch.save(timm_state(), saved)
    files = {
        "truncated.safetensors": whole.read_bytes()[:-100],
        "empty.safetensors": b"",
        "noise.safetensors": b"\xff" * 100,
        "truncated.pt": saved.read_bytes()[:2000],
        "empty.pt": b"",
        "noise.pt": b"no weights at all, a text",
        "code.pt": pickle.dumps(Code(folder / "ran"), protocol=2),
        "number.pt": None,
        "list.pt": None,
        "nested.pt": None,
    }
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    torch.save(5, folder / "number.pt")
    torch.save([torch.zeros(2)], folder / "list.pt")
    torch.save({"weights": [torch.zeros(2)]}, folder / "nested.pt")
    torch.save({"weights": Code(folder / "ran")}, folder / "code-in-zip.pt")
    return {name: folder / name for name in (*files, "code-in-zip.pt", "missing.pt")}


def test_damaged_files_are_errors_and_no_code_in_them_runs(tmp_path: Path):
    for file in damaged_files(tmp_path).values():
        with pytest.raises(ScmdError) as error:
            read_state_dict(file)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_flipped_byte_is_an_error_or_goes_unseen(tmp_path: Path):
    file = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    whole, errors = file.read_bytes(), 0
    for place in range(0, len(whole), 2):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_state_dict(file)
        except ScmdError:
            errors += 1
    assert errors > 20


# Names and arguments.


def test_an_unknown_model_is_an_error_that_suggests_another():
    with pytest.raises(ScmdError, match=r"timm has no model 'resnet5'\. Did you mean .*resnet5"):
        build("resnet5")
    with pytest.raises(ScmdError, match=r"'no-such-net'.*timm\.list_models"):
        build("no-such-net")


def test_an_unknown_argument_is_an_error_that_names_the_flag():
    with pytest.raises(ScmdError, match=r"cannot create .*nonsense.*--student-args"):
        build(args=("nonsense=1",))


@pytest.mark.parametrize("arg", ["pad_type", "=1", "two words=1", ""])
def test_a_malformed_argument_is_an_error(arg: str):
    with pytest.raises(ScmdError, match="not of the form name=value"):
        parse_args([arg])


def test_arguments_are_literals_or_texts():
    args = ("a=1", "b=0.5", "c=True", "d=same", "e=(1, 2)", "f=None", "g=a=b", "h=")
    assert parse_args(args) == {
        "a": 1, "b": 0.5, "c": True, "d": "same", "e": (1, 2), "f": None, "g": "a=b", "h": "",
    }  # fmt: skip


def test_arguments_reach_timm():
    drop_path = build(args=("drop_path_rate=0.3",)).model
    assert any("DropPath" in type(part).__name__ for part in drop_path.modules())
    assert not any("DropPath" in type(part).__name__ for part in build().model.modules())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("features_only=True",), "no attribute 'num_features'. Check --student-args"),
        (("global_pool=",), "gives [1, 256, 1, 1]. Expected [1, 256]. Check --student-args"),
        (("in_chans=1",), "to have 1 channels, but got 3 channels instead. Check --student-args"),
    ],
)
def test_arguments_of_no_use_to_a_student_are_errors_that_name_the_flag(
    args: tuple[str, ...], message: str
):
    with pytest.raises(ScmdError) as error:
        build(args=args)
    assert message in str(error.value)
    assert repr(SMALL) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_size_that_does_not_fit_is_named_alone_where_no_argument_is_given():
    with pytest.raises(
        ScmdError, match=r"of 50 px: .*\. Change --image-size, or pass .*img_size=50"
    ):
        build("test_vit", 50)


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ValueError])
def test_an_error_of_timm_without_a_text_is_named(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    def fails(*args: Any, **settings: Any) -> nn.Module:
        raise kind

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(ScmdError, match=kind.__name__):
        build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"args": ("checkpoint_path=w.pth",)}, "Give the file with --student-weights FILE"),
        ({"args": ("a=1", "cache_dir=/x")}, "Set the environment variable HF_HOME"),
        ({"args": ("pretrained=True",)}, "Pass --student-pretrained"),
        ({"args": "a=1"}, "student.args = 'a=1': give a list of texts"),
        ({"args": (1,)}, r"student.args = (1,): give a list of texts"),
        ({"weights": 5}, "student.weights = 5: give a path"),
        ({"std": (-0.5, 0.5, 0.5)}, "student.std = (-0.5, 0.5, 0.5): give three numbers above 0"),
        ({"std": (0, 0.5, 0.5)}, "student.std = (0, 0.5, 0.5): give three numbers above 0"),
        ({"std": (0.5, 0.5)}, "give three numbers above 0"),
        ({"std": 0.5}, "student.std = 0.5: give three numbers above 0"),
        ({"std": (float("nan"), 0.5, 0.5)}, "give three numbers above 0"),
        ({"mean": (0.5, 0.5, "0.5")}, "give three numbers"),
        ({"mean": (0.5, 0.5, 1e7)}, "give three numbers below a million"),
    ],
)
def test_what_a_saved_student_may_not_say_is_refused_before_it_is_trained(
    settings: dict[str, Any], message: str
):
    with pytest.raises(ScmdError) as error:
        StudentConfig(SMALL, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_and_texts_are_taken_from_python():
    settings: dict[str, Any] = {
        "weights": "w.pt", "args": ["a=1"], "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3],
    }  # fmt: skip
    config = StudentConfig(SMALL, **settings)
    expected = StudentConfig(
        SMALL, Path("w.pt"), args=("a=1",), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)
    )
    assert config == expected
    assert hash(config) == hash(expected)


def test_weights_that_cannot_be_downloaded_are_an_error(monkeypatch: pytest.MonkeyPatch):
    def no_network(*args: Any, **settings: Any) -> nn.Module:
        assert settings["pretrained"]
        raise OSError("no route to host\nand a long traceback")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(ScmdError) as error:
        create_backbone(StudentConfig(name=SMALL), 32)
    assert "no route to host. Give a file with --student-weights" in str(error.value)
    assert "--no-student-pretrained" in str(error.value)


# Batch norm and modes.


def norms(backbone: TimmBackbone) -> list[nn.Module]:
    return [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]


def test_frozen_batch_norm_stays_in_eval_mode():
    backbone = build(freeze_batch_norm=True)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()
    assert backbone.training
    assert backbone.model.training
    assert norms(backbone)
    assert not any(norm.training for norm in norms(backbone))
    backbone(torch.rand(4, 3, 32, 32))
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name


def test_frozen_batch_norm_stays_in_eval_mode_as_a_part_of_something():
    backbone = build()
    outer = nn.Sequential(backbone)
    outer.eval()
    outer.train()
    assert backbone.training
    assert not any(norm.training for norm in norms(backbone))


def test_free_batch_norm_follows():
    backbone = build(freeze_batch_norm=False).train()
    assert all(norm.training for norm in norms(backbone))
    before = {name: value.clone() for name, value in backbone.model.named_buffers()}
    backbone(torch.rand(4, 3, 32, 32))
    assert any(not torch.equal(v, before[n]) for n, v in backbone.model.named_buffers())


def test_evaluating_restores_each_part():
    backbone = build().train()
    modes = [part.training for part in backbone.modules()]
    with evaluating(backbone):
        assert not any(part.training for part in backbone.modules())
    assert [part.training for part in backbone.modules()] == modes
    with pytest.raises(KeyError), evaluating(backbone):
        raise KeyError
    assert [part.training for part in backbone.modules()] == modes


# Normalisation and size.


def test_a_constant_image_gets_the_exact_normalised_value():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.25)
    normalize = Normalize((6, 6), mean, std)
    expected = (0.7 - torch.tensor(mean)) / torch.tensor(std)
    own = normalize(torch.full((2, 3, 6, 6), 0.7))
    assert torch.equal(own, expected.view(1, 3, 1, 1).expand(2, 3, 6, 6))
    for size in ((3, 3), (11, 17)):
        resized = normalize(torch.full((2, 3, *size), 0.7))
        assert resized.shape == (2, 3, 6, 6)
        torch.testing.assert_close(resized, own)


def test_an_image_of_the_right_size_is_not_resampled():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(Normalize((8, 8), (0.0,) * 3, (1.0,) * 3)(images), images)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_antialiased(interpolation: Any):
    images = (torch.rand(2, 3, 24, 24) > 0.5).float()
    resized = Normalize((8, 8), (0.0,) * 3, (1.0,) * 3, interpolation)(images)
    expected = F.interpolate(images, (8, 8), mode=interpolation, antialias=True).clamp(0, 1)
    torch.testing.assert_close(resized, expected)


def test_bicubic_resizing_does_not_overshoot():
    edge = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], dim=3)
    plain = F.interpolate(edge, (20, 20), mode="bicubic", antialias=True)
    assert plain.min() < 0
    assert plain.max() > 1
    resized = Normalize((20, 20), (0.0,) * 3, (1.0,) * 3, "bicubic")(edge)
    torch.testing.assert_close(resized, plain.clamp(0, 1))


def test_a_student_normalises_as_its_weights_were_trained_unless_told_otherwise():
    def normalization(**settings: Any) -> tuple[list[float], list[float]]:
        normalize = build(**settings).normalize
        return normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()

    imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert normalization() == (pytest.approx(imagenet[0]), pytest.approx(imagenet[1]))
    half = pytest.approx([0.5] * 3)
    assert normalization(name="test_vit", size=160) == (half, half)
    given = normalization(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    assert given == (pytest.approx([0.1, 0.2, 0.3]), [1.0, 2.0, 4.0])


def test_normalisation_is_no_part_of_the_weights():
    assert not any("normalize" in name for name in build().state_dict())


def test_the_student_sees_normalised_pixels_of_its_size():
    backbone = build(size=32, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    seen: list[Tensor] = []
    backbone.model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    backbone(torch.full((1, 3, 50, 20), 0.75))
    torch.testing.assert_close(seen[0], torch.ones(1, 3, 32, 32))


def test_uint8_is_scaled_and_float_is_passed_on():
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    assert as_float(images).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert images.dtype == torch.uint8
    floats = torch.rand(1, 3, 2, 2)
    assert torch.equal(as_float(floats), floats)
    assert as_float(floats.bfloat16()).dtype == torch.float32


# Real weights.


def test_a_real_mobilenet_loads_and_needs_its_padding(test_data: Path):
    file = test_data / "weights" / "mobilenetv2_100_imagenet1k.safetensors"
    half = (0.5, 0.5, 0.5)
    backbone = build(
        "mobilenetv2_100", 128, weights=file, args=("pad_type=same",), mean=half, std=half
    ).eval()
    state = load_file(file)
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    full = timm.create_model("mobilenetv2_100", pad_type="same")
    full.load_state_dict(state)
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        features = backbone(images)
        logits = features @ state["classifier.weight"].T + state["classifier.bias"]
        torch.testing.assert_close(logits, full.eval()((images - 0.5) / 0.5), rtol=1e-3, atol=1e-3)
        plain = build("mobilenetv2_100", 128, weights=file, mean=half, std=half).eval()(images)
    assert not torch.allclose(plain, features, atol=1e-2)
