"""Predictions, written down: CSV, JSON lines or parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from scmd.errors import ScmdError
from scmd.files import writing_aside

Format = Literal["csv", "jsonl", "parquet"]
_DECIMALS = 6
_ROWS_AT_ONCE = 10_000


class Prediction(NamedTuple):
    """What a student says about one file."""

    file: Path
    ranked: tuple[tuple[str, float], ...]
    """The most probable classes with their probabilities, best first; empty on an error."""
    error: str | None = None
    """Why the file was not classified."""
    abstained: bool = False
    """Whether the best class is less probable than was asked for. No output names it then."""


class Row(NamedTuple):
    """A line of a table: of an image and a rank, or of an image that has no class."""

    file: str
    rank: int | None
    name: str | None
    probability: float | None
    error: str | None


COLUMNS = ("file", "rank", "class", "probability", "error")
_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("rank", pa.int32()),
        ("class", pa.string()),
        ("probability", pa.float64()),
        ("error", pa.string()),
    ]
)


def write_predictions(
    predictions: Iterable[Prediction], form: Format, out: Path | None = None
) -> bool:
    """Write predictions: CSV or parquet (a row per image and rank), or JSON lines (one per image).

    An image that cannot be read has a row with the error and no class. One that the student
    abstains from has a row without rank and class, with the probability of the class that would
    have been the best. A file appears when it is complete. Bytes of a path that are no UTF-8 are
    written as ``\\xff``.

    Returns:
        Whether any image could be read.

    Raises:
        ScmdError: The file cannot be written; parquet without a file.
    """
    if form == "parquet" and out is None:
        raise ScmdError("parquet is no text: name a file, --out FILE.parquet")
    any_classified = False
    with ExitStack() as stack:
        if out is None:
            write = _text_writer(sys.stdout, form)
        elif form == "parquet":
            write = stack.enter_context(_Parquet(stack.enter_context(writing_aside(out))))
        else:
            binary = stack.enter_context(writing_aside(out))
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
            stack.callback(file.detach)
            write = _text_writer(file, form)
        for prediction in predictions:
            write(prediction)
            any_classified |= prediction.error is None
    return any_classified


def rows(prediction: Prediction) -> Iterator[Row]:
    """The rows of one image."""
    file = os.fsencode(prediction.file).decode("utf-8", "backslashreplace")
    if prediction.error is not None:
        yield Row(file, None, None, None, _printable(prediction.error))
    elif prediction.abstained:
        yield Row(file, None, None, round(prediction.ranked[0][1], _DECIMALS), None)
    else:
        for rank, (name, probability) in enumerate(prediction.ranked, 1):
            yield Row(file, rank, name, round(probability, _DECIMALS), None)


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text_writer(file: TextIO, form: Format) -> Callable[[Prediction], None]:
    return _csv_writer(file) if form == "csv" else _json_writer(file)


class _Lines:
    """Ends lines with a line feed alone.

    csv, told to do that, puts no quotes around a carriage return, which readers take for an end.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def _csv_writer(file: TextIO) -> Callable[[Prediction], None]:
    writer = csv.writer(_Lines(file), lineterminator="\r\n")
    writer.writerow(COLUMNS)

    def write(prediction: Prediction) -> None:
        for row in rows(prediction):
            probability = "" if row.probability is None else f"{row.probability:.{_DECIMALS}f}"
            writer.writerow(row._replace(probability=probability))

    return write


def _json_writer(file: TextIO) -> Callable[[Prediction], None]:
    unicode = codecs.lookup(file.encoding or "utf-8").name == "utf-8"

    def write(prediction: Prediction) -> None:
        first, *_ = found = list(rows(prediction))
        line: dict[str, object] = {"file": first.file}
        if first.error is not None:
            line["error"] = first.error
        else:
            line |= {"class": first.name, "probability": first.probability}
            if not prediction.abstained:
                line["top"] = [{"class": r.name, "probability": r.probability} for r in found]
        file.write(json.dumps(line, ensure_ascii=not unicode) + "\n")

    return write


class _Parquet:
    """Row groups of ten thousand rows, so that a long list needs no memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, _SCHEMA)
        self._rows: list[Row] = []

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *exc: object) -> None:
        self._flush()
        self._writer.close()

    def __call__(self, prediction: Prediction) -> None:
        self._rows += rows(prediction)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        self._rows = []
