from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from scmd.averaging import AverageConfig
from scmd.config import (
    PRESETS,
    DataConfig,
    RunConfig,
    TrainingConfig,
    build_config,
    differences,
    load_config,
    save_config,
    to_toml,
)
from scmd.errors import ScmdError
from scmd.methods import METHODS
from scmd.methods.kd import KDConfig
from scmd.methods.scmd import SCMDConfig
from scmd.models.prompts import PromptConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.selection import SelectionConfig, phase


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def scmd_of(config: RunConfig) -> SCMDConfig:
    assert isinstance(config.hparams, SCMDConfig)
    return config.hparams


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_configuration_survives_its_file(file: Path, preset: str, method: str):
    config = build_config(preset, method=method)
    save_config(config, file)
    assert load_config(file) == config
    assert type(load_config(file).hparams) is METHODS[method].Config
    assert differences(load_config(file), config) == []


def test_every_setting_survives_its_file(file: Path):
    config = RunConfig(
        method="scmd",
        data=DataConfig(
            "a folder", "sketch", ("photo",), "union", 0.3, 96, True, False, True, True,
            "torchvision", False,
        ),
        student=StudentConfig(
            "test_vit", Path("w.pt"), False, ("a=1", "b=x"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), False
        ),
        teacher=TeacherConfig(
            "RN50/openai",
            PromptConfig(("a {}", 'the "{}"'), Path("p.toml"), Path("n.json")),
            (0.5, 0.5, 0.5),
            (0.1, 0.1, 0.1),
            "fixed",
            5,
        ),
        hparams=SCMDConfig(
            1e-4, 1e-6, True, 0.7, 0.8, 2.5, 2e-4,
            SelectionConfig("random", 0.25, "domain", 0.1, 0.3, "fp32"), 2.0,
        ),
        training=TrainingConfig(7, 8, 9, 10, 11, True, 12, "bf16", 0, "cpu", "mlflow"),
        average=AverageConfig("ema", 5, 0.9, 4, 5, 0.2),
    )  # fmt: skip
    defaults = RunConfig()
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if not dataclasses.is_dataclass(value):
            continue
        for part in dataclasses.fields(value):
            default = getattr(getattr(defaults, section.name), part.name)
            differs = getattr(value, part.name) != default
            assert differs or part.name == "mixtures", part.name  # no other view goes with them
    save_config(config, file)
    assert load_config(file) == config
    config = RunConfig(data=DataConfig("a folder", mixtures=True))
    save_config(config, file)
    assert load_config(file) == config


def test_the_file_is_complete():
    written = tomllib.loads(to_toml(RunConfig()))
    assert written["method"] == "scmd"
    assert written["training"]["steps"] == 5000
    assert written["hparams"]["selection"] == {
        "rule": "hardest", "fraction": 0.2, "scope": "batch", "warmup": 0.0,
        "last_fraction": 0.25, "precision": "same", "resolution": 1.0,
    }  # fmt: skip
    assert "target" not in written["data"]  # there is no None in TOML


def test_the_defaults_are_the_papers():
    config = build_config()
    hparams = scmd_of(config)
    assert (hparams.lambda1, hparams.lambda2, hparams.temperature) == (0.5, 0.5, 3.0)
    assert (hparams.lr, hparams.weight_decay, hparams.lr_scale) == (5e-5, 0.0, 1e-4)
    assert hparams.selection == SelectionConfig("hardest", 0.2, "batch", 0.0, 0.25, "same")
    assert (config.training.steps, config.training.batch_per_domain) == (5000, 32)
    assert config.average == AverageConfig("sma", 300)
    assert config.data.image_size == 224
    assert config.student.name == "resnet50.tv2_in1k"
    assert config.student.freeze_batch_norm
    assert config.teacher.name == "ViT-B-32-quickgelu/openai"
    assert config.teacher.view == "augmented"
    assert config.teacher.prompts.templates == ("this is a photo of a {}",)


def test_the_paper_preset_does_as_the_released_code():
    config = build_config("paper")
    assert scmd_of(config).decay_all
    assert scmd_of(config).selection.precision == "fp32"
    assert config.teacher.mean == (0.485, 0.456, 0.406)
    assert config.teacher.std == (0.229, 0.224, 0.225)
    assert config.teacher.view == "augmented"
    assert config.data.augment_holdout
    assert config.data.augmentation == "torchvision"
    assert config.average.average == "sma-released"
    assert config.training.evaluate_every == 300
    assert build_config("paper-domainnet").training.evaluate_every == 1000


@pytest.mark.parametrize("preset", ["paper", "paper-domainnet"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_preset_gives_each_method_the_hyper_parameters_that_it_has(preset: str, method: str):
    assert build_config(preset, method=method).hparams.decay_all
    assert build_config(preset, method=method).average.average == "sma-released"


# Preset < file < method.


def test_a_file_wins_over_a_preset(file: Path):
    file.write_text(
        """
        [training]
        steps = 77
        [hparams]
        lambda1 = 1
        [hparams.selection]
        fraction = 0.3
        """
    )
    config = build_config("paper", file)
    assert config.training.steps == 77
    assert scmd_of(config).lambda1 == 1.0
    assert scmd_of(config).selection.fraction == 0.3
    # What the file does not say stays the preset's, and then the default.
    assert scmd_of(config).selection.precision == "fp32"
    assert scmd_of(config).decay_all
    assert config.average.average == "sma-released"
    assert config.training.batch_per_domain == 32


def test_a_method_wins_over_a_file_and_keeps_the_hyper_parameters_that_it_has(file: Path):
    file.write_text('method = "scmd"\n[hparams]\nlr = 0.5\nlambda1 = 0.9\nlambda2 = 0.1\n')
    assert build_config(file=file).method == "scmd"
    kd = build_config(file=file, method="kd")
    assert kd.method == "kd"
    assert kd.hparams == KDConfig(lr=0.5, lambda1=0.9)
    assert build_config(file=file, method="erm").hparams.lr == 0.5


def test_a_method_given_twice_is_still_checked(file: Path):
    file.write_text('method = "kd"\n[hparams]\nlambda2 = 0.1\n')
    with pytest.raises(ScmdError, match=r"no setting 'hparams\.lambda2'"):
        build_config(file=file, method="kd")


def test_an_empty_file_changes_nothing(file: Path):
    file.write_text("")
    assert build_config(file=file) == build_config()


# Bad input.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 5", "there is no setting 'step'"),
        ("[training]\nstep = 5", "no setting 'training.step'. Did you mean 'training.steps'?"),
        ("[trainin]\nsteps = 5", "there is no setting 'trainin'"),
        ("[hparams]\nlambda_1 = 5", "'hparams.lambda_1'. Did you mean 'hparams.lambda1'?"),
        (
            "[hparams.selection]\nfractoin = 0.5",
            "'hparams.selection.fractoin'. Did you mean 'hparams.selection.fraction'?",
        ),
        ('[teacher.prompts]\ntemplate = ["a {}"]', "Did you mean 'teacher.prompts.templates'?"),
        ('[training]\nsteps = "5"', "training.steps = '5'"),
        ("[training]\nsteps = 5.5", "training.steps = 5.5"),
        ("[training]\nsteps = 0", "steps = 0: give a whole number from 1"),
        ("[training]\nseed = -1", "seed = -1: give a whole number from 0"),
        ("[training]\nworkers = -1", "workers = -1"),
        ('[training]\nprecision = "fp8"', "training.precision = 'fp8'"),
        ("training = 5", "training = 5"),
        ("hparams = 5", "hparams"),
        ("[hparams]\nlr = -1", "lr = -1.0: give a number above 0"),
        ('[hparams]\nlr = "fast"', "hparams.lr = 'fast'"),
        ("[hparams]\nlr = inf", "lr = inf"),
        ("[hparams]\ntemperature = nan", "temperature = nan"),
        ("[hparams]\nselection = 0.2", "hparams.selection = 0.2"),
        ("[hparams.selection]\nfraction = 0", "selection.fraction = 0.0"),
        ("[hparams.selection]\nfraction = 1.5", "selection.fraction = 1.5"),
        ('[hparams.selection]\nrule = "easiest"', "hparams.selection.rule = 'easiest'"),
        ("[average]\naverage_start = 0", "average_start = 0"),
        ("[average]\nema_decay = 2", "ema_decay = 2"),
        ("[data]\nholdout = 1", "holdout = 1"),
        ("[data]\nimage_size = 0", "image_size = 0"),
        ("[data]\nskip_bad = 1", "data.skip_bad = 1"),
        ("[data]\ntarget = 3", "data.target = 3"),
        ('[teacher]\nview = "blurred"', "teacher.view = 'blurred'"),
        ("[teacher]\nviews = 0", "views = 0: give a whole number from 1"),
        ('[teacher]\nview = "clean"\nmean = [0.5, 0.5, 0.5]', "Leave mean and std out"),
        ('[data]\nclasses = "some"', "data.classes = 'some'"),
        ('[data]\naugmentation = "none"', "data.augmentation = 'none'"),
        ("[data]\ndecode_once = 1", "data.decode_once = 1"),
        ('data.mixtures = true\nteacher.view = "clean"', "mixtures with teacher.view = 'clean'"),
        ("[student]\nmean = [0.5, 0.5]", "student.mean"),
        ("[student]\nstd = [0.5, 0.5, 0]", "student.std = (0.5, 0.5, 0.0): give three numbers"),
        ('[student]\nargs = ["cache_dir=x"]', "Set the environment variable HF_HOME"),
        ('[student]\nargs = "a=1"', "student.args = 'a=1'"),
        ('method = "smcd"', "there is no method 'smcd'. Did you mean 'scmd'?"),
        ('method = "zzz"', f"there is no method 'zzz'. Choose from {', '.join(METHODS)}"),
        ("method = 3", "there is no method '3'"),
        ("[training\n", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_and_value(file: Path, text: str, message: str):
    file.write_text(text)
    with pytest.raises(ScmdError) as error:
        build_config(file=file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["erm", "kd"])
def test_settings_of_another_method_are_unknown(file: Path, method: str):
    file.write_text(f'method = "{method}"\n[hparams]\nlambda2 = 0.5\n')
    with pytest.raises(ScmdError, match=r"no setting 'hparams\.lambda2'"):
        build_config(file=file)


def test_a_section_that_is_none_is_an_error_whatever_the_method(file: Path):
    file.write_text("hparams = 5")
    with pytest.raises(ScmdError, match="hparams = 5"):
        build_config(file=file, method="kd")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path):
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ScmdError, match="cannot be read") as error:
            build_config(file=path)
        assert str(path) in str(error.value)
    noise = tmp_path / "noise.toml"
    noise.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScmdError, match="is not TOML"):
        build_config(file=noise)


def test_a_file_may_be_named_by_a_text(file: Path):
    save_config(build_config(), file)
    assert load_config(str(file)) == build_config(file=str(file)) == build_config()
    with pytest.raises(ScmdError, match="cannot be read"):
        load_config(f"{file}.gone")


def test_an_unknown_preset_or_method_is_an_error():
    with pytest.raises(ScmdError, match=r"no preset 'papr'\. Did you mean 'paper'"):
        build_config("papr")
    with pytest.raises(ScmdError, match=r"no method 'emr'\. Did you mean 'erm'"):
        build_config(method="emr")


def test_augmentation_is_the_released_codes_where_numbers_were_published_with_it():
    assert build_config().data.augmentation == "tensor"
    for preset in ("paper", "paper-domainnet", "digits"):
        assert build_config(preset).data.augmentation == "torchvision"


def test_what_only_takes_time_is_no_difference():
    first = build_config()
    data = dataclasses.replace(first.data, decode_once=False)
    training = dataclasses.replace(first.training, workers=9, device="cpu", tracker="mlflow")
    assert differences(first, dataclasses.replace(first, data=data, training=training)) == []


def test_differences_are_named():
    first = build_config()
    hparams = dataclasses.replace(first.hparams, lr=1.0)
    training = dataclasses.replace(first.training, steps=3)
    data = dataclasses.replace(first.data, target="x")
    second = dataclasses.replace(first, hparams=hparams, training=training, data=data)
    assert differences(first, second) == [
        "data.target: None -> 'x'",
        "hparams.lr: 5e-05 -> 1.0",
        "training.steps: 5000 -> 3",
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DataConfig(holdout=0.0), "holdout = 0.0: give a number between 0 and 1"),
        (lambda: DataConfig(image_size=-5), "image_size = -5"),
        (lambda: DataConfig(image_size=4097), "image_size = 4097: .* from 1 to 4096"),
        (lambda: TrainingConfig(steps=cast(int, "5")), "steps = '5': give a whole number"),
        (lambda: TrainingConfig(seed=cast(int, 0.5)), r"seed = 0\.5: give a whole number"),
        (lambda: TrainingConfig(workers=True), "workers = True: give a whole number"),
        (
            lambda: RunConfig(teacher=TeacherConfig(mean=(math.inf, 0.0, 0.0))),
            r"teacher\.mean = inf: give a finite number",
        ),
        (lambda: TrainingConfig(steps=0), "steps = 0"),
        (lambda: TrainingConfig(batch_per_domain=0), "batch_per_domain = 0"),
        (lambda: TrainingConfig(evaluate_every=0), "evaluate_every = 0"),
        (lambda: TrainingConfig(checkpoint_every=0), "checkpoint_every = 0"),
        (lambda: TrainingConfig(log_every=0), "log_every = 0"),
    ],
)
def test_settings_out_of_range_are_errors(build: Any, message: str):
    with pytest.raises(ScmdError, match=message):
        build()


def test_released_presets_select_in_their_first_3751_steps():
    for preset, steps in (("paper", 5001), ("paper-domainnet", 15001)):
        config = build_config(preset)
        assert config.training.steps == steps
        assert isinstance(config.hparams, SCMDConfig)
        chosen = [
            step
            for step in range(steps)
            if phase(step / steps, config.hparams.selection) == "select"
        ]
        assert chosen == list(range(3751))
        assert config.training.precision == ("fp16" if torch.cuda.is_available() else "fp32")


def test_hyper_parameters_of_another_method_are_refused():
    with pytest.raises(ScmdError, match="'scmd' has hyper-parameters of type SCMDConfig, not"):
        RunConfig(method="scmd", hparams=METHODS["erm"].Config())
