"""A folder in open_clip's format, of whoever made it: checked, and then loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
from open_clip import factory

from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.models.limits import MOST_PIXELS, no_larger_than
from scmd.models.weights import load_strictly, read_state_dict, require_finite

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_PREFERRED = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors")
_SIZES = {
    "embed_dim", "layers", "width", "head_width", "patch_size", "image_size", "context_length",
    "vocab_size", "heads",
}  # fmt: skip
_SCALARS = {"logit_scale", "logit_bias"}
"""Some files have them with a dimension, and some without."""
_CODE = "trust_remote_code"
MOST = 10_000_000
"""No width or number of words is larger; what is too large for its weights is noticed apart."""


def open_files(name: str) -> Any:
    """Load an open_clip model from a folder or from the hub.

    Nothing is unpickled; names, shapes and kinds of numbers have to be the architecture's, unless
    open_clip knows the file's format as another one of the same model; all numbers are finite.

    Args:
        name: ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``, as open_clip has them.

    Raises:
        ScmdError: A file is missing, damaged, or does not fit the other. (The hub and open_clip
            raise all sorts besides.)
    """
    schema, _, place = name.partition(":")
    if schema == "hf-hub":
        config = Path(factory.download_pretrained_from_hf(place, filename=CONFIG))
        weights = _hub_weights(place)
    else:
        config, weights = Path(place) / CONFIG, None
        if not place or not config.is_file():
            raise FileNotFoundError(f"{config} not found")
    read_config(config)
    weights = weights or _weights_in(config.parent)
    state = read_state_dict(weights)
    with no_larger_than(sum(value.numel() for value in state.values()), config):
        # The text tower's own weights (of a Hugging Face model, say) would be downloaded only to
        # be overwritten by the checkpoint's.
        model: Any = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    for scalar in _SCALARS & state.keys():
        own = getattr(model, scalar, None)
        if own is not None and own.numel() == state[scalar].numel():
            state[scalar] = state[scalar].reshape(own.shape)
    if state.keys() == model.state_dict().keys():
        load_strictly(model, state, weights)
    else:
        _load_converted(model, state, weights)
    return model


def read_config(file: Path, bare: bool = False) -> dict[str, Any]:
    """Read a configuration of open_clip: ``model_cfg``, and ``preprocess_cfg`` where it is there.

    Args:
        file: A JSON file.
        bare: Take a file that is all ``model_cfg``, as those that come with open_clip are.

    Raises:
        ScmdError: It is missing, damaged, has an impossible size, or asks to run code.
    """
    config = read_json(file)
    if bare and isinstance(config, dict) and "vision_cfg" in config:
        config = {"model_cfg": config}
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ScmdError(f"{file} has no model_cfg: it is no configuration of open_clip")
    model = config["model_cfg"]
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(part), dict):
            raise ScmdError(f"{file} has no {part} in its model_cfg. Restore it")
    if not isinstance(config.setdefault("preprocess_cfg", {}), dict):
        raise ScmdError(f"{file}: preprocess_cfg is no mapping. Restore or remove it")
    for where, value in _settings(config):
        key = where.rpartition(".")[2]
        if key == _CODE:
            raise ScmdError(f"{file}: {where} would run code of the model's author. Remove it")
        most = MOST_PIXELS if key == "image_size" else MOST
        if key in _SIZES and not _is_size(value, most):
            raise ScmdError(
                f"{file}: {where} = {value!r}. Expected a whole number from 1 to {most:,}"
            )
    _check_preprocessing(config["preprocess_cfg"], file)
    return config


def _settings(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield f"{above}{key}", value
        if isinstance(value, dict):
            yield from _settings(value, f"{above}{key}.")


def _is_size(value: Any, most: int) -> bool:
    """A whole number from 1, or several; or nothing, for what open_clip takes then."""
    numbers = value if isinstance(value, list) and value else [value]
    return value is None or all(type(number) is int and 0 < number <= most for number in numbers)


def _check_preprocessing(config: dict[str, Any], file: Path) -> None:
    for key, above in (("mean", -math.inf), ("std", 0.0)):
        value = config.get(key, [1.0] * 3)
        if not (
            isinstance(value, list)
            and len(value) == 3
            and all(type(x) in (int, float) and max(above, -1e6) < x < 1e6 for x in value)
        ):
            raise ScmdError(f"{file}: preprocess_cfg.{key} = {value!r}. Expected three numbers")
    size = config.get("size")
    if not _is_size(size, MOST_PIXELS) or (isinstance(size, list) and len(size) != 2):
        raise ScmdError(
            f"{file}: preprocess_cfg.size = {size!r}. Expected pixels, from 1 to {MOST_PIXELS:,}"
        )


def _weights_in(folder: Path) -> Path:
    """safetensors before anything else, and open_clip's name before others."""
    for name in _PREFERRED:
        if (folder / name).is_file():
            return folder / name
    for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt"):
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        if len(found) > 1:
            raise ScmdError(
                f"{folder} has several weights: {', '.join(file.name for file in found[:4])}"
                f"{', ...' if len(found) > 4 else ''}. Keep one of them"
            )
        if found:
            return found[0]
    raise ScmdError(f"{folder} has no weights: no {WEIGHTS}")


def _hub_weights(place: str) -> Path:
    try:
        return Path(factory.download_pretrained_from_hf(place))
    except Exception as error:  # the hub raises all sorts
        raise ScmdError(f"its weights cannot be had from the hub: {error}") from error


def _load_converted(model: Any, state: dict[str, Any], weights: Path) -> None:
    """Leave it to open_clip, which knows other projects' names of the same weights."""
    try:
        open_clip.load_checkpoint(model, str(weights))
    except Exception:  # KeyErrors and others: what is wrong is that names do not match
        load_strictly(model, state, weights)
        raise
    require_finite(model, weights)
