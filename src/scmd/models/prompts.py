"""From class names to the prompts that the teacher's text tower reads."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from scmd.errors import ScmdError
from scmd.limits import require_path, require_texts

DEFAULT_TEMPLATE = "this is a photo of a {}"


@dataclass(frozen=True)
class PromptConfig:
    """What the text tower reads about each class."""

    templates: Annotated[tuple[str, ...], tyro.conf.arg(name="prompts")] = (DEFAULT_TEMPLATE,)
    """Templates, {} for the class; of several, the embeddings are averaged."""
    file: Annotated[Path | None, tyro.conf.arg(name="prompts-file")] = None
    """TOML or JSON with the prompts of every class, instead of templates."""
    class_names: Path | None = None
    """TOML or JSON that maps classes to what prompts call them."""

    def __post_init__(self) -> None:
        templates = require_texts("prompts.templates", self.templates)
        object.__setattr__(self, "templates", templates)
        for name in ("file", "class_names"):
            path = require_path(f"prompts.{name}", getattr(self, name))
            object.__setattr__(self, name, path)


def readable(class_name: str) -> str:
    """``art_painting`` to ``art painting``."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split())


def class_texts(classes: Sequence[str], names_file: Path | None = None) -> list[str]:
    """What each class is called in a prompt, by rule or as a mapping file says.

    Args:
        classes: The data set's class names.
        names_file: TOML or JSON, ``class = "text"``, for some or all of the classes.

    Raises:
        ScmdError: The file cannot be read, or names a class that there is not.
    """
    given = _read_mapping(names_file, classes) if names_file else {}
    for name, text in given.items():
        if not isinstance(text, str) or not text.strip():
            raise ScmdError(f"{names_file}: the name of {name!r} is {text!r}. Expected a text")
    return [str(given.get(name, readable(name))) for name in classes]


def twins(classes: Sequence[str], rows: Tensor) -> tuple[str, str] | None:
    """The first two classes of equal rows, [C, n], of tokens or embeddings; None where all differ.

    Nothing that is asked with these can tell the two apart.
    """
    known: dict[bytes, str] = {}
    for name, row in zip(classes, rows.cpu().numpy(), strict=True):
        if (first := known.setdefault(row.tobytes(), name)) != name:
            return first, name
    return None


def class_prompts(classes: Sequence[str], config: PromptConfig | None = None) -> list[list[str]]:
    """The prompts of every class, in the order of ``classes``.

    Args:
        classes: The data set's class names.
        config: Templates in which ``{}`` stands for the class, or a file,
            ``class = ["prompt", ...]``, that has all classes.

    Raises:
        ScmdError: A template without ``{}``, or a file that cannot be read, lacks a class or
            names one that there is not.
    """
    config = config or PromptConfig()
    if config.file is not None:
        given = _read_mapping(config.file, classes)
        return [_prompts_of(given, name, config.file) for name in classes]
    if not config.templates:
        raise ScmdError(f"no prompt. Give at least one, e.g. --prompts {DEFAULT_TEMPLATE!r}")
    for template in config.templates:
        if "{}" not in template:
            raise ScmdError(
                f"prompt {template!r} does not say where the class goes. Put {{}} into it, "
                f"e.g. {DEFAULT_TEMPLATE!r}"
            )
    texts = class_texts(classes, config.class_names)
    return [[template.replace("{}", text) for template in config.templates] for text in texts]


def _prompts_of(given: dict[str, object], name: str, path: Path) -> list[str]:
    prompts = given.get(name)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(p, str) and p for p in prompts)
    ):
        raise ScmdError(f'{path} has no prompt for class {name!r}. Add {name!r} = ["..."]')
    return prompts


def _read_mapping(path: Path, classes: Sequence[str]) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
        mapping = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ScmdError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of JSON, TOML and UTF-8
        raise ScmdError(f"{path} is neither TOML nor JSON (.json): {error}") from error
    if not isinstance(mapping, dict):
        raise ScmdError(f"{path} is not a mapping from class names")
    unknown = [name for name in mapping if name not in classes]
    if unknown:
        raise ScmdError(
            f"{path} names {unknown[0]!r}, which is no class of the data "
            f"({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}). Remove it"
        )
    return mapping
