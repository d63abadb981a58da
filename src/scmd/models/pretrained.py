"""Open what open_clip knows, or has the format of: a model, its weights, its words."""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torch.nn import functional as F

from scmd.errors import ScmdError
from scmd.models.open_clip_files import open_files

DEFAULT_TEACHER = "ViT-B-32-quickgelu/openai"
EMBEDDED = "embedded"
"""The tiny teacher of digits that comes with the package."""


@torch.no_grad()
def encode_prompts(model: Any, tokenizer: Callable, prompts: Sequence[Sequence[str]]) -> Tensor:
    """One L2-normalised text embedding per class: [C, E].

    Of a class's prompts, the normalised embeddings are averaged and normalised again (Radford et
    al., 2021). open_clip's own ``build_zero_shot_classifier`` needs as many for every class.
    """
    rows = [
        F.normalize(model.encode_text(tokenizer(list(texts)), normalize=True).mean(0), dim=-1)
        for texts in prompts
    ]
    return torch.stack(rows).float()


def input_size(preprocess_cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of what the image tower sees, of open_clip's ``preprocess_cfg``."""
    size = preprocess_cfg["size"]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


_UNREACHABLE = "check your connection"
"""What huggingface_hub says, and open_clip says after it."""


def open_pretrained(name: str) -> tuple[Any, Any, Any]:
    """An open_clip model with its weights, its image transform and its tokenizer.

    Raises:
        ScmdError: See ``load_teacher``.
    """
    model_name, tag = parse_name(name)
    way_out = (
        f"Give open_clip's NAME/TAG (e.g. {DEFAULT_TEACHER}), hf-hub:OWNER/NAME, or a folder with "
        "open_clip_config.json and open_clip_model.safetensors"
    )
    try:
        with strict_open_clip(name):
            if tag is None:
                model = _open_files(name, model_name)
            else:
                model = open_clip.create_model(
                    model_name, tag, require_pretrained=True, pretrained_text=False
                )
            transform = image_transform_v2(
                PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False
            )
            return model.eval(), transform, open_clip.get_tokenizer(model_name)
    except ScmdError:
        raise
    except ModuleNotFoundError as error:  # of tokenizers and text towers that open_clip only wraps
        raise ScmdError(
            f"teacher {name!r} needs the package {error.name}. Run: pip install {error.name}"
        ) from error
    except Exception as error:  # open_clip, the hub and torch raise all sorts
        if _UNREACHABLE in str(error):
            raise ScmdError(
                f"teacher {name!r} is not in the hub's cache, and the hub cannot be reached. Check "
                "the connection, give a folder in open_clip's format, or make one with scmd "
                "teacher fit"
            ) from error
        raise ScmdError(
            f"teacher {name!r} cannot be loaded: {_one_line(error)}. {way_out}"
        ) from error


def _open_files(name: str, model_name: str) -> Any:
    try:
        return open_files(model_name)
    except ScmdError as error:
        raise ScmdError(f"teacher {name!r} cannot be loaded: {error}") from error


def parse_name(name: str) -> tuple[str, str | None]:
    """A teacher's name as the two arguments that open_clip takes: model and tag.

    Raises:
        ScmdError: It is no name of a teacher.
    """
    if name == EMBEDDED:
        return f"local-dir:{Path(__file__).parents[1] / 'embedded' / 'teacher'}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if Path(name).is_dir():
        return f"local-dir:{name}", None
    model, slash, tag = name.partition("/")
    if open_clip.get_model_config(model) is None:
        raise ScmdError(
            f"teacher {name!r} is neither a folder nor a model that open_clip knows. Give NAME/TAG "
            f"(e.g. {DEFAULT_TEACHER}), hf-hub:OWNER/NAME, or a folder in open_clip's format"
        )
    if not slash or not tag:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ScmdError(
            f"teacher {name!r} names no weights. Give one of {model}'s: "
            f"{', '.join(f'{model}/{t}' for t in tags[:4]) or 'none is known'}"
        )
    return model, tag


@contextmanager
def strict_open_clip(name: str) -> Iterator[None]:
    """Turn open_clip's warning on a QuickGELU mismatch into an error, and keep it quiet else.

    The hub's client, too, which would tell of every try again: what fails is raised.
    """
    loggers = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            yield
    except UserWarning as warning:
        if "QuickGELU" not in str(warning):
            raise
        model, _, tag = name.partition("/")
        other = model.removesuffix("-quickgelu")
        other = other if other != model else f"{model}-quickgelu"
        raise ScmdError(
            f"teacher {name!r}: its weights were trained with another GELU than {model!r} has. "
            f"Use {other}/{tag}"
        ) from warning
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def usable(name: str) -> Iterator[None]:
    """Turn whatever a model does not compute into one line that names the teacher.

    Raises:
        ScmdError: Something was raised inside.
    """
    try:
        yield
    except ScmdError:
        raise
    except Exception as error:  # a tokenizer of other words, towers of other sizes, and so on
        raise ScmdError(
            f"teacher {name!r} cannot be used: {_one_line(error)}. Restore its files, or choose "
            "another teacher"
        ) from error


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".") or type(error).__name__
