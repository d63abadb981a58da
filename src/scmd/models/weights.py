"""Reading weight files of other people: never unpickled, always checked."""

from __future__ import annotations

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
        ScmdError: No such file, damaged, or holding anything but tensors.
    """
    if not path.is_file():
        raise ScmdError(f"no such weight file: {path}. Give a .safetensors or a torch checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all sorts on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScmdError(
            f"{path} cannot be read as weights: {reason}. "
            "Give a .safetensors file or a checkpoint that torch.load(weights_only=True) reads"
        ) from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ScmdError(f"{path} holds no state dict: expected a mapping from names to tensors")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load ``state`` into ``module``; names and shapes must match one to one.

    Raises:
        ScmdError: They do not; the message names the first differences.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {list(state[name].shape)} there and {list(own[name].shape)} here"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    findings = [f"no {name}" for name in missing[:2]]
    findings += [f"an unknown {name}" for name in extra[:2]] + shapes[:2]
    if findings:
        count = len(missing) + len(extra) + len(shapes)
        raise ScmdError(
            f"{source} does not fit the model: {'; '.join(findings)}"
            f"{f' ({count} differences)' if count > len(findings) else ''}. "
            "Name the architecture, and its arguments, that the file was saved from"
        )
    module.load_state_dict(state)
