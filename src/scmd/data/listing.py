"""What a folder or a manifest names, before anything is counted or sorted out."""

from __future__ import annotations

import csv
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from scmd.data.walking import identity, is_folder, is_image
from scmd.data.watched import Watched
from scmd.errors import ScmdError

MANIFEST_COLUMNS = ("path", "domain", "class")


class Group(NamedTuple):
    """Images of one class of one domain; there may be more groups of it."""

    domain: str
    class_name: str
    paths: list[str]
    """Relative to the root, with forward slashes."""


def list_folder(root: Path, watched: Watched) -> Iterator[Group]:
    """Yield the images of a folder ``domain/class/image``, a group for every folder, in order.

    Hidden domains, classes and files, whose names begin with a dot, are passed over. Links are
    followed.

    Raises:
        ScmdError: There is no domain, no class, no image in a domain; a folder cannot be read; a
            link leads back to a folder that it lies in.
    """
    tree = _Tree(root, watched)
    above = tuple(identity(os.stat(p)) for p in (root, *root.resolve().parents))
    domains = _shown(tree.names("", above[1:])[0])
    if not domains:
        raise ScmdError(
            f"no domain found: {root} has no subfolder. Expected {root.name}/domain/class/image"
        )
    empty: list[str] = []
    for domain in domains:
        classes = _shown(tree.names(domain, above)[0])
        if not classes:
            raise ScmdError(
                f"domain {domain!r} has no class folder: {root / domain}. "
                f"Expected {root.name}/{domain}/class/image; is {root} perhaps a single domain?"
            )
        found = 0
        inside = (*above, tree.identity(domain))
        for class_name in classes:
            for paths in tree.images(f"{domain}/{class_name}", inside):
                found += len(paths)
                yield Group(domain, class_name, paths)
        if not found:
            empty.append(domain)
    if len(empty) == len(domains):
        raise ScmdError(f"no image found under {root}. Expected {root.name}/domain/class/image")
    for domain in empty:
        raise ScmdError(
            f"domain {domain!r} has no image: {root / domain}. Add some, or move it away"
        )


class _Tree:
    """Folders under a root, whose links are followed and whose loops are found."""

    def __init__(self, root: Path, watched: Watched) -> None:
        self.root, self.watched = root, watched

    def identity(self, folder: str) -> tuple[int, int]:
        return identity(os.stat(self.root / folder))

    def names(self, folder: str, above: tuple[tuple[int, int], ...]) -> tuple[list, list]:
        """The subfolders and the files of a folder, sorted; ``above`` are those that it is in."""
        folders: list[str] = []
        files: list[str] = []
        try:
            if identity(self.watched.mark(folder)) in above:
                raise ScmdError(
                    f"{self.root / folder} is a link to a folder that it lies in: its images would "
                    "be counted without end. Remove it, or name the images in a manifest"
                )
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if is_folder(entry):
                        folders.append(entry.name)
                        continue
                    files.append(entry.name)
                    if entry.is_symlink():  # it may lead to a folder one day
                        self.watched.link(f"{folder}/{entry.name}".lstrip("/"))
        except OSError as error:
            _refuse(error)
        return sorted(folders), sorted(files)

    def images(self, top: str, above: tuple[tuple[int, int], ...]) -> list[list[str]]:
        """The images of a class, by folder, in the order of the folders' paths."""
        found: list[tuple[str, list[str]]] = []
        left = [(top, above)]
        while left:
            folder, above = left.pop()
            folders, files = self.names(folder, above)
            images = [f"{folder}/{name}" for name in files if is_image(name)]
            found.append((folder, images))
            inside = (*above, self.identity(folder)) if folders else above
            left.extend((f"{folder}/{name}", inside) for name in folders)
        return [images for _, images in sorted(found) if images]


def _shown(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


def _refuse(error: OSError) -> NoReturn:
    raise ScmdError(
        f"cannot read the folder {error.filename}: {error.strerror}. Change its permissions"
    ) from error


def list_manifest(manifest: Path, watched: Watched) -> Iterator[Group]:
    """Yield the images of a CSV file with the columns path, domain and class, line by line.

    Raises:
        ScmdError: It is no such file; a field is empty, a path named twice, an image not there.
    """
    found = 0
    seen: dict[str, int] = {}
    watched.mark(manifest.name)
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            missing = [c for c in MANIFEST_COLUMNS if c not in header]
            if missing:
                raise ScmdError(
                    f"{manifest} has no column {named(missing)}. "
                    "Its first line must be path,domain,class"
                )
            # Of columns of the same name the last counts, as csv.DictReader has it.
            places = [len(header) - 1 - header[::-1].index(c) for c in MANIFEST_COLUMNS]
            for row in reader:
                if not row:
                    continue
                line = reader.line_num
                values = [row[p].strip() if p < len(row) else "" for p in places]
                for column, value in zip(MANIFEST_COLUMNS, values, strict=True):
                    if not value or "\0" in value:
                        raise ScmdError(f"{manifest}, line {line}: no {column}. Fill it in")
                path, domain, class_name = values
                if path in seen:
                    raise ScmdError(
                        f"{manifest}, line {line}: {path} is already on line {seen[path]}. "
                        "Keep one of them"
                    )
                seen[path] = line
                if not _is_there(path, watched):
                    raise ScmdError(
                        f"{manifest}, line {line}: no such image: {manifest.parent / path}. "
                        "Paths are relative to the manifest's folder"
                    )
                found += 1
                yield Group(domain, class_name, [path])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScmdError(f"{manifest} is not a CSV file in UTF-8: {error}") from error
    if not found:
        raise ScmdError(f"{manifest} names no image: it has no line after the first")


def _is_there(path: str, watched: Watched) -> bool:
    folder, slash, _ = path.rpartition("/")
    folder = folder or slash  # what lies in "/" is in "/"
    try:
        if folder not in watched.folders:
            watched.mark(folder)
        mode = os.lstat(path if path[0] == "/" else f"{watched.root}/{path}").st_mode
    except (OSError, ValueError):
        return False
    return watched.link(path) == "file" if stat.S_ISLNK(mode) else stat.S_ISREG(mode)


def named(names: Iterable[str], most: int = 8) -> str:
    """Some names, to be said in a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def written_differently(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names of the same letters whose bytes differ (NFC and NFD), where there are two."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            return other, name
    return None
