"""What a configuration file says about single methods: ``[methods.NAME]`` and ``[search]``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from scmd.errors import ScmdError
from scmd.methods import METHODS
from scmd.methods.ablations import ABLATIONS
from scmd.methods.search import SearchSpace
from scmd.protocol.draws import nested, parse_range
from scmd.toml_tables import merge

PROBE, FINE_TUNED = "linear-probe", "fine-tuned"
REFERENCE_SEARCH: dict[str, dict[str, Any]] = {
    PROBE: {"c": {"low": 1e-2, "high": 1e2, "log": True}},
    FINE_TUNED: {"lr": {"low": 1e-6, "high": 1e-4, "log": True}},
}
"""The ranges of what can be searched of a teacher that learns."""


def check_names(settings: Mapping[str, Any], where: str) -> None:
    """See that a comparison's settings name methods and hyper-parameters that there are.

    A hyper-parameter for all methods, in ``[hparams]`` or ``[search]``, must be one of some method.

    Raises:
        ScmdError: One does not; the message begins with ``where`` and suggests the nearest.
    """
    rows = (*METHODS, *ABLATIONS)
    known = [name for method in METHODS for name in _hparams(method)]
    first = {name.partition(".")[0] for name in known}
    tables = {name: _table(settings, name, where) for name in ("methods", "search", "hparams")}
    for name in tables["methods"]:
        _require(name, rows, f"{where}methods.{name}: there is no method")
        _table(tables["methods"], name, f"{where}methods.")
    for name in tables["hparams"]:
        _require(name, first, f"{where}hparams.{name}: no method has a hyper-parameter")
    for name, value in tables["search"].items():
        if name in (*rows, *REFERENCE_SEARCH):
            for own in _ranges(_table(tables["search"], name, f"{where}search.")):
                text = f"{where}search.{name}.{own}: {name} has no hyper-parameter"
                _require(own, _hparams(name), text)
        elif isinstance(value, Mapping) and name not in first:
            _require(name, (*rows, *REFERENCE_SEARCH), f"{where}search.{name}: there is no method")
        else:
            for own in _ranges({name: value}):
                _require(own, known, f"{where}search.{own}: no method has a hyper-parameter")


def own_values(settings: Mapping[str, Any], row: str) -> dict[str, Any]:
    """A row's own hyper-parameters: its method's, then what makes an ablation, then its own."""
    method, changes = ABLATIONS.get(row, (row, {}))
    methods = nested(settings.get("methods", {}))
    return merge(merge(methods.get(method, {}), nested(changes)), methods.get(row, {}))


def search_space(settings: Mapping[str, Any], row: str) -> SearchSpace:
    """A row's ranges: its method's, those given for all methods, for its method, for itself.

    Raises:
        ScmdError: One is no range.
    """
    method, changes = ABLATIONS.get(row, (row, {}))
    search, rows = settings.get("search", {}), (*METHODS, *ABLATIONS, *REFERENCE_SEARCH)
    tables = {name: search[name] for name in rows if name in search}
    special = {**_ranges(tables.get(method, {})), **_ranges(tables.get(row, {}))}
    if row in REFERENCE_SEARCH:
        given = REFERENCE_SEARCH[row] | special
        return {name: parse_range(name, value) for name, value in given.items()}
    if row not in (*METHODS, *ABLATIONS):
        return {}
    known = METHODS[method].search_space
    general = _ranges({name: value for name, value in search.items() if name not in tables})
    given = {name: value for name, value in general.items() if name in known} | special
    space = {**known, **{name: parse_range(name, value) for name, value in given.items()}}
    # What makes an ablation is not searched.
    return {name: values for name, values in space.items() if name not in changes}


def _hparams(row: str) -> list[str]:
    if row in REFERENCE_SEARCH:
        return list(REFERENCE_SEARCH[row])
    method, _ = ABLATIONS.get(row, (row, {}))
    return list(_ranges(dataclasses.asdict(METHODS[method].Config())))


def _ranges(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten to dotted names; a table with ``low`` or ``high`` is a range itself."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and not {"low", "high"} & value.keys():
            flat |= _ranges(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _table(settings: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    table = settings.get(name, {})
    if not isinstance(table, Mapping):
        raise ScmdError(f"{where}{name} = {table!r}: give a table of settings")
    return table


def _require(name: str, known: Iterable[str], text: str) -> None:
    known = list(dict.fromkeys(known))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(known)}"
        raise ScmdError(f"{text} {name!r}. {hint}")
