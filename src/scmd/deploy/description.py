"""What is written beside a saved student: checked before anything is built of it, or published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scmd.errors import ScmdError
from scmd.models.limits import MOST_PIXELS
from scmd.models.pretrained import EMBEDDED, parse_name
from scmd.models.student import argument_from_elsewhere, is_deviation, is_triple

FORMAT = 1


def check_description(description: Any, file: Path) -> dict[str, Any]:
    """See that a student's description can be used.

    Args:
        description: As ``save_classifier`` writes it.
        file: Where it was read, for the messages.

    Raises:
        ScmdError: It has another format, lacks something, or a value is not what it should be.
    """
    try:
        if description["format"] != FORMAT:
            raise ScmdError(
                f"{file} has format {description['format']}, this version reads {FORMAT}. "
                "Use the version of scmd that wrote it"
            )
        for key, (expected, is_right) in _FIELDS.items():
            if key in _OPTIONAL and key not in description:
                continue
            if not is_right(description[key]):
                raise ScmdError(f"{file}: {key} = {_short(description[key])}. Expected {expected}")
    except (TypeError, KeyError) as error:
        raise ScmdError(f"{file} is damaged: {error}. Train again, or restore it") from error
    return description


def public_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """A student's description without what says where something lies on somebody's disk.

    The same network is built of it.
    """
    # timm may have been told of a file to start from; a trained student needs none.
    args = [arg for arg in description["args"] if not arg.startswith("pretrained_cfg")]
    told = {**description, "args": args}
    if "teacher" in told:
        told["teacher"] = public_name(str(told["teacher"]))
    return told


def public_name(teacher: str) -> str:
    """A teacher's name; of a folder, which may be gone by now, the last part of its path."""
    if teacher == EMBEDDED:
        return teacher
    try:
        model, _ = parse_name(teacher)
    except ScmdError:
        model = f"local-dir:{teacher}"
    folder = model.removeprefix("local-dir:")
    return teacher if folder == model else Path(folder).absolute().name


def refuse_soup(description: Mapping[str, Any], run: Path) -> None:
    """See that a student is one run's: what is said of a student that is handed on is its run's.

    Args:
        description: As ``load`` found it.
        run: The student's folder.

    Raises:
        ScmdError: It is the mean of several runs' weights.
    """
    names = description.get("soup_of")
    if isinstance(names, list) and names:
        raise ScmdError(
            f"{run} is a soup, the mean of {len(names)} runs' weights: it can be used with scmd "
            "predict and scmd evaluate, but not exported or uploaded, since these runs held out "
            f"different images. Give one of them, such as {run.parent / str(names[0])}"
        )


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not print a number of thousands of digits
        return "a huge number"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_classes(value: Any) -> bool:
    return _is_texts(value) and len(value) > 0 and len(set(value)) == len(value)


def _are_arguments(value: Any) -> bool:
    """Of an architecture: none that makes timm read another file."""
    return _is_texts(value) and argument_from_elsewhere(value) is None


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "architecture": ("a name", lambda value: isinstance(value, str)),
    "args": ("a list of texts, none of which names a file or weights", _are_arguments),
    "image_size": (
        f"a whole number from 1 to {MOST_PIXELS:,}",
        lambda value: type(value) is int and 0 < value <= MOST_PIXELS,
    ),
    "mean": ("three numbers", is_triple),
    "std": ("three numbers above 0", is_deviation),
    "classes": ("a list of texts, each of them once", _are_classes),
    "temperature": (
        "a number above 0, not below a millionth and not above a million",
        lambda value: type(value) in (int, float) and 1e-6 <= value <= 1e6,
    ),
}
_OPTIONAL = {"temperature"}
"""What earlier versions did not write."""
