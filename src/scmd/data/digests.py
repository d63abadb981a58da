"""A number for every image file, of its bytes: the same for a copy, another after any change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scmd.data.folder import DomainImages
from scmd.data.images import describe
from scmd.errors import LEAVE_OUT, BadImageError, ScmdError
from scmd.files import writing_aside
from scmd.store import cache_root


class _Known(NamedTuple):
    """What a file's number was, and by what it is seen that the file has not changed since."""

    size: int
    mtime_ns: int
    number: int


_SCHEMA = pa.schema(
    [("path", pa.string()), *((name, pa.int64()) for name in _Known._fields)],
    metadata={"scmd": "file digests 1"},
)


def file_numbers(
    data: DomainImages, rows: np.ndarray, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """The numbers of some samples' files: int64 [n], from 0 to 2**63 - 1, in the order of ``rows``.

    Files are read once and remembered by path, size and time under ``scmd.store.cache_root``.

    Args:
        data: The data set.
        rows: The samples, int64 [n].
        progress: Called with the number of files done and the number of all.

    Raises:
        BadImageError: A file cannot be read.
    """
    known = _read(data.root)
    fresh: dict[str, _Known] = {}
    numbers = np.empty(len(rows), dtype=np.int64)

    def look(row: int) -> _Known:
        path = data.root / data.paths[row]
        try:
            status = path.stat()
            before = known.get(data.paths[row])
            if before and before[:2] == (status.st_size, status.st_mtime_ns):
                return before
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
        except OSError as error:
            raise BadImageError(
                f"{path} cannot be read: {describe(error)}. Repair or remove it, or {LEAVE_OUT}"
            ) from error
        number = int.from_bytes(digest.digest(), "big") >> 1
        return _Known(status.st_size, status.st_mtime_ns, number)

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, found in enumerate(pool.map(look, rows.tolist())):
                numbers[done] = found.number
                path = data.paths[int(rows[done])]
                if found != known.get(path):
                    fresh[path] = found
                if progress is not None:
                    progress(done + 1, len(rows))
    finally:  # what an interrupted pass has read is not read again
        if fresh:
            _write(data.root, known | fresh)
    return numbers


def _memory(root: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16).hexdigest()
    return cache_root() / "digests" / f"{name}.parquet"


def _read(root: Path) -> dict[str, _Known]:
    try:
        with pq.ParquetFile(_memory(root), page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(_SCHEMA, check_metadata=True):
                return {}
            columns = file.read().to_pydict()
    except (OSError, ValueError, RuntimeError, pa.ArrowException):
        return {}  # absent, damaged or foreign: it is made anew
    paths, *values = columns.values()
    return dict(zip(paths, map(_Known, *values), strict=True))


def _write(root: Path, known: dict[str, _Known]) -> None:
    path = _memory(root)
    values = zip(*known.values(), strict=True)
    table = pa.Table.from_arrays(
        [pa.array(list(known), pa.string()), *(pa.array(v, pa.int64()) for v in values)],
        schema=_SCHEMA,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing_aside(path) as file:
            pq.write_table(table, file, write_page_checksum=True)
    except (OSError, ScmdError):
        pass  # the next run reads the files again
