"""What is wrong with the images of a data set: every one is decoded and compared by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from scmd.data.contents import Content, FileKey, read_contents, write_contents
from scmd.data.folder import DomainImages
from scmd.data.images import IMAGE_EXTENSIONS, describe, open_image, read_image
from scmd.errors import BadImageError, printable

Kind = Literal[
    "zero-byte",
    "truncated",
    "unreadable",
    "duplicate across domains",
    "duplicate across classes",
    "duplicate within a domain",
    "wrong extension",
    "ignored",
]
UNDECODABLE: tuple[Kind, ...] = ("zero-byte", "truncated", "unreadable")
ERRORS: tuple[Kind, ...] = (*UNDECODABLE, "duplicate across domains")
_HEADINGS: dict[Kind, str] = {
    "zero-byte": "empty files",
    "truncated": "truncated files",
    "unreadable": "files that cannot be decoded",
    "duplicate across domains": "pictures that are in several domains (the target leaks)",
    "duplicate across classes": "pictures that are in several classes of a domain",
    "duplicate within a domain": "pictures that are several times in a class of a domain",
    "wrong extension": "files whose extension is not their format's",
    "ignored": "kinds of files that were ignored",
}
MOST_CLASSES_ACROSS = 12
# Phones store a second picture behind the first: such a file is a valid JPEG and named so.
_SAME_FORMAT = {"MPO": "JPEG"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in one line."""

    kind: Kind
    message: str
    """Names the files, relative to the data set's root."""
    rows: tuple[int, ...]
    """The samples that it is about; empty for ignored files, which are no samples."""


@dataclass(frozen=True)
class CheckReport:
    """What ``check_images`` found."""

    data: DomainImages
    findings: tuple[Finding, ...]
    """By kind, within a kind in the order of the samples."""
    decoded: int
    """Images that were decoded now."""
    cached: int
    """Images that have not changed since an earlier check, and were not decoded again."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What spoils a run or its numbers: undecodable files, pictures in several domains."""
        return tuple(f for f in self.findings if f.kind in ERRORS)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is worth knowing."""
        return tuple(f for f in self.findings if f.kind not in ERRORS)

    @property
    def bad_rows(self) -> np.ndarray:
        """The rows of ``data`` that cannot be decoded (``--skip-bad``), in order: int64 [n]."""
        rows = (row for f in self.findings if f.kind in UNDECODABLE for row in f.rows)
        return np.array(sorted(rows), dtype=np.int64)


def check_images(
    data: DomainImages,
    progress: Callable[[int, int], None] | None = None,
    rows: np.ndarray | None = None,
) -> CheckReport:
    """Decode every image, compare them by content, and tell what is wrong.

    Images that have not changed since an earlier check (by path, size and time) are taken from
    a cache (``scmd.data.contents``). Whatever the images hold, nothing is raised: it is a finding.

    Args:
        data: The data set.
        progress: Called with the number of images done and the number of all.
        rows: Look at these samples only, int64 [n]. Default: all.
    """
    wanted = range(len(data)) if rows is None else rows.tolist()
    known = read_contents(data.source)
    contents: dict[int, Content] = {}
    fresh: dict[FileKey, Content] = {}
    findings: list[Finding] = []

    def examine(row: int) -> tuple[FileKey, Content] | Finding:
        return _examine(data, row, known)

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = zip(wanted, pool.map(examine, wanted), strict=True)
            for done, (row, result) in enumerate(results, 1):
                if isinstance(result, Finding):
                    findings.append(result)
                else:
                    key, contents[row] = result
                    if key not in known:
                        fresh[key] = contents[row]
                if progress is not None:
                    progress(done, len(wanted))
    finally:  # an interrupted check goes on where it was
        if fresh:
            write_contents(data.source, known | fresh)

    findings.extend(_duplicates(data, contents))
    findings.extend(_wrong_extensions(data, contents))
    findings.extend(_ignored(data))
    order = list(_HEADINGS)
    findings.sort(key=lambda finding: order.index(finding.kind))
    cached = len(contents) - len(fresh)
    return CheckReport(data, tuple(findings), decoded=len(wanted) - cached, cached=cached)


def _examine(
    data: DomainImages, row: int, known: dict[FileKey, Content]
) -> tuple[FileKey, Content] | Finding:
    name = data.paths[row]
    path = data.root / name
    try:
        status = path.stat()
        key = FileKey(name, status.st_size, status.st_mtime_ns)
        if key in known:
            return key, known[key]
        if status.st_size == 0:
            return Finding("zero-byte", f"{name} is empty (0 bytes)", (row,))
        image = read_image(path)
        with open_image(path) as header:
            detected = header.format or ""
    except BadImageError as error:  # not remembered: a permission or another Pillow may cure it
        reason = str(error).removeprefix(f"{path} cannot be decoded: ")
        if "truncated" in reason.lower():
            return Finding("truncated", f"{name} is cut off: {reason}", (row,))
        return Finding("unreadable", f"{name} cannot be decoded: {reason}", (row,))
    except OSError as error:
        return Finding("unreadable", f"{name} cannot be read: {describe(error)}", (row,))
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    return key, Content(digest.digest(), detected)


def _duplicates(data: DomainImages, contents: dict[int, Content]) -> Iterator[Finding]:
    groups: dict[bytes, list[int]] = {}
    for row, content in contents.items():
        groups.setdefault(content.digest, []).append(row)
    for rows in groups.values():
        if len(rows) == 1:
            continue
        domains = {data.domains[data.domain_index[row]] for row in rows}
        classes = {data.classes[data.labels[row]] for row in rows}
        files = _listed((data.paths[row] for row in rows), most=4)
        labels = f", labelled {_listed(sorted(classes), most=4)}" if len(classes) > 1 else ""
        if len(domains) > 1:
            where = f"in {_listed(sorted(domains), most=4)}"
            yield Finding("duplicate across domains", f"{where}: {files}{labels}", tuple(rows))
        elif labels:
            yield Finding("duplicate across classes", f"{files}{labels}", tuple(rows))
        else:
            yield Finding("duplicate within a domain", files, tuple(rows))


def _wrong_extensions(data: DomainImages, contents: dict[int, Content]) -> Iterator[Finding]:
    formats = Image.registered_extensions()
    for row, content in contents.items():
        extension = os.path.splitext(data.paths[row])[1].lower()
        named = formats.get(extension, "")
        if _SAME_FORMAT.get(content.format, content.format) != _SAME_FORMAT.get(named, named):
            message = f"{data.paths[row]} is a {content.format} file"
            yield Finding("wrong extension", message, (row,))


def _ignored(data: DomainImages) -> Iterator[Finding]:
    """Files that the loader of a folder passed over in silence; a manifest names all it wants."""
    if not data.source.is_dir():
        return
    foreign: list[str] = []
    outside: list[str] = []
    for folder, subfolders, files in os.walk(data.root, followlinks=True):
        relative = Path(folder).relative_to(data.root)
        if len(relative.parts) < 2:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        subfolders.sort()
        for name in sorted(files):
            is_image = os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
            if not name.startswith(".") and is_image == (len(relative.parts) < 2):
                (outside if is_image else foreign).append((relative / name).as_posix())
    if foreign:
        message = f"{_count(foreign, 'file')} without an image's extension"
        yield Finding("ignored", f"{message}: {_listed(foreign, most=5)}", ())
    if outside:
        message = f"{_count(outside, 'image')} outside every class folder"
        yield Finding("ignored", f"{message}: {_listed(outside, most=5)}", ())


def print_report(report: CheckReport, console: Console, most: int = 10) -> None:
    """Print the table of domains × classes, up to ``most`` findings of each kind, a summary."""
    data = report.data
    table = _table(report, classes_across=True)
    width = Measurement.get(console, console.options.update(width=100_000), table).maximum
    if len(data.classes) > MOST_CLASSES_ACROSS or width > console.width:
        table = _table(report, classes_across=False)
    console.print(table)

    by_kind: dict[Kind, list[Finding]] = {}
    for finding in report.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, findings in by_kind.items():
        style = "bold red" if kind in ERRORS else "bold yellow"
        _say(console, f"\n{len(findings):,} {_HEADINGS[kind]}", style)
        for finding in findings[:most]:
            _say(console, f"  {printable(finding.message)}")
        if len(findings) > most:
            _say(console, f"  and {len(findings) - most:,} more")

    what = f"{_count(data, 'image')}, {_count(data.domains, 'domain')}, "
    what += _count(data.classes, "class", "classes")
    if report.findings:
        found = f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"
    else:
        found = "nothing wrong was found"
    how = f"{report.decoded:,} looked at, {report.cached:,} unchanged since an earlier check"
    _say(console, f"\n{what}: {found} ({how})", "bold")


def _table(report: CheckReport, classes_across: bool) -> Table:
    data, counts = report.data, report.data.counts()
    rows, columns, corner = data.domains, data.classes, "domain"
    if not classes_across:
        rows, columns, counts, corner = data.classes, data.domains, counts.T, "class"
    table = Table(show_footer=True)
    table.add_column(corner, "total", overflow="fold")
    for column, total in zip(columns, counts.sum(axis=0), strict=True):
        table.add_column(Text(column), f"{total:,}", justify="right", overflow="fold")
    table.add_column("total", f"{counts.sum():,}", justify="right")
    for row, numbers in zip(rows, counts, strict=True):
        cells = (f"{number:,}" for number in (*numbers, numbers.sum()))
        table.add_row(Text(row), *cells)
    return table


def _say(console: Console, line: str, style: str = "") -> None:
    # Neither wrapped nor coloured by rich's own rules: a path must be there to copy.
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _listed(names: Iterable[str], most: int) -> str:
    # A file's name need not be text; what cannot be printed is escaped.
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(things: DomainImages | tuple | list, one: str, many: str = "") -> str:
    n = len(things)
    return f"{n:,} {one if n == 1 else many or one + 's'}"
