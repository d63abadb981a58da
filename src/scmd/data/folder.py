"""A data set of several domains: a folder ``domain/class/image`` or a CSV manifest."""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from scmd.data.decoded import DecodedImages
from scmd.data.images import IMAGE_EXTENSIONS
from scmd.errors import ScmdError, ScmdWarning

ClassPolicy = Literal["strict", "union", "intersection"]
MANIFEST_COLUMNS = ("path", "domain", "class")


class Sample(NamedTuple):
    """One labelled image."""

    id: int
    path: Path
    domain: str
    class_name: str


class _Entry(NamedTuple):
    domain: str
    class_name: str
    path: str


@dataclass(frozen=True, eq=False)
class DomainImages:
    """The index of a data set; no image is opened to make it.

    Samples are ordered as DomainBed orders them: domains by name, within a domain classes by
    name, within a class files by folder and name.
    """

    source: Path
    """The folder or manifest that was read."""
    root: Path
    """The folder that ``paths`` are relative to."""
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    """Per sample, its path relative to ``root``, with forward slashes."""
    domain_index: np.ndarray
    """Per sample, its place in ``domains``: int32 [N]."""
    labels: np.ndarray
    """Per sample, its place in ``classes``: int32 [N]."""
    ids: np.ndarray
    """Per sample, an id that depends on its path alone: int64 [N], not negative."""
    decoded: DecodedImages | None = None
    """The images as pixels, where they were decoded before; it changes nothing but the time."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Sample:
        return Sample(
            id=int(self.ids[row]),
            path=self.root / self.paths[row],
            domain=self.domains[self.domain_index[row]],
            class_name=self.classes[self.labels[row]],
        )

    def rows(self, domain: str) -> np.ndarray:
        """The rows of one domain, in order: int64 [n]."""
        return np.flatnonzero(self.domain_index == self.domains.index(domain))

    def counts(self) -> np.ndarray:
        """Images per domain and class: int64 [domains, classes]."""
        cells = self.domain_index.astype(np.int64) * len(self.classes) + self.labels
        shape = (len(self.domains), len(self.classes))
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def load_domains(
    path: str | Path, classes: ClassPolicy = "strict", one_is_enough: bool = False
) -> DomainImages:
    """Read a data set from a folder ``domain/class/image`` or a manifest ``path,domain,class``.

    Args:
        path: The folder, or a ``.csv`` file whose paths are relative to its own folder.
        classes: What to do where the domains do not have the same classes: ``strict`` refuses,
            ``union`` keeps all, ``intersection`` keeps what every domain has.
        one_is_enough: Do not warn where there is a single domain; to measure one is enough.

    Raises:
        ScmdError: There is no such path, no domain, no image, or a class is missing.
    """
    source = Path(path)
    if source.is_dir():
        root, entries = source, _read_folder(source)
    elif source.is_file():
        root, entries = source.parent, _read_manifest(source)
    else:
        raise ScmdError(
            f"no such folder or manifest: {source}. "
            "Give a folder domain/class/image or a CSV file with the columns path,domain,class"
        )
    data = _index(source, root, _apply_policy(entries, classes, source))
    if len(data.domains) == 1 and not one_is_enough:
        warnings.warn(
            f"{source} has a single domain, {data.domains[0]!r}: nothing here can tell how a model "
            "does on a domain it was not trained on",
            ScmdWarning,
            stacklevel=2,
        )
    return data


def resolve_domain(data: DomainImages, name: str) -> str:
    """Return ``name`` if it is a domain of ``data``.

    Raises:
        ScmdError: It is not; the message suggests the nearest one.
    """
    if name in data.domains:
        return name
    near = difflib.get_close_matches(name, data.domains, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else "Choose one of them"
    raise ScmdError(f"{data.source} has no domain {name!r} (it has {_names(data.domains)}). {hint}")


def _read_folder(root: Path) -> list[_Entry]:
    domains = _folders(root)
    if not domains:
        raise ScmdError(
            f"no domain found: {root} has no subfolder. Expected {root.name}/domain/class/image"
        )
    entries: list[_Entry] = []
    for domain in domains:
        classes = _folders(root / domain)
        if not classes:
            raise ScmdError(
                f"domain {domain!r} has no class folder: {root / domain}. "
                f"Expected {root.name}/{domain}/class/image; is {root} perhaps a single domain?"
            )
        for class_name in classes:
            top = root / domain / class_name
            walk = os.walk(top, followlinks=True, onerror=_refuse)
            for folder, _, files in sorted(walk, key=lambda w: w[0]):
                relative = Path(folder).relative_to(root).as_posix()
                entries.extend(
                    _Entry(domain, class_name, f"{relative}/{name}")
                    for name in sorted(files)
                    if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
                    and not name.startswith(".")
                )
    if not entries:
        raise ScmdError(f"no image found under {root}. Expected {root.name}/domain/class/image")
    found = {entry.domain for entry in entries}
    for domain in domains:
        if domain not in found:
            raise ScmdError(
                f"domain {domain!r} has no image: {root / domain}. Add some, or move it away"
            )
    return entries


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(e.name for e in found if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise ScmdError(
        f"cannot read the folder {error.filename}: {error.strerror}. Change its permissions"
    ) from error


def _read_manifest(manifest: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    seen: dict[str, int] = {}
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [c for c in MANIFEST_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise ScmdError(
                    f"{manifest} has no column {_names(missing)}. "
                    "Its first line must be path,domain,class"
                )
            for row in reader:
                line = reader.line_num
                values = [(row[c] or "").strip() for c in MANIFEST_COLUMNS]
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
                if not os.path.isfile(manifest.parent / path):
                    raise ScmdError(
                        f"{manifest}, line {line}: no such image: {manifest.parent / path}. "
                        "Paths are relative to the manifest's folder"
                    )
                entries.append(_Entry(domain, class_name, path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScmdError(f"{manifest} is not a CSV file in UTF-8: {error}") from error
    if not entries:
        raise ScmdError(f"{manifest} names no image: it has no line after the first")
    entries.sort(key=lambda e: (e.domain, e.class_name, *os.path.split(e.path)))
    return entries


def _apply_policy(entries: list[_Entry], policy: ClassPolicy, source: Path) -> list[_Entry]:
    by_domain: dict[str, set[str]] = {}
    for entry in entries:
        by_domain.setdefault(entry.domain, set()).add(entry.class_name)
    union = set[str]().union(*by_domain.values())
    if policy == "union":
        return entries
    if policy == "intersection":
        shared = union.intersection(*by_domain.values())
        if not shared:
            raise ScmdError(f"no class is in every domain of {source}. Pass --classes union")
        return [entry for entry in entries if entry.class_name in shared]
    missing = [(d, sorted(union - found)) for d, found in by_domain.items() if union - found]
    if missing:
        findings = "; ".join(f"domain {d!r} has no class {_names(c)}" for d, c in missing)
        raise ScmdError(
            f"{findings} (other domains do): {source}. "
            "Add it, or pass --classes intersection or --classes union"
        )
    return entries


def _index(source: Path, root: Path, entries: Sequence[_Entry]) -> DomainImages:
    domains = tuple(sorted({entry.domain for entry in entries}))
    classes = tuple(sorted({entry.class_name for entry in entries}))
    domain_of = {name: index for index, name in enumerate(domains)}
    label_of = {name: index for index, name in enumerate(classes)}
    n = len(entries)
    for entry in entries:
        if not _is_text(entry.path):
            raise ScmdError(f"a file's name is not UTF-8: {entry.path!r} in {root}. Rename it")
    data = DomainImages(
        source=source,
        root=root,
        domains=domains,
        classes=classes,
        paths=tuple(entry.path for entry in entries),
        domain_index=np.fromiter((domain_of[e.domain] for e in entries), np.int32, n),
        labels=np.fromiter((label_of[e.class_name] for e in entries), np.int32, n),
        ids=np.fromiter((sample_id(e.path) for e in entries), np.int64, n),
    )
    if len(np.unique(data.ids)) != n:
        raise ScmdError(f"two paths of {source} have the same id. Rename one of them")
    return data


def _is_text(name: str) -> bool:
    # What a file system holds and UTF-8 does not, Python reads as lone surrogates.
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def sample_id(path: str) -> int:
    """A stable id, from 0 to 2**63 - 1, of a path relative to the data set's root."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big") >> 1


def _names(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
