"""Archives of strangers: unpacked aside, checked member by member, renamed at the end."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Form, RemoteFile
from scmd.errors import ScmdError
from scmd.files import ASIDE

_PIECE = 2**20
_MOST_BEHIND = 16 * _PIECE
_LONGEST_HEADER = _PIECE
_MOST_PARTS = 32
_ODD = r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]"
"""Control characters, backslashes, and what is no text."""
_MAGIC: dict[Form, tuple[int, bytes]] = {
    "zip": (0, b"PK"),
    "parquet": (0, b"PAR1"),
    "gzip": (0, b"\x1f\x8b"),
}
_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class ArchiveError(SourceError):
    """An archive that is damaged or that means harm. The message is the reason alone."""


class _Member(tarfile.TarInfo):
    """A header of a tar archive, which the library would read into memory whatever it claims."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and not 0 <= self.size <= _LONGEST_HEADER:
            raise ArchiveError("sent an archive with a header that is too long")
        return super()._proc_member(archive)  # pyright: ignore[reportAttributeAccessIssue]

    def _proc_sparse(self, *arguments: object) -> NoReturn:
        raise ArchiveError("sent an archive with a sparse file")

    _proc_gnusparse_10 = _proc_sparse


def form_of(path: Path) -> Form | None:
    """What a file is, by its content; None: nothing that a data set comes in."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return "parquet"
    if head[:2] == b"PK" and zipfile.is_zipfile(path):
        return "zip"
    if _is_tar(path):
        return "tar"
    return "gzip" if head[:2] == b"\x1f\x8b" else None


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, tarinfo=_Member):
            return True
    except (tarfile.TarError, ArchiveError, EOFError, RecursionError):
        return False


def check_form(path: Path, form: Form) -> None:
    """Raise an ArchiveError unless a file begins like what it is said to be."""
    if form == "tar":
        if not _is_tar(path):
            raise ArchiveError("sent something that is no tar archive")
    elif form == "text":
        with path.open("rb") as file:
            if b"\x00" in file.read(_PIECE):
                raise ArchiveError("sent something that is no text")
    else:
        place, magic = _MAGIC[form]
        with path.open("rb") as file:
            file.seek(place)
            if file.read(len(magic)) != magic:
                raise ArchiveError(f"sent something that is no {form} file")


def unpack(
    archive: Path, file: RemoteFile, out: Path, progress: Callable[[int, int], None]
) -> None:
    """Unpack a zip or tar archive into a new folder.

    Only folders and ordinary files are unpacked, under plain relative names, each once, and no
    more of them than the catalogue allows. Anything else in an archive, and it is refused as a
    whole. Whatever happens, ``out`` is there in full or not at all.

    Args:
        archive: The archive.
        file: What the catalogue says about it.
        out: The folder to make; its parent exists.
        progress: Called with the bytes unpacked and the bytes of all (0 where unknown).

    Raises:
        ArchiveError: It is damaged, or holds what it must not.
        ScmdError: The disk is full.
    """
    aside = out.with_name(out.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        with _reasons(out):
            unpacking = _unpack_zip if file.form == "zip" else _unpack_tar
            unpacking(archive, aside, _Limits(file), progress)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _reasons(out: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"sent a damaged archive: {error}") from error
    except (NotImplementedError, RuntimeError, UnicodeError, ValueError) as error:
        raise ArchiveError(f"sent an archive that cannot be read: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ScmdError(
                f"the disk of {out.parent} is full. Make room, and run the command again; what was "
                "fetched is still there"
            ) from error
        # Among them a name that is a file and a folder, and one that is too long.
        raise ArchiveError(f"sent an archive that cannot be unpacked: {error}") from error


class _Limits:
    """Counts what is unpacked, and what names there were."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._names: set[PurePosixPath] = set()
        self.files = 0
        self.bytes = 0

    def add(self, name: str, size: int) -> PurePosixPath:
        """One more file of a size; returns its place."""
        path = safe_name(name)
        if path in self._names:
            raise ArchiveError(f"sent an archive that holds {name!r} twice")
        self._names.add(path)
        self.files += 1
        self.bytes += size
        if self.files > self._file.most_files:
            raise ArchiveError(
                f"sent an archive of more than {self._file.most_files:,} files, which it cannot be"
            )
        if self.bytes > self._file.most_bytes:
            raise ArchiveError(
                f"sent an archive that unpacks to more than {self._file.most_bytes / 1e9:g} GB, "
                "which it cannot be"
            )
        return path


def safe_name(name: str) -> PurePosixPath:
    """The name of a member as a relative path.

    Raises:
        ArchiveError: It is absolute, leads out of the folder, is no plain text, or has more parts
            than any set.
    """
    path = PurePosixPath(name)
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise ArchiveError(f"sent an archive with an absolute path: {name!r}")
    if ".." in path.parts:
        raise ArchiveError(f"sent an archive with a path that leads out of it: {name!r}")
    if re.search(_ODD, name) or not 0 < len(path.parts) <= _MOST_PARTS:
        raise ArchiveError(f"sent an archive with an odd name: {name!r}")
    return path


def _check_folder(name: str) -> None:
    if PurePosixPath(name).parts:  # else it is the top
        safe_name(name)


def _unpack_zip(
    archive: Path, aside: Path, limits: _Limits, progress: Callable[[int, int], None]
) -> None:
    with zipfile.ZipFile(archive) as members:
        wanted = []
        for info in members.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.filename.endswith("/"):
                _check_folder(info.filename)
                continue
            if kind not in (0, stat.S_IFREG):
                raise ArchiveError(f"sent an archive with a link or device: {info.filename!r}")
            if info.flag_bits & 1:
                raise ArchiveError("sent an archive that wants a password")
            wanted.append((info, limits.add(info.filename, info.file_size)))
        _check_room(aside, limits.bytes)
        done = 0
        for info, path in wanted:
            with members.open(info) as source:
                _write(aside / path, source, info.file_size)
            done += info.file_size
            progress(done, limits.bytes)


def _unpack_tar(
    archive: Path, aside: Path, limits: _Limits, progress: Callable[[int, int], None]
) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ScmdError("to unpack a tar archive safely takes Python 3.11.4 or newer. Update it")
    _check_room(aside, archive.stat().st_size)
    with tarfile.open(archive, tarinfo=_Member) as members:
        for member in members:
            # It would keep the headers of all of them.
            members.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if member.isdir():
                _check_folder(member.name)
                continue
            if not member.isreg():
                raise ArchiveError(f"sent an archive with a link or device: {member.name!r}")
            path = limits.add(member.name, member.size)
            checked = tarfile.data_filter(member, str(aside))
            source = members.extractfile(checked)
            if source is None:
                raise ArchiveError(f"sent an archive with an odd member: {member.name!r}")
            with source:
                _write(aside / path, source, member.size)
            progress(limits.bytes, 0)
        _read_to_the_end(members)


def _read_to_the_end(members: tarfile.TarFile) -> None:
    """The checksum of a compressed archive stands behind its last file."""
    stream = members.fileobj
    for _ in range(_MOST_BEHIND // _PIECE):
        if stream is None or not stream.read(_PIECE):
            return
    raise ArchiveError("sent an archive with something behind its end")


def _write(path: Path, source: IO[bytes], size: int) -> None:
    """Write a member, which has exactly the bytes that were announced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with path.open("xb") as file:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise ArchiveError(f"sent an archive in which {path.name!r} is larger than it says")
            file.write(piece)
    if left:
        raise ArchiveError(f"sent an archive in which {path.name!r} is cut off")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ScmdError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, and at least {size / 1e9:.1f} GB are "
            "to be unpacked. Make room, or choose another --out"
        )
