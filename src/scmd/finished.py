"""What a finished run wrote about itself, read and checked: it may have been damaged since."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.records import read_metrics
from scmd.run_folder import METRICS, SUMMARY

HELD_OUT_ROLES = ("target", "left out")

_Part = Annotated[float, Field(ge=0, le=1)]
_Interval = Annotated[list[_Part], Field(min_length=2, max_length=2)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Step = Annotated[int, Field(ge=0, lt=2**31)]
_Names = Annotated[list[str], Field(min_length=1)]


class _Scored(BaseModel):
    accuracy: Annotated[float, Field(ge=0, le=100)]  # only shown, and compared


class _ClassResult(BaseModel):
    accuracy: _Part
    n: _Count
    interval: _Interval


class _Measured(_Scored):
    domainbed_part: _Scored | None = None
    per_class: dict[str, _Scored]


class _Result(BaseModel):
    accuracy: _Part
    role: str
    n: _Count
    interval: _Interval
    macro_accuracy: _Part
    ece: _Part
    ece_calibrated: _Part = 0
    per_class: dict[str, _ClassResult]
    confusion: list[list[_Count]]
    domainbed_part: _Scored | None = None


class _Selection(BaseModel):
    step: _Step


class _RuledSelection(_Selection):
    rule: str


class _Teacher(BaseModel):
    name: str
    fitted_on_domains: list[str] | None = None


class _Cost(BaseModel):
    parameters: Annotated[float, Field(ge=0, le=1e15)]


class _Costs(BaseModel):
    student: _Cost
    teacher: Annotated[_Cost | None, Field(alias="teacher, image tower")] = None


class _ForTables(BaseModel):
    steps: _Step
    sources: _Names
    model_selection: _Selection
    results: dict[str, _Measured]
    teacher: _Teacher | None = None


class _ForPages(BaseModel):
    method: str
    target: str | None = None
    seed: _Step
    steps: _Step
    sources: _Names
    classes: _Names
    images: dict[str, _Count]
    model_selection: _RuledSelection
    results: dict[str, _Result]
    teacher: _Teacher | None = None
    cost: _Costs


_NEEDED: dict[str, type[BaseModel]] = {"tables": _ForTables, "pages": _ForPages}


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ScmdError: It is missing, no JSON, or holds something else.
    """
    try:
        value = read_json(file)
    except RecursionError as error:
        raise _damaged(file, "it is nested too deeply") from error
    if not isinstance(value, dict):
        raise _damaged(file, f"it holds {str(value)[:40]!r}, no object")
    return value


def read_plan(file: Path) -> dict[str, dict[str, Any]]:
    """A comparison's ``plan.json``: what each of its folders is.

    Raises:
        ScmdError: It cannot be read, or is damaged.
    """
    plan = read_object(file)
    for name, planned in plan.items():
        right = (
            isinstance(planned, dict)
            and isinstance(planned.get("label"), str)
            and type(planned.get("draw")) is int
            and name == Path(name).name
        )
        if not right:
            raise _damaged(file, f"{name!r} is no run")
    return plan


def read_summary(
    run: Path, use: Literal["tables", "pages"], target: str | None = None
) -> dict[str, Any]:
    """A run's ``summary.json``.

    Args:
        run: The run's folder.
        use: Whether tables or a page are made of it; a page needs more.
        target: The held-out domain, which must have been measured.

    Raises:
        ScmdError: It is missing or damaged, or lacks what is needed.
    """
    file = run / SUMMARY
    summary = read_object(file)
    if use == "pages" and "soup_of" in summary:
        raise ScmdError(
            f"{run} is a soup, a mean of runs' weights: it has rows in scmd tables and no page. "
            "Give one of the runs, or the comparison's folder"
        )
    try:
        _NEEDED[use].model_validate_json(json.dumps(summary), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise _damaged(file, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
    if target and target not in summary["results"]:
        raise _damaged(file, f"no results on the target {target!r}")
    if use == "pages":
        _check_confusions(file, summary)
    return summary


def held_out(summary: Mapping[str, Any]) -> list[str]:
    """The domains that a run was measured on and not trained on."""
    return [n for n, result in summary["results"].items() if result["role"] in HELD_OUT_ROLES]


def seen_by_teacher(summary: Mapping[str, Any], domains: Iterable[str]) -> list[str]:
    """Those of some domains that the run's teacher was fitted on, as its card says."""
    seen = (summary.get("teacher") or {}).get("fitted_on_domains") or ()
    return [domain for domain in domains if domain in seen]


def _check_confusions(file: Path, summary: dict[str, Any]) -> None:
    classes = summary["classes"]
    for domain, result in summary["results"].items():
        if [len(row) for row in result["confusion"]] != [len(classes)] * len(classes):
            raise _damaged(file, f"the confusion of {domain!r} is not of {len(classes)} classes")
        if unknown := [name for name in result["per_class"] if name not in classes]:
            raise _damaged(file, f"{unknown[0]!r} of {domain!r} is not among the classes")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, each with a ``step``; scores have the parts they
    need.

    Raises:
        ScmdError: The file is missing or damaged; the message names the line.
    """
    file = run / METRICS
    lines = read_metrics(file)
    domains: list[str] | None = None
    for number, line in enumerate(lines, 1):
        wrong = next((name for name, value in line.items() if not _is_right(name, value)), None)
        if wrong is None and "step" not in line:
            wrong = "step"
        if wrong is None and "holdout" in line:
            domains = domains if domains is not None else sorted(line["holdout"])
            wrong = "holdout" if sorted(line["holdout"]) != domains else None
        if wrong is not None:
            raise _damaged(file, f"line {number}: {wrong} = {str(line.get(wrong))[:80]}")
    return lines


def _is_right(name: str, value: Any) -> bool:
    known: dict[str, Callable[[Any], bool]] = {
        "step": lambda v: type(v) is int and 0 <= v < 2**31,
        "holdout": lambda v: isinstance(v, dict) and all(map(_is_number, v.values())),
        "held_out": lambda v: isinstance(v, dict) and all(map(_is_held_out, v.values())),
    }
    return known.get(name, _is_number)(value)


def _is_held_out(value: Any) -> bool:
    """The parts are the target's alone, and of a small one not all."""
    return isinstance(value, dict) and "accuracy" in value and all(map(_is_number, value.values()))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and (value != value or abs(value) <= 1e300)


def _damaged(file: Path, what: str) -> ScmdError:
    return ScmdError(f"{file} is damaged: {what}. Restore it, or train again")
