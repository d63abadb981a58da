"""Tables of settings as TOML has them: read, merged, flattened, and made into dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from scmd.errors import ScmdError

T = TypeVar("T")


def read_toml(file: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises a ScmdError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScmdError(f"configuration {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ScmdError(f"configuration {file} is not TOML: {error}") from error


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, those of ``high`` over those of ``low``."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def plain(value: Any) -> Any:
    """A configuration's values as TOML has them: lists, texts; what is None is left out."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_storable(name: str, value: Any) -> None:
    """A configuration file has to give back what was put into it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ScmdError(f"{name} = {value}: give a finite number")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ScmdError(f"{name} = {value!r} is not UTF-8. Rename it") from error


def parse_table(values: Mapping[str, Any], section: str | None, cls: type[T], where: str) -> T:
    """A dataclass from a table of settings, nested ones from the tables in it.

    Args:
        values: The table.
        section: What the dataclass is of it: one table in it, or, if None, all of it.
        cls: The dataclass.
        where: What begins every complaint.

    Raises:
        ScmdError: A setting is not known, of the wrong type, or out of range.
    """
    prefix = f"{section}." if section else ""
    try:
        # Strict, so that "5" is no number and 1 no truth; by way of JSON, where strictness still
        # makes tuples of lists and paths of texts.
        text = json.dumps(values[section] if section else values, default=_refuse)
        return pydantic.TypeAdapter(_forbid_extra(cls)).validate_json(text, strict=True)
    except ScmdError as error:
        raise ScmdError(f"{where}{error}") from error
    except RecursionError as error:
        raise ScmdError(f"{where}tables are nested too deeply to be settings") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = prefix + ".".join(str(part) for part in first["loc"]) or (section or "")
        name = name.removesuffix(".")
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise ScmdError(
                f"{where}there is no setting {name!r}{_nearest(name, section, cls)}"
            ) from error
        message = first["msg"][0].lower() + first["msg"][1:]
        given = _short(repr(first["input"]))
        raise ScmdError(f"{where}{name} = {given}: {message}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ScmdError(f"{where}a number has thousands of digits. Give a smaller one") from error


def _refuse(value: Any) -> None:
    raise ScmdError(f"{value} is a {type(value).__name__}, and no setting is. Put it into quotes")


def _forbid_extra(cls: type[T]) -> type[T]:
    for part in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = part.default_factory
        if default is not dataclasses.MISSING and dataclasses.is_dataclass(made := default()):
            _forbid_extra(type(made))
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return cls


def _nearest(name: str, section: str | None, cls: type) -> str:
    table = dataclasses.asdict(cls())
    values = {section: table} if section else table
    sections = [] if "." in name else list(values)
    near = difflib.get_close_matches(name, [*flatten(values), *sections], n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
