"""Fetching one file: resumed where it stopped, checked, and renamed into its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scmd.data.benchmarks.addresses import Address, SourceError, host_of, resolve
from scmd.data.benchmarks.entries import RemoteFile
from scmd.data.benchmarks.transfer import Patience, Progress, complete, drop


@dataclass(frozen=True)
class Fetched:
    """A file that is there, and what is known about it."""

    path: Path
    sha256: str
    """Computed from the file."""
    confirmed: bool
    """It is the digest that somebody published."""


class NotHad(Exception):  # noqa: N818 - it is an answer, and caught where the next way is tried
    """No source has the file.

    Args:
        reasons: What each said: ``host: reason``.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def fetch(
    file: RemoteFile,
    folder: Path,
    accept: Callable[[Path], None],
    progress: Progress,
    say: Callable[[str], None],
    patience: Patience | None = None,
) -> Fetched | None:
    """Have a file of the catalogue in a folder, from the first source that has it.

    What was fetched before goes on where it stopped, whoever stopped it, as long as the server
    says that the file is the same. Killed at any moment, it leaves nothing under the file's name
    that is not whole and checked.

    Args:
        file: What is wanted.
        folder: Where; it exists, and nobody else writes there.
        accept: Looks into the file before it is accepted; raises SourceError if it is no good.
        progress: Called with the bytes that are there and the bytes of all (0 where unknown).
        say: Called with lines for people.
        patience: How long a source is tried.

    Returns:
        The file; None if it was there already.

    Raises:
        NotHad: No source has it.
        ScmdError: The disk is full.
    """
    target = folder / file.name
    if target.exists():
        _remove_parts(file, folder)  # killed before it was done
        return None
    reasons = []
    for place, source in enumerate(file.sources):
        part = folder / f"{file.name}.part{place}"
        try:
            address = resolve(source)
            there = part.stat().st_size if part.exists() else 0
            more = f", of which {there / 1e6:,.1f} MB are there" if there else ""
            say(f"{file.name}: from {host_of(source)}{more}")
            fetched = _from(address, part, accept, progress, say, patience or Patience())
        except SourceError as error:
            reasons.append(f"{host_of(source)}: {error}")
            say(f"{file.name}: {reasons[-1]}")
            continue
        part.replace(target)
        _remove_parts(file, folder)
        return Fetched(target, *fetched)
    raise NotHad(reasons)


def _remove_parts(file: RemoteFile, folder: Path) -> None:
    for part in folder.glob(f"{file.name}.part*"):
        part.unlink()


def is_published(file: RemoteFile, path: Path) -> bool:
    """Whether a file has the digest that the catalogue has of one of its sources."""
    for source in file.sources:
        if source.digest:
            with suppress(SourceError):
                return _verify(Address(source.address, source.size, (source.digest,)), path)[1]
    return False


def _from(
    address: Address,
    part: Path,
    accept: Callable[[Path], None],
    progress: Progress,
    say: Callable[[str], None],
    patience: Patience,
) -> tuple[str, bool]:
    resumed = part.exists() and part.stat().st_size > 0
    complete(address, part, progress, say, patience)
    try:
        found = _verify(address, part)
    except SourceError:
        drop(part)
        if not resumed:
            raise
        # The beginning is from another day, and may have been of another file.
        complete(address, part, progress, say, patience)
        try:
            found = _verify(address, part)
        except SourceError:
            drop(part)
            raise
    try:
        accept(part)
    except SourceError:
        drop(part)
        raise
    return found


def _verify(address: Address, part: Path) -> tuple[str, bool]:
    """Size and digests; returns the SHA-256 and whether anybody confirms the file."""
    size = part.stat().st_size
    if address.size is not None and size != address.size:
        raise SourceError(f"sent {size:,} bytes, where {address.size:,} are published")
    found = {"sha256": sha256_of(part)}
    for digest in address.digests:
        kind, _, wanted = digest.partition(":")
        if kind not in found:
            with part.open("rb") as file:
                found[kind] = hashlib.file_digest(
                    file, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)
                ).hexdigest()
        if found[kind] != wanted:
            raise SourceError(
                f"sent another file: its {kind.upper()} is {found[kind]}, and {wanted} is published"
            )
    return found["sha256"], bool(address.digests)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
