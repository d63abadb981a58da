"""Batch norm in eval mode, folded into the convolution before it.

With fixed statistics batch norm is an affine map of each channel, which the convolution's weights
can take up: γ/σ · (w * x − μ) + β = (γ/σ w) * x + (β − γμ/σ). That is exact up to rounding, for the
gradients of w, γ and β too; the map is computed on the weights and not on the activations, and the
convolution's output need not be kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedConvolution(nn.Module):
    """A convolution and the batch norm after it, as one convolution; both keep their parameters."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, images: Tensor) -> Tensor:
        """As ``norm(convolution(images))``, of a norm in eval mode: [B, C, H, W]."""
        convolution, norm = self.convolution, self.norm
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        scale = torch.rsqrt(var + norm.eps)
        if norm.affine:
            scale = norm.weight * scale
        shift = -mean * scale if convolution.bias is None else (convolution.bias - mean) * scale
        if norm.affine:
            shift = norm.bias + shift
        weight = convolution.weight * scale.view(-1, 1, 1, 1)
        if isinstance(convolution, Conv2dSame):
            settings: Any = convolution
            output = conv2d_same(
                images,
                weight,
                shift,
                settings.stride,
                settings.padding,
                settings.dilation,
                settings.groups,
            )
        else:
            output = convolution._conv_forward(images, weight, shift)
        if isinstance(norm, BatchNormAct2d):
            after: Any = norm
            output = after.act(after.drop(output))
        return output


def fold_batch_norm(model: nn.Module) -> nn.Module | None:
    """A network that computes the same with its batch norms folded, on the same parameters.

    It holds for the mode, training or not, that the model's parts are in at the moment.

    Args:
        model: Maps images to features; its batch norms are in eval mode.

    Returns:
        The network, or None where there is nothing to fold, the model cannot be traced, or it has
        parameters that belong to no layer.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # what a model's own code makes of a symbolic tensor can be anything
        return None
    if any(node.op == "get_attr" for node in graph.nodes):
        return None  # a parameter that the graph would hold is not replaced by functional_call
    traced = fx.GraphModule(model, graph)
    parts: dict[str, Any] = dict(traced.named_modules())
    folded = 0
    for node in list(graph.nodes):
        if not _is(node, parts, _NORMS) or parts[node.target].running_var is None:
            continue
        before = node.args[0]
        if not _is(before, parts, _CONVOLUTIONS) or len(before.users) > 1:
            continue
        name = f"folded_{folded}"
        traced.add_submodule(name, FoldedConvolution(parts[before.target], parts[node.target]))
        with graph.inserting_after(node):
            node.replace_all_uses_with(graph.call_module(name, before.args))
        graph.erase_node(node)
        graph.erase_node(before)
        folded += 1
    if not folded:
        return None
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """Looks only into modules that have batch norm inside; what is random in others stays so."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _CONVOLUTIONS + _NORMS) or not any(
            isinstance(part, _NORMS) for part in m.modules()
        )


def _is(node: Any, parts: dict[str, Any], types: tuple[type, ...]) -> bool:
    # Subclasses may compute something else.
    return (
        isinstance(node, fx.Node)
        and node.op == "call_module"
        and type(parts[str(node.target)]) in types
    )
