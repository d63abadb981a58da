"""A data set of several domains: a folder ``domain/class/image`` or a CSV manifest."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from scmd.data.decoded import DecodedImages
from scmd.data.index_cache import Index, index_of
from scmd.data.listing import MANIFEST_COLUMNS as MANIFEST_COLUMNS
from scmd.data.listing import named, written_differently
from scmd.data.paths import sample_id as sample_id
from scmd.errors import ScmdError, ScmdWarning

ClassPolicy = Literal["strict", "union", "intersection"]


class Sample(NamedTuple):
    """One labelled image."""

    id: int
    path: Path
    domain: str
    class_name: str


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
    paths: Sequence[str]
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
    if not str(path):
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    source = Path(path)
    if source.is_dir():
        root = source
    elif source.is_file():
        root = source.parent
    else:
        raise ScmdError(
            f"no such folder or manifest: {source}. "
            "Give a folder domain/class/image or a CSV file with the columns path,domain,class"
        )
    index = _apply_policy(index_of(source, root), classes, source)
    data = DomainImages(source, root, **vars(index))
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
    raise ScmdError(f"{data.source} has no domain {name!r} (it has {named(data.domains)}). {hint}")


def _apply_policy(index: Index, policy: ClassPolicy, source: Path) -> Index:
    there = np.zeros((len(index.domains), len(index.classes)), dtype=bool)
    there[index.domain_index, index.labels] = True
    shared = np.logical_and.reduce(there)
    if policy == "union" or shared.all():
        return index
    if policy == "intersection":
        if not shared.any():
            raise ScmdError(
                f"no class is in every domain of {source}. Pass --classes union (scmd protocol: "
                "--set data.classes=union)"
            )
        return _of_classes(index, shared)
    if alike := written_differently(index.classes):
        raise ScmdError(
            f"the classes {alike[0]!a} and {alike[1]!a} of {source} are the same letters "
            "in two Unicode forms. Rename one of them"
        )
    missing = [
        f"domain {domain!r} has no class {named(np.array(index.classes)[~found].tolist())}"
        for domain, found in zip(index.domains, there, strict=True)
        if not found.all()
    ]
    raise ScmdError(
        f"{'; '.join(missing)} (other domains do): {source}. "
        "Add it, or pass --classes intersection or --classes union (scmd protocol: --set "
        "data.classes=union)"
    )


def _of_classes(index: Index, wanted: np.ndarray) -> Index:
    """What is left of some classes, bool [classes]."""
    mask = wanted[index.labels]
    return dataclasses.replace(
        index,
        classes=tuple(np.array(index.classes)[wanted].tolist()),
        paths=index.paths.where(mask),
        domain_index=index.domain_index[mask],
        labels=(np.cumsum(wanted, dtype=np.int32) - 1)[index.labels[mask]].astype(np.int32),
        ids=index.ids[mask],
    )
