"""What a run writes down: its log, its samples and its selections."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from scmd.data.folder import DomainImages
from scmd.errors import ScmdError
from scmd.files import cannot_write, writing_aside
from scmd.run_folder import SELECTION
from scmd.selection import Decisions

SELECTION_SCHEMA = pa.schema(
    [
        ("seed", pa.int32()),
        ("step", pa.int32()),
        ("sample_id", pa.int64()),
        ("loss", pa.float32()),
        ("kept", pa.bool_()),
    ]
)
_ROLE = ("domain", "class", "split")
"""The columns of ``samples.parquet`` that say what a sample is for."""
PARTS = "selection"
_PART = re.compile(r"part-(\d{8})-(\d{8})-(\d{3})\.parquet")


class MetricsLog:
    """JSON lines of numbers; a checkpoint remembers its length, and a resume cuts it to that.

    It holds nothing that depends on the clock, so that a resumed run's log is the same to the byte.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self.path = path
        with self._writing():
            self._file = path.open("ab", buffering=0)
            if self._file.tell() < length:
                raise ScmdError(
                    f"{path} is shorter than when the checkpoint was written. Restore it, or train "
                    "anew with another --out"
                )
            self._file.truncate(length)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            ScmdError: It cannot be written.
        """
        with self._writing():
            rest = json.dumps(line).encode() + b"\n"
            while rest:
                rest = rest[self._file.write(rest) :]

    def sync(self) -> int:
        """Flush to the disk; returns the length in bytes.

        Raises:
            ScmdError: It cannot be written.
        """
        with self._writing():
            os.fsync(self._file.fileno())
        return self._file.tell()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``.

    Raises:
        ScmdError: It is missing or damaged; the message names the line.
    """
    lines: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("no object")
                lines.append(line)
    except OSError as error:
        raise ScmdError(f"{path} cannot be read: {error.strerror}. Train again") from error
    except (ValueError, RecursionError) as error:
        raise ScmdError(
            f"{path} is damaged: line {len(lines) + 1}: {error}. Restore it, or train again"
        ) from error
    return lines


class SelectionLog:
    """Every decision of a run: a part per checkpoint, merged at the end.

    Args:
        folder: The run's folder.
        seed: The run's seed.
        start: Parts of steps from here on are dropped: they will be made again.
        process: Index of this process; each writes its own parts.
    """

    def __init__(self, folder: Path, seed: int, start: int = 0, process: int = 0) -> None:
        self.folder = folder / PARTS
        self.merged = folder / SELECTION
        self.seed, self.start, self.process = seed, start, process
        self._pending: list[tuple[int, Tensor, Decisions]] = []
        if self.folder.exists() and process == 0:
            kept = {path for path, first in self._parts() if first < start}
            for path in self.folder.iterdir():  # a kill may leave an unfinished part, too
                if path not in kept:
                    path.unlink()

    def add(self, step: int, sample_ids: Tensor, decisions: Decisions) -> None:
        """Remember one step's decisions; nothing is moved from the device yet."""
        self._pending.append((step, sample_ids, decisions))

    def write_part(self, stop: int) -> None:
        """Write the pending steps, up to ``stop`` (excluded), as one part."""
        if self._pending:
            self.folder.mkdir(exist_ok=True)
            name = f"part-{self.start:08d}-{stop:08d}-{self.process:03d}.parquet"
            with writing_aside(self.folder / name) as file:
                pq.write_table(self._table(), file, compression="zstd")
        self._pending.clear()
        self.start = stop

    def merge(self) -> None:
        """Put all parts, in the order of steps, into ``selection.parquet``.

        They stay until ``remove_parts``, so that a kill in between loses nothing.

        Raises:
            ScmdError: A part is damaged.
        """
        parts = [path for path, _ in self._parts()] if self.folder.exists() else []
        if not parts:
            return
        # By step, then process, so that the file does not depend on where a run was stopped.
        whole = pa.concat_tables([_read_part(path) for path in parts])
        order = np.argsort(whole["step"].to_numpy(), kind="stable")
        with writing_aside(self.merged) as file:
            pq.write_table(whole.take(order).combine_chunks(), file, compression="zstd")

    def _parts(self) -> list[tuple[Path, int]]:
        found = ((path, _PART.fullmatch(path.name)) for path in sorted(self.folder.iterdir()))
        return [(path, int(match[1])) for path, match in found if match]

    def _table(self) -> pa.Table:
        steps = [np.full(len(ids), step, dtype=np.int32) for step, ids, _ in self._pending]
        columns = [
            np.concatenate(steps),
            np.concatenate([ids.cpu().numpy() for _, ids, _ in self._pending]),
            np.concatenate([d.losses.float().cpu().numpy() for _, _, d in self._pending]),
            np.concatenate([d.kept.cpu().numpy() for _, _, d in self._pending]),
        ]
        seed = np.full(len(columns[0]), self.seed, dtype=np.int32)
        return pa.table([seed, *columns], schema=SELECTION_SCHEMA)


def remove_parts(folder: Path) -> None:
    """Remove from a run's folder what was merged; the last thing that a run does."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=SELECTION_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise ScmdError(f"{path} is damaged: {error}. Train again") from error


def write_samples(path: Path, data: DomainImages, split: np.ndarray) -> None:
    """Map every sample id to its path, domain, class and split.

    Args:
        path: The parquet file.
        data: The data set.
        split: Per sample, its split's name: str [N].
    """
    with writing_aside(path) as file:
        pq.write_table(_samples(data, split), file, compression="zstd")


def _samples(data: DomainImages, split: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "sample_id": data.ids,
            "path": list(data.paths),
            "domain": _texts(data.domains, data.domain_index),
            "class": _texts(data.classes, data.labels),
            "split": split,
        }
    )


def _texts(names: tuple[str, ...], places: np.ndarray) -> pa.Array:
    # An array of numpy's would take the longest name's room for every sample.
    return pa.DictionaryArray.from_arrays(places, pa.array(names, pa.string())).cast(pa.string())


def check_samples(path: Path, data: DomainImages, split: np.ndarray) -> None:
    """See that a run's data set is still what ``samples.parquet`` says; no image is opened.

    Raises:
        ScmdError: A sample was added, removed, or has another domain, class or split.
    """
    try:
        before = pq.read_table(path, columns=["path", *_ROLE]).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise ScmdError(
            f"{path} is damaged: {error}. Restore it, or train anew with another --out"
        ) from error
    if what := _change(before, _samples(data, split).select(["path", *_ROLE]).to_pydict()):
        raise ScmdError(
            f"{data.source} has changed since the run began: {what}. Restore it, or train anew "
            "with another --out"
        )


def _change(before: dict[str, list[str]], now: dict[str, list[str]]) -> str | None:
    """The first sample that differs; where a class has changed, splits may have by that alone."""
    if gone := sorted({*before["path"]} - {*now["path"]}):
        return f"{gone[0]} is gone"
    if new := sorted({*now["path"]} - {*before["path"]}):
        return f"{new[0]} is new"
    for column in _ROLE:
        known = dict(zip(before["path"], before[column], strict=True))
        for name, value in zip(now["path"], now[column], strict=True):
            if known[name] != value:
                return f"{name} was in the {column} {known[name]!r} and is in {value!r}"
    return None
