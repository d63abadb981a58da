"""Reading weight files of other people: never unpickled, always checked."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scmd.errors import ScmdError

_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or from a ``weights_only`` torch checkpoint.

    Raises:
        ScmdError: No such file, damaged, or holding anything but plain tensors on the CPU.
    """
    if not path.is_file():
        raise ScmdError(f"no such weight file: {path}. Give a .safetensors or a torch checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all sorts on damaged files
        raise ScmdError(
            f"{path} cannot be read as weights: {_reason(path, error)}. "
            "Give a .safetensors file or a checkpoint that torch.load(weights_only=True) reads"
        ) from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(_is_plain(v) for v in loaded.values()):
        raise ScmdError(f"{path} holds no state dict: expected a mapping from names to tensors")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _reason(path: Path, error: Exception) -> str:
    """One line; torch's own would advise to unpickle the file after all."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            start = file.read(2)
        if start in (b"PK", b"\x80\x02"):
            return "it is a torch checkpoint, named .safetensors"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _is_plain(value: object) -> bool:
    """A tensor with numbers of its own; not a sparse, quantized or empty shell of one."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load ``state`` into ``module``; names and shapes must match one to one.

    Numbers may have another precision. Where the module has floating-point numbers the file must
    have some, and all of them finite.

    Raises:
        ScmdError: They do not match; the message names the first differences.
    """
    own = module.state_dict()
    common = sorted(own.keys() & state.keys())
    missing = [f"no {name}" for name in sorted(own.keys() - state.keys())]
    extra = [f"an unknown {name}" for name in sorted(state.keys() - own.keys())]
    shapes = [
        f"{name} is {list(state[name].shape)} there and {list(own[name].shape)} here"
        for name in common
        if own[name].shape != state[name].shape
    ]
    kinds = [
        f"{name} is {_kind(state[name])} there and {_kind(own[name])} here"
        for name in common
        if _kind(state[name]) != _kind(own[name])
    ]
    findings = missing[:2] + extra[:2] + shapes[:2] + kinds[:2]
    if findings:
        count = len(missing) + len(extra) + len(shapes) + len(kinds)
        raise ScmdError(
            f"{source} does not fit the model: {'; '.join(findings)}"
            f"{f' ({count} differences)' if count > len(findings) else ''}. "
            "Name the architecture, and its arguments, that the file was saved from"
        )
    module.load_state_dict(state)
    require_finite(module, source)


def require_finite(module: nn.Module, source: Path) -> None:
    """See that no weight of a module is NaN or infinite.

    Raises:
        ScmdError: One is.
    """
    bad = [
        name
        for name, value in module.state_dict().items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if bad:
        raise ScmdError(
            f"{source} is of no use: {bad[0]} holds NaN or infinity"
            f"{f', and so do {len(bad) - 1} others' if len(bad) > 1 else ''}. "
            "Take weights from before the training diverged, or restore the file"
        )


def _kind(value: Tensor) -> str:
    """What numbers a tensor holds, whatever their precision."""
    if value.is_floating_point():
        return "floating-point"
    if value.is_complex():
        return "complex"
    return "boolean" if value.dtype == torch.bool else "whole numbers"
