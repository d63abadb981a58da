"""What image files hold, remembered from one check to the next."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from scmd.errors import ScmdError
from scmd.files import writing_aside
from scmd.store import cache_root


class FileKey(NamedTuple):
    """A file that has not changed since it was looked at."""

    path: str
    size: int
    mtime_ns: int


class Content(NamedTuple):
    """What a file holds."""

    digest: bytes
    """Of its size and RGB pixels."""
    format: str
    """Pillow's name of it."""


# Another Pillow may decode to other pixels, so that what it cached cannot be compared.
_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "digest": pa.binary(16),
        "format": pa.string(),
    },
    metadata={"scmd": f"data check 1, Pillow {PIL.__version__}"},
)


def _cache_file(source: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(source.resolve()), digest_size=16).hexdigest()
    return cache_root() / "check" / f"{name}.parquet"


def read_contents(source: Path) -> dict[FileKey, Content]:
    """What earlier checks of a data set found; empty where the cache is absent or unusable."""
    try:
        file = pq.ParquetFile(_cache_file(source), page_checksum_verification=True)
        with file:
            if not file.schema_arrow.equals(_SCHEMA, check_metadata=True):
                return {}
            columns = file.read().to_pydict()
    except (OSError, ValueError, RuntimeError, pa.ArrowException):
        return {}  # absent, damaged or foreign: it is made anew
    keys = map(FileKey, columns["path"], columns["size"], columns["mtime_ns"])
    return dict(zip(keys, map(Content, columns["digest"], columns["format"]), strict=True))


def write_contents(source: Path, contents: dict[FileKey, Content]) -> None:
    """Remember it for the next check, where the cache's folder can be written."""
    rows = [(*key, *content) for key, content in contents.items()]
    columns = [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), _SCHEMA.types, strict=True)]
    path = _cache_file(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        with writing_aside(path) as file:
            pq.write_table(table, file, write_page_checksum=True)
    except (OSError, ScmdError):
        pass  # the next check decodes again
