"""What a backbone computes on the way to its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scmd.errors import ScmdError
from scmd.models.student import TimmBackbone, evaluating

MAX_STAGES = 5


def layer_features(backbone: nn.Module, names: Sequence[str], images: Tensor) -> list[Any]:
    """The pooled features [B, F] of images, then the outputs of the named modules (None of one that
    is not called).

    The hooks are there during this call only, so that they are in no copy of a backbone.
    """
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.update({name: output})

    hooks = [backbone.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        pooled = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pooled, *(found.get(name) for name in names)]


def changed_features(
    backbone: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor
) -> Tensor:
    """The pooled features [B, F] of images, where the outputs of named modules are changed.

    The hooks are there during this call only.

    Args:
        backbone: As in ``layer_features``.
        changes: What becomes of the output of each of the modules, by their names.
        images: What the backbone takes.
    """

    def change(name: str) -> Any:
        return lambda module, inputs, output: changes[name](output)

    hooks = [backbone.get_submodule(name).register_forward_hook(change(name)) for name in changes]
    try:
        return backbone(images)
    finally:
        for hook in hooks:
            hook.remove()


def known_features(backbone: nn.Module, method: str) -> int:
    """F, which a backbone tells as ``num_features``; a ScmdError that names the method without."""
    num_features: Any = getattr(backbone, "num_features", None)
    if num_features is None:
        raise ScmdError(f"{method} needs a backbone with num_features. Give it that attribute")
    return int(num_features)


@torch.no_grad()
def stages(backbone: nn.Module) -> Mapping[str, int]:
    """The modules that are a timm backbone's stages, with their channels; else none.

    Of more than five (the blocks of a transformer), four at equal distances are taken, as the paper
    does. What gives no single tensor with those channels is left out.
    """
    if not isinstance(backbone, TimmBackbone):
        return {}
    info: Any = getattr(backbone.model, "feature_info", None) or ()
    listed = {f"model.{entry['module']}": int(entry["num_chs"]) for entry in info}
    names = [name for name in listed if name in dict(backbone.named_modules())]
    if len(names) > MAX_STAGES:
        names = [names[round(len(names) * (part + 1) / 4) - 1] for part in range(4)]
    normalize = backbone.normalize
    image = torch.zeros(1, 3, *normalize.size, device=normalize.mean.device)
    with evaluating(backbone):
        outputs = layer_features(backbone, names, image)[1:]
    return {
        name: listed[name]
        for name, output in zip(names, outputs, strict=True)
        if isinstance(output, Tensor) and channel_place(output, listed[name]) is not None
    }


def channel_place(features: Tensor, channels: int) -> int | None:
    """Which dimension of features holds the channels; None where none has as many.

    ``[B, C, H, W]`` and ``[B, ..., C]`` are common; the former goes first with four dimensions.
    """
    places = (1, -1) if features.ndim == 4 else (-1, 1)
    return next((place for place in places if features.shape[place] == channels), None)
