"""What a run is: frozen dataclasses, TOML in and out. Order: preset < file < flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from scmd.averaging import AverageConfig
from scmd.data.augment import AugmentationName
from scmd.data.folder import ClassPolicy
from scmd.errors import ScmdError
from scmd.files import writing_aside
from scmd.limits import (
    MOST_IMAGES,
    MOST_PIXELS,
    MOST_SEED,
    MOST_STEPS,
    MOST_WORKERS,
    nearest,
    require_whole,
)
from scmd.machine import Precision, Tracker
from scmd.methods import METHODS, Method, MethodConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.presets import PRESETS
from scmd.toml_tables import check_storable, flatten, merge, parse_table, plain, read_toml


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="data", metavar="DATA")] = ""
    """A folder domain/class/image, or a CSV manifest path,domain,class."""
    target: str | None = None
    """The domain to hold out and measure on. Without it every domain is a source."""
    also_held_out: tuple[str, ...] = ()
    """Further domains that are neither trained on nor chosen by, only measured."""
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""
    holdout: float = 0.2
    """Part of every domain that is held out for model selection (DomainBed's split)."""
    image_size: int = 224
    """The student's input, in pixels."""
    class_balanced: bool = False
    """Draw the classes of a domain equally often."""
    flip: bool = True
    """Mirror training images by chance; off where left and right matter (digits, text)."""
    skip_bad: bool = False
    """Leave undecodable images out (they are looked for before training)."""
    augment_holdout: bool = False
    """Score the holdout on augmented images, as the released code does."""
    augmentation: AugmentationName = "tensor"
    """tensor: equal in distribution to DomainBed's, several times faster; of an image that is much
    larger than --image-size it crops a reduced one. torchvision: DomainBed's, through PIL."""
    decode_once: bool = True
    """Keep all images decoded in the cache folder, for all runs, where they fit. No result depends
    on it."""
    mixtures: bool = False
    """Train on mixtures of two images of a batch; the larger part gives the label, and a teacher is
    asked about the mixture. For whole batches (selection.rule all), and many steps."""

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise ScmdError(f"holdout = {self.holdout}: give a number between 0 and 1")
        require_whole("image_size", self.image_size, 1, MOST_PIXELS)


@dataclass(frozen=True)
class TrainingConfig:
    """The loop."""

    steps: int = 5000
    """Optimizer steps (the paper: 15000 on DomainNet)."""
    batch_per_domain: int = 32
    """Images of each source domain in a step."""
    seed: int = 0
    """Of split, initial weights, order and augmentation."""
    evaluate_every: int = 300
    """Steps between scores of the sources' holdout, step 0 and the last included."""
    checkpoint_every: int = 300
    """Steps between checkpoints."""
    score_held_out: bool = False
    """Measure what is held out (the target, too) at every score, as DomainBed does; it is logged,
    and the run does not look at it."""
    log_every: int = 10
    """Steps between lines of losses in metrics.jsonl."""
    precision: Precision = "auto"
    """Of the forward passes. auto: bf16 where the machine multiplies in it (a GPU; a CPU with
    AVX-512 BF16 or AMX, and images of 112 px or more), fp32 elsewhere. fp16 needs a GPU."""
    workers: int = 2
    """Processes that decode and augment; 0: the training process does."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    tracker: Tracker = "none"
    """Where losses and scores go besides the run's own log."""

    def __post_init__(self) -> None:
        for name in ("steps", "evaluate_every", "checkpoint_every", "log_every"):
            require_whole(name, getattr(self, name), 1, MOST_STEPS)
        require_whole("batch_per_domain", self.batch_per_domain, 1, MOST_IMAGES)
        require_whole("seed", self.seed, 0, MOST_SEED)
        require_whole("workers", self.workers, 0, MOST_WORKERS)


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on."""

    method: Annotated[str, tyro.conf.arg(help=", ".join(METHODS))] = "scmd"
    """A name in METHODS."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    student: Annotated[StudentConfig, tyro.conf.arg(name="")] = field(default_factory=StudentConfig)
    teacher: Annotated[TeacherConfig, tyro.conf.arg(name="")] = field(default_factory=TeacherConfig)
    hparams: Annotated[MethodConfig, tyro.conf.arg(name="")] = field(
        default_factory=METHODS["scmd"].Config
    )
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(
        default_factory=TrainingConfig
    )
    average: Annotated[AverageConfig, tyro.conf.arg(name="")] = field(default_factory=AverageConfig)

    def __post_init__(self) -> None:
        expected = method_class(self.method).Config
        if type(self.hparams) is not expected:
            raise ScmdError(
                f"method {self.method!r} has hyper-parameters of type {expected.__name__}, not "
                f"{type(self.hparams).__name__}"
            )
        if self.data.mixtures and self.teacher.view != "augmented":
            raise ScmdError(
                f"data.mixtures with teacher.view = {self.teacher.view!r}: a teacher is asked "
                "about each mixture anew. Leave one of the two at its default"
            )
        for name, value in flatten(plain(dataclasses.asdict(self))).items():
            for item in value if isinstance(value, list) else [value]:
                check_storable(name, item)


def method_class(name: str, where: str = "") -> type[Method]:
    """The method of that name, which stands in ``where``.

    Raises:
        ScmdError: There is none; the message suggests the nearest one.
    """
    if name not in METHODS:
        raise ScmdError(f"{where}there is no method {name!r}. {nearest(name, METHODS)}")
    return METHODS[name]


def build_config(
    preset: str = "default", file: str | Path | None = None, method: str | None = None
) -> RunConfig:
    """A configuration from a preset, a TOML file over it, and a method over both.

    A preset's hyper-parameters go to the methods that have them.

    Raises:
        ScmdError: Unknown preset, method or setting; a file that is no TOML; a value of the wrong
            type or out of range.
    """
    given = read_toml(Path(file)) if file else {}
    return config_from(given, preset, method, f"{file}: " if file else "")


def config_from(
    given: Mapping[str, Any], preset: str = "default", method: str | None = None, where: str = ""
) -> RunConfig:
    """As ``build_config``, of settings that are read already; ``where`` begins every complaint."""
    if preset not in PRESETS:
        raise ScmdError(f"there is no preset {preset!r}. {nearest(preset, PRESETS)}")
    name = method or given.get("method", "scmd")
    config_class = method_class(str(name), "" if method else where).Config
    hparams = given.get("hparams", {})
    if method not in (None, given.get("method", "scmd")) and isinstance(hparams, Mapping):
        # The file's hyper-parameters are another method's: keep what both have.
        hparams = known_to(hparams, config_class)
    values = merge(
        {**PRESETS[preset], "hparams": known_to(PRESETS[preset].get("hparams", {}), config_class)},
        {**given, "hparams": hparams, "method": name},
    )
    return _validate(values, config_class, where)


def load_config(file: str | Path) -> RunConfig:
    """Read a run's ``config.toml``. Raises as ``build_config``."""
    return build_config(file=file)


def to_toml(config: RunConfig) -> str:
    """The complete configuration as TOML; what is None is left out."""
    return tomli_w.dumps(plain(dataclasses.asdict(config)))


def save_config(config: RunConfig, file: Path) -> None:
    """Write ``to_toml`` to a file."""
    with writing_aside(file) as aside:
        aside.write(to_toml(config).encode())


# These change how long a run takes, and nothing that it writes.
_WITHOUT_EFFECT = (
    "data.decode_once",
    "training.workers",
    "training.device",
    "training.tracker",
)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """The settings in which two configurations differ in effect, as ``section.name: a -> b``."""
    left, right = (flatten(plain(dataclasses.asdict(config))) for config in (a, b))
    for values in (left, right):
        values["data.path"] = str(Path(values["data.path"]).resolve())
        for name in _WITHOUT_EFFECT:
            del values[name]
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _validate(values: Mapping[str, Any], hparams: type[MethodConfig], where: str) -> RunConfig:
    run = dict(values)
    method = run.pop("method")
    chosen = parse_table({"hparams": run.pop("hparams")}, "hparams", hparams, where)
    rest = parse_table(run, None, RunConfig, where)
    return dataclasses.replace(rest, method=method, hparams=chosen)


def known_to(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Those of some settings that a dataclass has."""
    names = {part.name for part in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}
