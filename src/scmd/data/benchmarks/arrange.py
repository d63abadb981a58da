"""From what an archive holds, or what somebody has, to ``domain/class/image``."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Benchmark
from scmd.data.benchmarks.items import Item, images_in, plain
from scmd.data.benchmarks.labelled import of_camelyon, of_camera_traps, of_parquet
from scmd.data.benchmarks.mnist import digits_of
from scmd.errors import ScmdError
from scmd.files import ASIDE

How = Literal["link", "copy", "link or copy"]
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
    parquet = [] if domains else sorted(folder.rglob("*.parquet"))
    if domains:
        listed = _duplicates(benchmark, folder)
        for domain, path in domains.items():
            yield from (
                item
                for item in _of_domain(benchmark, domain, path)
                if f"{path.name}/{item.class_name}/{item.name}" not in listed
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
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "nothing"


def domain_folders(benchmark: Benchmark, folder: Path) -> dict[str, Path]:
    """The folder of each domain, the one nearest to the top; empty unless all are there.

    Those of one set may lie in different folders: an archive for each domain.
    """
    wanted = {
        plain(name): domain
        for domain in benchmark.domains
        for name in (domain, *benchmark.aliases.get(domain, ()))
    }
    found: dict[str, Path] = {}
    level = [folder]
    for _ in range(_DEPTH + 1):
        level = [path for above in level for path in _folders(above)]
        for path in level:
            domain = wanted.get(plain(path.name))
            if domain and domain not in found and _folders(path):
                found[domain] = _innermost(path)
        level = [path for path in level if path not in found.values()]
    if len(found) < len(benchmark.domains):
        return {}
    return {domain: found[domain] for domain in benchmark.domains}


def _innermost(folder: Path) -> Path:
    """An archive of a domain is often unpacked into a folder of the domain's name."""
    inside = _folders(folder)
    while len(inside) == 1 and plain(inside[0].name) == plain(folder.name):
        folder, inside = inside[0], _folders(inside[0])
    return folder


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__")))
    return [folder / name for name in names]


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
    for file in sorted(folder.rglob(benchmark.duplicates)):
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
        SourceError: Two images have the same place, or one is not there.
        ScmdError: The disk is full, or cannot have such links.
    """
    aside = out.with_name(out.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    count = 0
    try:
        aside.mkdir()
        for count, item in enumerate(items, 1):
            target = aside / item.domain / item.class_name / item.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(item, target, how)
            progress(count, 0)
        if not count:
            raise SourceError("has no image")
        aside.rename(out)
    except FileExistsError as error:
        raise SourceError(f"has two images of one name: {_within(error, aside)}") from error
    except FileNotFoundError as error:
        raise SourceError(f"lacks an image: {error.filename}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror
        raise ScmdError(
            f"{out} cannot be written: {reason}. Make room, or choose another --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count


def _within(error: OSError, aside: Path) -> str:
    name = error.filename2 or error.filename or ""
    return os.path.relpath(name, aside) if name else "?"


def _put(item: Item, target: Path, how: How) -> None:
    if isinstance(item.content, bytes):
        with target.open("xb") as file:
            file.write(item.content)
        return
    if how != "copy":
        try:
            os.link(os.path.realpath(item.content), target)
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
    with item.content.open("rb") as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
