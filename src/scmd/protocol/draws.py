"""Hyper-parameters drawn from a method's search space."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from scmd.errors import ScmdError
from scmd.methods import MethodConfig
from scmd.methods.search import Choice, LogUniform, Range, SearchSpace, Uniform
from scmd.toml_tables import merge

LARGEST = 1e100
"""Beyond it a range cannot be drawn from."""


def seed_hash(*keys: Any) -> int:
    """DomainBed's ``misc.seed_hash``: a seed from 0 to 2**31 - 1."""
    return int(hashlib.md5(str(keys).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31


def draw_values(space: SearchSpace, draw: int, trial: int) -> dict[str, Any]:
    """The values of a draw in a trial; draw 0 changes nothing.

    Each setting has its own generator, seeded by ``seed_hash(seed_hash(draw, trial), name)`` as in
    DomainBed's ``train`` and ``hparams_registry``: every trial has a search of its own, and a
    setting's values do not depend on which others are searched.
    """
    if draw == 0:
        return {}
    seed = seed_hash(draw, trial)
    return {
        name: values.draw(np.random.RandomState(seed_hash(seed, name)))
        for name, values in space.items()
    }


def with_values(hparams: MethodConfig, values: Mapping[str, Any]) -> MethodConfig:
    """A copy of hyper-parameters with some set; names are dotted where they are nested.

    Raises:
        ScmdError: There is no such setting, or its value is out of range.
    """
    return _with(hparams, nested(values), "")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as tables in tables: ``{"a.b": 1}`` to ``{"a": {"b": 1}}``."""
    tables: dict[str, Any] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        if dot:
            value = nested({rest: value})
        elif isinstance(value, Mapping):
            value = nested(value)
        tables = merge(tables, {first: value})
    return tables


def _with(config: Any, values: Mapping[str, Any], prefix: str) -> Any:
    known = [part.name for part in dataclasses.fields(config)]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f". Did you mean {prefix + near[0]!r}?" if near else ""
            raise ScmdError(
                f"there is no hyper-parameter {name!r} in {type(config).__name__}{hint}"
            )
        own = getattr(config, key)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(own):
            value = _with(own, value, f"{name}.")
        elif isinstance(own, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif type(own) is not type(value):
            raise ScmdError(f"{name} = {value!r}: give a value like its default, {own!r}")
        changes[key] = value
    return dataclasses.replace(config, **changes)  # at once: some are valid only together


def parse_range(name: str, given: Any) -> Range:
    """A range from a configuration file: a list of values, or a table low, high, log.

    Raises:
        ScmdError: It is neither.
    """
    if isinstance(given, list) and given:
        return Choice(tuple(given))
    if isinstance(given, Mapping) and {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        low, high = given["low"], given["high"]
        numbers = all(type(v) in (int, float) and abs(v) <= LARGEST for v in (low, high))
        if numbers and low < high:
            if not given.get("log", False):
                return Uniform(low, high)
            if low > 0:
                return LogUniform(low, high)
    raise ScmdError(
        f"search.{name} = {given!r}: give a list of values, or {{low = ..., high = ...}} with "
        "log = true where its logarithm is to be uniform"
    )
