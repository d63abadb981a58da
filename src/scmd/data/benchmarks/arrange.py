"""From what an archive holds, or what somebody has, to ``domain/class/image``."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Benchmark
from scmd.data.benchmarks.items import Item, domain_names, plain
from scmd.data.benchmarks.labelled import of_camelyon, of_camera_traps, of_parquet
from scmd.data.benchmarks.mnist import digits_of
from scmd.data.walking import files_in, images_in, is_folder
from scmd.errors import ScmdError
from scmd.files import ASIDE

How = Literal["link", "copy", "link or copy"]
"""With the last, only what lies beside the result, and so was made for it, may become a link."""
_DEPTH = 4
"""So many folders may stand above the domains'."""
_PARTS = ("full", "test", "train", "crossval", "val")
"""Folders between domain and class in copies that were split once and for all."""


def items_of(benchmark: Benchmark, folder: Path) -> Iterator[Item]:
    """The images of a data set, wherever they are in a folder, under the catalogue's names.

    Raises:
        SourceError: The folder has no layout that is known.
    """
    domains = domain_folders(benchmark, folder)
    parquet = [] if domains else [*files_in(folder, "*.parquet")]
    if domains:
        listed = _duplicates(benchmark, folder)
        for domain, path in domains.items():
            yield from (
                item
                for item in _of_domain(benchmark, domain, path)
                if f"{domain}/{item.class_name}/{item.name}" not in listed
            )
    elif parquet:
        for file in parquet:
            yield from of_parquet(benchmark, file)
    elif benchmark.layout == "camera-traps":
        yield from of_camera_traps(benchmark, folder)
    elif benchmark.layout == "camelyon":
        yield from of_camelyon(folder)
    elif benchmark.layout in ("rotated-mnist", "coloured-mnist"):
        for domain, class_name, name, content in digits_of(benchmark, folder):
            yield Item(domain, class_name, name, content)
    else:
        raise SourceError(
            f"has no folder with the domains {', '.join(benchmark.domains)} "
            f"(at its top: {_top(folder)})"
        )


def _top(folder: Path) -> str:
    tops = [path for path in folder.glob("unpacked/*") if path.is_dir()] or [folder]
    paths = (path for top in tops for path in top.iterdir())
    names = sorted({path.name for path in paths if not path.name.startswith(".")})
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "nothing"


def domain_folders(benchmark: Benchmark, folder: Path) -> dict[str, Path]:
    """The folder of each domain, the one nearest to the top; empty unless all are there.

    Those of one set may lie in different folders: an archive for each domain.
    """
    wanted = domain_names(benchmark)
    found: dict[str, Path] = {}
    level = _folders(folder)
    for _ in range(_DEPTH + 1):
        for path in level:
            domain = wanted.get(plain(path.name))
            if domain and domain not in found and _folders(path):
                found[domain] = _innermost(path)
        if len(found) == len(benchmark.domains):
            return {domain: found[domain] for domain in benchmark.domains}
        level = [path for above in level if above not in found.values() for path in _inside(above)]
    return {}


def _innermost(folder: Path) -> Path:
    """An archive of a domain is often unpacked into a folder of the domain's name."""
    inside = _folders(folder)
    while len(inside) == 1 and plain(inside[0].name) == plain(folder.name):
        folder, inside = inside[0], _folders(inside[0])
    return folder


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if is_folder(e))
    return [folder / name for name in names if not name.startswith((".", "__"))]


def _inside(folder: Path) -> list[Path]:
    try:
        return _folders(folder)
    except OSError:  # a disk's lost+found
        return []


def _of_domain(benchmark: Benchmark, domain: str, folder: Path) -> Iterator[Item]:
    parts = [path for path in _folders(folder) if path.name in _PARTS]
    if parts and len(parts) == len(_folders(folder)):
        if any(path.name == "full" for path in parts):  # it holds train and crossval
            parts = [path for path in parts if path.name in ("full", "test")]
    else:
        parts = [folder]
    seen: set[tuple[str, str]] = set()
    for part in parts:
        for class_folder in _folders(part):
            class_name = _class_of(benchmark, class_folder.name)
            for path in images_in(class_folder):
                name = path.relative_to(class_folder).as_posix()
                if (class_name, name) in seen:
                    name = f"{part.name}_{name}"
                seen.add((class_name, name))
                yield Item(domain, class_name, name, path)


def _class_of(benchmark: Benchmark, name: str) -> str:
    if benchmark.numbered_classes and name.isdecimal() and int(name) < len(benchmark.classes):
        return benchmark.classes[int(name)]
    return name


def _duplicates(benchmark: Benchmark, folder: Path) -> frozenset[str]:
    if not benchmark.duplicates:
        return frozenset()
    for file in files_in(folder, benchmark.duplicates):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        return frozenset(line.strip() for line in lines if line.strip())
    return frozenset()


def place(items: Iterable[Item], out: Path, how: How, progress: Callable[[int, int], None]) -> int:
    """Put images into ``out/domain/class/name``, aside and renamed; what they come from stays.

    Args:
        items: The images.
        out: The folder to make; its parent exists.
        how: Hard links take no room, and are one and the same file as what they are made of.
        progress: Called with the number of images done, and 0.

    Returns:
        The number of images.

    Raises:
        SourceError: Two images have the same place, or one is not there or no file.
        ScmdError: One cannot be read; the disk is full, or cannot have such links.
    """
    aside = out.with_name(out.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    ours = os.path.realpath(out.parent) + os.sep
    count = 0
    try:
        aside.mkdir()
        for count, item in enumerate(items, 1):
            target = aside / item.domain / item.class_name / item.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(item, target, how, ours)
            progress(count, 0)
        if not count:
            raise SourceError("has no image")
        aside.rename(out)
    except FileExistsError as error:
        raise SourceError(f"has two images of one name: {_within(error, aside)}") from error
    except FileNotFoundError as error:
        raise SourceError(f"lacks an image: {_real(error.filename)}") from error
    except OSError as error:
        raise _told(error, out, aside) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count


def _told(error: OSError, out: Path, aside: Path) -> ScmdError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ScmdError(
            f"{out} cannot be written: the disk is full. Make room, or choose another --out"
        )
    if error.errno == errno.ENAMETOOLONG:
        return SourceError(f"has a name that is too long: {_within(error, aside)}")
    if error.filename is None or Path(error.filename).is_relative_to(aside):
        return ScmdError(f"{out} cannot be written: {error.strerror}. Choose another --out")
    return ScmdError(
        f"{_real(error.filename)} cannot be read: {error.strerror}. Mend it, or move it away"
    )


def _real(path: str | Path) -> str:
    """Where it is for the user: a copy beside its archives is read through a link of ours."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _within(error: OSError, aside: Path) -> str:
    name = error.filename2 or error.filename or ""
    return os.path.relpath(name, aside) if name else "?"


def _put(item: Item, target: Path, how: How, ours: str) -> None:
    if isinstance(item.content, bytes):
        with target.open("xb") as file:
            file.write(item.content)
        return
    if not stat.S_ISREG(os.stat(item.content).st_mode):
        raise SourceError(f"has something that is no file: {_real(item.content)}")
    try:
        f"{item.class_name}/{item.name}".encode()
    except UnicodeEncodeError as error:
        raise ScmdError(
            f"a file's name is not UTF-8: {_real(item.content)!r}. Rename it"
        ) from error
    source = os.path.realpath(item.content)
    if how == "link" or (how == "link or copy" and source.startswith(ours)):
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOENT):
                raise
            if how == "link":
                raise ScmdError(
                    f"no hard link to {item.content} can be made in {target.parents[2].parent}: "
                    f"{error.strerror}. Leave --link out, to copy, or choose an --out on the same "
                    "disk"
                ) from error
    with target.open("xb") as file:
        file.writelines(_pieces(item.content))


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                yield piece
    except OSError as error:
        error.filename = path  # which reading leaves out
        raise
