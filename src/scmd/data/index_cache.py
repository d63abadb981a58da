"""The index of a large data set, read once and kept for as long as nothing has changed.

What is kept are names. It is used as long as every folder that was listed, the manifest, and
whatever links lead to are what they were; see ``scmd.data.watched``. The images' contents are no
part of an index.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scmd.data.images import IMAGE_EXTENSIONS
from scmd.data.listing import Group, list_folder, list_manifest
from scmd.data.paths import Paths
from scmd.data.watched import Watched
from scmd.errors import ScmdError
from scmd.files import writing_aside
from scmd.store import cache_root, exclusive

CACHED_FROM = 20_000
"""Images; a smaller data set is read in a fraction of a second, and not kept."""
VERSION = 1
"""Of what the file holds."""
_FILE = "index.npz"


@dataclass(frozen=True, eq=False)
class Index:
    """What a folder or a manifest holds, whatever classes are wanted; see ``DomainImages``."""

    domains: tuple[str, ...]
    classes: tuple[str, ...]
    paths: Paths
    domain_index: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def index_of(source: Path, root: Path) -> Index:
    """The index of a folder, or of a manifest whose paths are relative to ``root``.

    Of several processes that want a large one at once, one makes it and the others wait. Where the
    cache cannot be written, it is made every time. The result is always the same.

    Raises:
        ScmdError: As ``list_folder`` and ``list_manifest``; a name is no UTF-8.
    """
    place = cache_root() / "index" / _key(source)
    if made := _read(place, root):
        return made
    watched = Watched(str(root))
    is_folder = source.is_dir()
    groups = list_folder(source, watched) if is_folder else list_manifest(source, watched)
    found: dict[tuple[str, str], list[str]] = {}
    count = 0
    with ExitStack() as stack:
        held = False
        for group in groups:
            found.setdefault(group[:2], []).extend(group.paths)
            count += len(group.paths)
            if count >= CACHED_FROM and not held:
                try:
                    stack.enter_context(exclusive(place))
                except ScmdError:
                    return _sorted_out(found, groups, source, root, is_folder)
                held = True
                if made := _read(place, root):  # meanwhile
                    return made
        index = _sorted_out(found, iter(()), source, root, is_folder)
        if held and watched.settled:
            _write(place, index, watched)
    return index


def _sorted_out(
    found: dict[tuple[str, str], list[str]],
    rest: Iterator[Group],
    source: Path,
    root: Path,
    in_order: bool,
) -> Index:
    """Make the index of the images of each domain and class; ``found`` is emptied."""
    for group in rest:
        found.setdefault(group[:2], []).extend(group.paths)
    cells = sorted(found)
    domains = tuple(sorted({domain for domain, _ in cells}))
    classes = tuple(sorted({class_name for _, class_name in cells}))
    domain_of = {name: place for place, name in enumerate(domains)}
    label_of = {name: place for place, name in enumerate(classes)}
    counts = [len(found[cell]) for cell in cells]
    parts: list[Paths] = []
    for cell in cells:
        paths = found.pop(cell)
        if not in_order:
            paths.sort(key=os.path.split)
        try:
            parts.append(Paths.of(paths))
        except UnicodeEncodeError as error:
            raise ScmdError(
                f"a file's name is not UTF-8: {_first_wrong(paths)!r} in {root}. Rename it"
            ) from error
    paths = Paths.joined(parts)
    ids = paths.ids()
    if len(np.unique(ids)) != len(ids):
        raise ScmdError(f"two paths of {source} have the same id. Rename one of them")
    return Index(
        domains,
        classes,
        paths,
        np.repeat(np.array([domain_of[d] for d, _ in cells], np.int32), counts),
        np.repeat(np.array([label_of[c] for _, c in cells], np.int32), counts),
        ids,
    )


def _first_wrong(paths: list[str]) -> str:
    # What a file system holds and UTF-8 does not, Python reads as lone surrogates.
    return next(p for p in paths if any("\ud800" <= letter <= "\udfff" for letter in p))


def _key(source: Path) -> str:
    digest = hashlib.blake2b(os.fsencode(source.resolve()), digest_size=16)
    digest.update(repr((VERSION, sorted(IMAGE_EXTENSIONS))).encode())
    return digest.hexdigest()


def _read(place: Path, root: Path) -> Index | None:
    """The index, if it is there, whole, and of what is there now."""
    try:
        with np.load(place / _FILE, allow_pickle=False) as file:  # which checks sums
            about = json.loads(file["about"].tobytes())
            folders, links = (_names(file[name]) for name in ("folders", "links"))
            if not Watched(str(root), folders, links, about["state"]).unchanged():
                return None
            return Index(
                tuple(about["domains"]),
                tuple(about["classes"]),
                Paths(file["paths"].tobytes(), file["ends"]),
                file["domain_index"],
                file["labels"],
                file["ids"],
            )
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None  # absent or damaged: it is made anew


def _write(place: Path, index: Index, watched: Watched) -> None:
    about = {"state": watched.digest(), "domains": index.domains, "classes": index.classes}
    try:
        with writing_aside(place / _FILE) as file:
            np.savez(
                file,
                about=_bytes(json.dumps(about).encode()),
                folders=_packed(watched.folders),
                links=_packed(watched.links),
                paths=_bytes(index.paths.text),
                ends=index.paths.ends,
                domain_index=index.domain_index,
                labels=index.labels,
                ids=index.ids,
            )
    except ScmdError:
        pass  # the next run reads the names again


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _packed(names: Iterable[str]) -> np.ndarray:
    return _bytes(b"".join(os.fsencode(name) + b"\0" for name in names))


def _names(packed: np.ndarray) -> list[str]:
    return [os.fsdecode(name) for name in packed.tobytes().split(b"\0")[:-1]]
