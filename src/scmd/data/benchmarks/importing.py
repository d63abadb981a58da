"""``scmd data import``: a copy of a benchmark set that somebody has already."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.arrange import domain_folders
from scmd.data.benchmarks.build import (
    ARRANGED,
    DifferentError,
    Reporting,
    arrange,
    check_free,
    put_in_place,
    sweep,
    workshop,
)
from scmd.data.benchmarks.counts import Comparison, compare
from scmd.data.benchmarks.entries import Benchmark, RemoteFile
from scmd.data.benchmarks.unpack import form_of, unpack
from scmd.errors import ScmdError

_LIMITS = (2_000_000, 10**12)
"""Of an archive that the catalogue does not know by name: it is the user's own."""


def import_copy(
    benchmark: Benchmark,
    path: Path,
    out: Path,
    reporting: Reporting,
    link: bool = False,
    allow_differences: bool = False,
) -> Comparison:
    """Make ``out``, as ``domain/class/image``, of a copy, and compare its counts.

    What is given is only read: a folder in one of the layouts that the set is found in, an archive
    of it, or a folder of its archives and of what was unpacked already.

    Args:
        benchmark: What it is.
        path: The copy.
        out: The folder to make.
        reporting: How people are told.
        link: Make hard links where a folder is given; else files are copied.
        allow_differences: Take it even if its counts are not the published ones.

    Raises:
        ScmdError: It is not this data set, differs from what was published, or something is in
            its place.
    """
    _check_there(path)
    check_free(out, "Choose another --out, or look at it with --check-only")
    if out.resolve().is_relative_to(path.resolve()):
        raise ScmdError(f"{out} lies in {path}, which is not to be changed. Choose another --out")
    with workshop(out, "importing", reporting.say) as work:
        for leftover in ("unpacked", ARRANGED):  # of an import that was killed, perhaps of another
            shutil.rmtree(work / leftover, ignore_errors=True)
        try:
            check_free(out, "Choose another --out")
            folder = _readable(benchmark, path, work, reporting)
            how = "link" if link and path.is_dir() else "link or copy"
            arranged = arrange(benchmark, folder, work, how, reporting)
            found = put_in_place(benchmark, arranged, out, allow_differences)
        except DifferentError as error:
            raise ScmdError(
                f"{path} is {error}. Pass --allow-differences to import it as it is"
            ) from error
        except SourceError as error:
            raise ScmdError(
                f"{path} is no copy of {benchmark.title}: it "
                f"{_own(error, 'has' if path.is_dir() else 'is')}. Give its folder, or the "
                f"archives from {benchmark.by_hand}"
            ) from error
        finally:
            sweep(work)
    return found


def check_copy(benchmark: Benchmark, path: Path) -> Comparison:
    """Compare the counts of a folder ``domain/class/image`` where it is; nothing is written.

    Raises:
        ScmdError: It is no such folder.
    """
    _check_there(path)
    if not path.is_dir():
        raise ScmdError(f"{path} is no folder. Leave --check-only out to import an archive")
    folders = domain_folders(benchmark, path)
    tops = {folder.parent for folder in folders.values()}
    return compare(benchmark, tops.pop() if len(tops) == 1 else path)


def _check_there(path: Path) -> None:
    if not path.exists():
        raise ScmdError(f"no such file or folder: {path}. Give a copy of the data set")
    if not path.is_dir() and not path.is_file():
        raise ScmdError(f"{path} is neither a file nor a folder. Give a copy of the data set")


def _own(error: SourceError, verb: str) -> str:
    """A reason, which speaks of what a server sent, about what the user has."""
    return re.sub("^sent ", f"{verb} ", str(error))


def _readable(benchmark: Benchmark, path: Path, work: Path, reporting: Reporting) -> Path:
    """Where images, tables and lists are: in the given folder, or unpacked beside a link to it."""
    archives = [path]
    if path.is_dir():
        if domain_folders(benchmark, path):
            return path
        archives = [p for p in sorted(path.iterdir()) if p.is_file() and _is_archive(p)]
        if not archives:
            return path
    unpacked = work / "unpacked"
    unpacked.mkdir(exist_ok=True)
    for number, archive in enumerate(archives):
        place = unpacked / f"archive-{number}"
        form = form_of(archive)
        if form in ("zip", "tar"):
            reporting.say(f"{archive.name}: unpacking")
            known = _known(benchmark, archive.name)
            limits = (known.most_files, known.most_bytes) if known else _LIMITS
            file = RemoteFile(archive.name, (), form, *limits)
            try:
                unpack(archive, file, place, reporting.transferring)
            except SourceError as error:
                if archive is path:
                    raise
                raise SourceError(f"has {archive.name}, which {_own(error, 'is')}") from error
        elif form == "parquet":
            place.mkdir()
            (place / f"{archive.stem}.parquet").symlink_to(archive.resolve())
        else:
            raise SourceError(f"has a file that is no archive of images: {archive.name}")
    if path.is_dir():
        (unpacked / "given").symlink_to(path.resolve())
    return work


def _is_archive(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix == ".parquet":  # a table that is found by its name
        return False
    return form_of(path) in ("zip", "tar", "parquet")


def _known(benchmark: Benchmark, name: str) -> RemoteFile | None:
    for way in benchmark.ways:
        for file in way.files:
            if file.name == name:
                return file
    return None
