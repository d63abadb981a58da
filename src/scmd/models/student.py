"""The student: a timm backbone that maps images in [0, 1] to features."""

from __future__ import annotations

import ast
import logging
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import timm
import torch
import tyro
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.errors import ScmdError
from scmd.limits import require_path, require_texts
from scmd.models.folding import fold_batch_norm
from scmd.models.images import Normalize
from scmd.models.weights import load_strictly, read_state_dict

logger = logging.getLogger(__name__)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class StudentConfig:
    """The network that is trained."""

    name: Annotated[str, tyro.conf.arg(name="student")] = "resnet50.tv2_in1k"
    """Any timm model, with its weights' tag where there is one."""
    weights: Annotated[Path | None, tyro.conf.arg(name="student-weights")] = None
    """Start from this file (safetensors, or a checkpoint that loads with weights_only)."""
    pretrained: Annotated[bool, tyro.conf.arg(name="student-pretrained")] = True
    """Without a file: start from timm's weights on the hub. Off: from scratch."""
    args: Annotated[tuple[str, ...], tyro.conf.arg(name="student-args")] = ()
    """Arguments for timm, e.g. pad_type=same drop_path_rate=0.1."""
    mean: Annotated[Triple | None, tyro.conf.arg(name="student-mean")] = None
    """Normalisation of the input; default: the model's own."""
    std: Annotated[Triple | None, tyro.conf.arg(name="student-std")] = None
    """As student-mean."""
    freeze_batch_norm: bool = True
    """Keep the running statistics of batch norm as they are, as DomainBed does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", require_path("student.weights", self.weights))
        object.__setattr__(self, "args", require_texts("student.args", self.args))
        key = argument_from_elsewhere(self.args)
        if key is not None:
            raise ScmdError(f"--student-args does not take {key}. {_FROM_ELSEWHERE[key]}")
        for name, is_right, expected in (
            ("mean", is_triple, "three numbers below a million"),
            ("std", is_deviation, "three numbers above 0 and below a million"),
        ):
            value = getattr(self, name)
            if value is not None and not is_right(value):
                raise ScmdError(f"student.{name} = {value!r}: give {expected}")
            object.__setattr__(self, name, None if value is None else tuple(value))


# A saved student says what it was trained with, and may not make timm read another file.
_FROM_ELSEWHERE = {
    "checkpoint_path": "Give the file with --student-weights FILE",
    "cache_dir": "Set the environment variable HF_HOME to the folder",
    "pretrained": "Pass --student-pretrained or --no-student-pretrained",
}


def argument_from_elsewhere(args: Sequence[str]) -> str | None:
    """The first of timm's arguments, ``name=value``, that says where weights are; or None."""
    names = (arg.partition("=")[0] for arg in args)
    return next((name for name in names if name in _FROM_ELSEWHERE), None)


def is_triple(value: Any) -> bool:
    """Whether this is the mean of an input's three channels."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(item) in (float, int) and -1e6 < item < 1e6 for item in value)
    )


def is_deviation(value: Any) -> bool:
    """Whether this is the standard deviation of an input's three channels."""
    return is_triple(value) and min(value) > 0


class TimmBackbone(nn.Module):
    """A timm model without its head, with its own normalisation.

    Maps float images in [0, 1], [B, 3, H, W], to features [B, num_features].
    """

    def __init__(self, model: nn.Module, normalize: Normalize, freeze_batch_norm: bool) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.freeze_batch_norm = freeze_batch_norm
        # Some heads widen the pooled features (mobilenetv3); timm names their output apart.
        widened: Any = getattr(model, "head_hidden_size", None)
        self.num_features = int(widened or cast(int, model.num_features))
        self._folded = _Folded()
        self.train()  # a new module is in training mode without having been told

    def forward(self, images: Tensor) -> Tensor:
        """Images to features; batch norm that is in eval mode is folded into the convolutions."""
        return self._network()(self.normalize(images))

    def reduced(self, images: Tensor, resolution: float) -> Tensor:
        """Features of images at a part of the side that the network is trained at."""
        return self._network()(self.normalize.reduced(images, resolution))

    def _network(self) -> nn.Module:
        if torch.compiler.is_compiling() or not _can_be_folded(self.model):
            return self.model
        return self._folded.of(self.model, self.training) or self.model

    def train(self, mode: bool = True) -> TimmBackbone:
        """As in torch, but frozen batch norm stays in eval mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class _Folded:
    """A model with its batch norm folded, for each mode; copies of the model have their own."""

    def __init__(self) -> None:
        self._networks: dict[bool, nn.Module | None] = {}

    def of(self, model: nn.Module, training: bool) -> nn.Module | None:
        """The folded network; None where there is nothing to fold."""
        if training not in self._networks:
            self._networks[training] = fold_batch_norm(model)
        return self._networks[training]

    def __deepcopy__(self, memo: dict) -> _Folded:
        return _Folded()

    def __getstate__(self) -> dict:
        return {"_networks": {}}


def _can_be_folded(model: nn.Module) -> bool:
    """Not where batch norm is trained, nor where someone listens to what a part computes."""
    return not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or (part.training and isinstance(part, _BatchNorm))
        for part in model.modules()
    )


def create_backbone(config: StudentConfig, image_size: int) -> TimmBackbone:
    """Build the student's backbone and load the weights that it starts from.

    Raises:
        ScmdError: timm does not know the model or an argument, the weights cannot be had or do
            not fit, or the network does not map images of that size to a vector of features.
    """
    from_hub = config.pretrained and config.weights is None
    model = _create_timm(config.name, parse_args(config.args), from_hub)
    if config.weights is not None:
        load_strictly(model, without_head(model, config.weights), config.weights)
    own = resolve_model_data_config(model)
    size = (image_size, image_size)
    normalize = Normalize(size, config.mean or own["mean"], config.std or own["std"])
    try:
        backbone = TimmBackbone(model, normalize, config.freeze_batch_norm)
    except AttributeError as error:  # of several feature maps
        raise ScmdError(
            f"{config.name!r} does not give one vector of features: {_reason(error)}. "
            "Check --student-args"
        ) from error
    try:
        with torch.no_grad(), evaluating(backbone):
            features = backbone(torch.zeros(1, 3, *size))
    except Exception as error:  # timm's models refuse sizes in many ways
        args = "Check --student-args, change" if config.args else "Change"
        raise ScmdError(
            f"{config.name!r} does not take images of {image_size} px: {_reason(error)}. {args} "
            f"--image-size, or pass --student-args img_size={image_size} where the model has that"
        ) from error
    shape = list(getattr(features, "shape", ()))
    if shape != [1, backbone.num_features]:
        raise ScmdError(
            f"{config.name!r} does not give one vector of features: of one image it gives {shape}. "
            f"Expected {[1, backbone.num_features]}. Check --student-args"
        )
    return backbone


def parse_args(args: Sequence[str]) -> dict[str, Any]:
    """``("a=1", "b=same")`` to ``{"a": 1, "b": "same"}``; values are Python literals or text."""
    parsed: dict[str, Any] = {}
    for arg in args:
        key, equals, value = arg.partition("=")
        if not equals or not key.isidentifier():
            raise ScmdError(f"--student-args {arg!r} is not of the form name=value")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = value
    return parsed


def _create_timm(name: str, args: dict[str, Any], pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        hint = f"Did you mean {' or '.join(near)}?" if near else "See timm.list_models()"
        raise ScmdError(f"timm has no model {name!r}. {hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
    except (TypeError, AttributeError, AssertionError, KeyError, ValueError) as error:
        raise ScmdError(
            f"timm cannot create {name!r} with {args}: {_reason(error)}. Check --student-args"
        ) from error
    except (OSError, RuntimeError) as error:  # the hub's errors, and timm's on a tag
        reason = _reason(error).rstrip(".")
        if "Invalid pretrained tag" in reason:
            model, _, tag = name.partition(".")
            known = timm.list_pretrained(f"{model}.*")[:4]
            raise ScmdError(
                f"timm's {model!r} has no weights tagged {tag!r}. "
                f"Choose from {', '.join(known) or model}"
            ) from error
        raise ScmdError(
            f"the weights of {name!r} cannot be had: {reason}. "
            "Give a file with --student-weights FILE, or train from scratch with "
            "--no-student-pretrained"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of an error's text; of one without a text, its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def without_head(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """A file's weights less the classifier of a timm model, which has another task's classes."""
    state = read_state_dict(path)
    dropped = [name for name in state if name.startswith(head_of(model))]
    if dropped:
        sizes = ", ".join(f"{name} {list(state[name].shape)}" for name in dropped)
        logger.warning("%s: its classifier is dropped (%s)", path, sizes)
    return {name: value for name, value in state.items() if name not in dropped}


def head_of(model: nn.Module) -> tuple[str, ...]:
    """What the names of the weights of a timm model's classifier begin with."""
    head = getattr(model, "default_cfg", {}).get("classifier") or ()
    return tuple(f"{part}." for part in ((head,) if isinstance(head, str) else head))


@contextmanager
def evaluating(module: nn.Module):
    """Put a module into eval mode and, afterwards, each of its parts back into its own mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
