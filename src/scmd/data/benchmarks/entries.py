"""What the catalogue says about a data set: its files, their sources, its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["zip", "tar", "parquet", "gzip", "text"]
"""What a file is. The first two are unpacked; the others are read as they are."""
Layout = Literal["folders", "camera-traps", "rotated-mnist", "coloured-mnist", "camelyon"]
"""What ``arrange`` has to do with what was unpacked."""


@dataclass(frozen=True)
class Source:
    """One address of one file."""

    address: str
    """An address, or for the hub the part of it that follows the hub's own."""
    kind: Literal["web", "hub", "drive"] = "web"
    """``hub``: size and SHA-256 are asked there. ``drive``: a page that asks for confirmation may
    stand before the file."""
    size: int | None = None
    """Bytes, where somebody published it."""
    digest: str | None = None
    """``sha256:...`` or ``md5:...``, where somebody published it; never computed by us."""
    said_by: str = ""
    """Who published size and digest."""


def drive(file: str, digest: str | None = None, said_by: str = "") -> Source:
    """A file of Google Drive, by its id."""
    address = f"https://drive.usercontent.google.com/download?export=download&id={file}"
    return Source(address, "drive", digest=digest, said_by=said_by)


@dataclass(frozen=True)
class RemoteFile:
    """A file and its sources, in the order in which they are tried."""

    name: str
    sources: tuple[Source, ...]
    form: Form
    most_files: int = 0
    """An archive with more files is refused. A round number of ours, above what is expected."""
    most_bytes: int = 0
    """An archive that unpacks to more is refused. A round number of ours, too."""


@dataclass(frozen=True)
class Way:
    """Files that make up the data set together. A set may be had in several ways."""

    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Counts:
    """Published numbers of images. A set of which there are several versions has several."""

    label: str
    """Which version it is, for people."""
    domains: Mapping[str, int]
    """Images per domain."""
    source: str
    """Where the numbers are from."""
    classes: Mapping[str, tuple[int, ...]] | None = None
    """Images per domain and class, in the order of ``Benchmark.classes``, where known."""

    @property
    def total(self) -> int:
        """Images in all."""
        return sum(self.domains.values())


@dataclass(frozen=True)
class Benchmark:
    """A data set of the catalogue."""

    name: str
    """What it is called on the command line."""
    title: str
    """The name of its folder, and what it is called in tables."""
    domains: tuple[str, ...]
    """The names of the folders."""
    ways: tuple[Way, ...]
    """How it can be had, in the order in which it is tried."""
    by_hand: str
    """Where a person gets it."""
    paper: str
    licence: str
    """As published, or that none is."""
    classes: tuple[str, ...] = ()
    """The names of the folders, where they are known; sorted."""
    class_count: int = 0
    """The number of classes, where their names are not listed here."""
    counts: tuple[Counts, ...] = ()
    """Published numbers of images, the usual version first. Empty: none were found."""
    layout: Layout = "folders"
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names that a domain's folder has in other copies."""
    numbered_classes: bool = False
    """Some copies have numbers in place of the names of the classes, in the same order."""
    duplicates: str = ""
    """The name of a file that lists images to leave out, if the set has one."""
    known_bad: tuple[str, ...] = ()
    """Images that others report as faulty: domain/class/name."""
    download: str = ""
    """How much is downloaded, for people."""
    notes: tuple[str, ...] = ()
    """What is special about it, a sentence each."""
