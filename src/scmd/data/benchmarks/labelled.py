"""Layouts in which a table says what an image is: the hub's, camera traps, Camelyon17."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Benchmark
from scmd.data.benchmarks.items import Item, domain_names, plain
from scmd.data.benchmarks.unpack import ArchiveError, safe_name
from scmd.data.walking import files_in, is_image

_DAMAGED = (
    pa.ArrowException, csv.Error, OSError, ValueError, LookupError, TypeError, AttributeError,
    RecursionError,
)  # fmt: skip
_LABELS = {"categories", "images", "annotations"}


def of_parquet(benchmark: Benchmark, file: Path) -> Iterator[Item]:
    """The hub's own form of an image data set: columns image {bytes, path}, domain, label."""
    try:
        with pq.ParquetFile(file) as table:
            columns = set(table.schema_arrow.names)
            if not {"image", "domain", "label"} <= columns:
                raise ArchiveError(
                    f"sent a table without the columns image, domain and label ({file.name})"
                )
            names = _label_names(table.schema_arrow.metadata or {})
            wanted = domain_names(benchmark)
            row = 0
            for batch in table.iter_batches(256, columns=["image", "domain", "label"]):
                for record in batch.to_pylist():
                    domain = wanted.get(plain(str(record["domain"])), str(record["domain"]))
                    class_name = _class_of(record["label"], names, file)
                    content, path = record["image"]["bytes"], record["image"].get("path")
                    if any(len(safe_name(part).parts) != 1 for part in (domain, class_name)):
                        raise ArchiveError(f"sent a table with an odd name ({file.name})")
                    if not isinstance(content, bytes):
                        raise ArchiveError(f"sent a table without its images ({file.name})")
                    name = f"{file.stem}-{row:06}{_extension(content)}"
                    if path:
                        name = safe_name(path).name
                    row += 1
                    yield Item(domain, class_name, name, content)
    except _DAMAGED as error:
        raise ArchiveError(f"sent a table that cannot be read ({file.name}: {error})") from error


def _class_of(label: object, names: list[str], file: Path) -> str:
    if isinstance(label, str):
        return label
    if not isinstance(label, int) or not 0 <= label < len(names):  # the hub has -1 for none
        raise ArchiveError(f"sent a table with a label that has no name: {label} ({file.name})")
    return names[label]


def _label_names(metadata: dict[bytes, bytes]) -> list[str]:
    about = json.loads(metadata.get(b"huggingface", b"{}"))
    label = about.get("info", {}).get("features", {}).get("label", {})
    return [str(name) for name in label.get("names", [])]


def _extension(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def of_camera_traps(benchmark: Benchmark, folder: Path) -> Iterator[Item]:
    """DomainBed's choice from the Caltech Camera Traps: locations are domains, animals classes.

    An image of several animals goes into each of their classes, as in DomainBed's download.py.
    """
    images: dict[object, tuple[str, str]] = {}
    categories: dict[object, str] = {}
    labels: set[tuple[object, object]] = set()
    for file in files_in(folder, "*.json"):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not found.keys() >= _LABELS:
                continue  # of a download, a split
            categories |= {c["id"]: str(c["name"]) for c in found["categories"]}
            images |= {
                i["id"]: (f"location_{i['location']}", Path(i["file_name"]).name)
                for i in found["images"]
            }
            labels |= {(a["image_id"], a["category_id"]) for a in found["annotations"]}
        except _DAMAGED as error:
            raise SourceError(f"has labels that cannot be read: {file.name}: {error!r}") from error
    if not labels:
        raise SourceError("has neither location_38 and so on, nor labels (*.json)")
    files = {path.name: path for path in files_in(folder) if is_image(path.name)}
    chosen = {(image, categories.get(category, "")) for image, category in labels}
    for image, class_name in sorted(chosen, key=str):
        domain, name = images.get(image, ("", ""))
        if domain not in benchmark.domains or class_name not in benchmark.classes:
            continue
        path = files.get(name)
        if path is None:
            raise SourceError(f"has labels for an image that is not there: {name}")
        yield Item(domain, class_name, path.name, path)


def of_camelyon(folder: Path) -> Iterator[Item]:
    """WILDS' Camelyon17: hospitals are domains."""
    table = next(files_in(folder, "metadata.csv"), None)
    if table is None:
        raise SourceError("has neither hospital_0 and so on, nor a metadata.csv")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                slide = f"patient_{int(row['patient']):03}_node_{int(row['node'])}"
                name = f"patch_{slide}_x_{int(row['x_coord'])}_y_{int(row['y_coord'])}.png"
                path = table.parent / "patches" / slide / name
                class_name = "tumor" if int(row["tumor"]) else "normal"
                yield Item(f"hospital_{int(row['center'])}", class_name, name, path)
    except _DAMAGED as error:
        raise SourceError(f"has a metadata.csv that cannot be read: {error!r}") from error
