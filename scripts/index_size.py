"""How long a data set of a million images takes to index, and how much memory, cold and cached.

A folder of hard links to small images, and a manifest that names them all, are made in a temporary
folder (a million inode entries take some minutes and 100 MB of folders) and removed at the end.
Every measurement is a process of its own.

    python scripts/index_size.py --images 1000000
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

DOMAINS, CLASSES = 4, 100
LINKS = 30_000
"""To one inode; ext4 takes 65,000."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=1_000_000)
    arguments.add_argument("--folder", type=Path, help="where to make them; default: /tmp")
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        measure(given.measure)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        root, cache = Path(place, "images"), Path(place, "cache")
        began = time.perf_counter()
        manifest = make(root, given.images)
        print(f"{given.images:,} images made in {time.perf_counter() - began:.0f} s")
        time.sleep(settling())  # what has just been changed is not cached
        for source in (root, manifest):
            for what in ("cold", "cached"):
                print(f"{source.name}, {what}:", flush=True)
                subprocess.run(
                    [sys.executable, __file__, "--measure", source],
                    check=True,
                    env={**os.environ, "SCMD_CACHE": str(cache)},
                )


def settling() -> float:
    from scmd.data.watched import SETTLED_SECONDS

    return SETTLED_SECONDS + 1


def make(root: Path, images: int) -> Path:
    """Make the folder, and the manifest beside it; returns the manifest."""
    names = [(f"domain{d}", f"class{c:03}") for d in range(DOMAINS) for c in range(CLASSES)]
    each = -(-images // len(names))
    manifest = root.parent / "manifest.csv"
    made = 0
    with manifest.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "domain", "class"))
        for domain, class_name in names:
            folder = root / domain / class_name
            folder.mkdir(parents=True)
            first = folder
            for index in range(min(each, images - made)):
                name = folder / f"image_{index:07}.jpg"
                if index % LINKS == 0:
                    first = name
                    Image.new("RGB", (8, 8)).save(first)
                else:
                    os.link(first, name)
                lines.writerow((f"images/{domain}/{class_name}/{name.name}", domain, class_name))
                made += 1
    return manifest


def measure(source: Path) -> None:
    """Print seconds and memory of loading, splitting and beginning to draw, in this process."""
    from scmd.data.folder import load_domains
    from scmd.data.loader import DomainBatches
    from scmd.data.splits import holdout_mask

    before, held_before = peak(), held()
    began = time.perf_counter()
    data = load_domains(source)
    loaded = time.perf_counter()
    print(
        f"  index: {loaded - began:.2f} s, {held() - held_before:.0f} MB held, "
        f"{peak() - before:.0f} MB at the peak"
    )
    mask = holdout_mask(data, 0.2, 0)
    split = time.perf_counter()
    rows = [data.rows(domain)[~mask[data.rows(domain)]] for domain in data.domains]
    first = DomainBatches(data, rows, 32, seed=0, start=0, stop=5000).step(0)
    drawn = time.perf_counter()
    balanced = DomainBatches(data, rows, 32, 0, 0, 5000, class_balanced=True).step(4999)
    assert len(first) == len(balanced) == 32 * len(data.domains)
    print(
        f"  split: {split - loaded:.2f} s; first batch: {drawn - split:.2f} s; "
        f"balanced: {time.perf_counter() - drawn:.2f} s; {peak() - before:.0f} MB at the peak"
    )


def peak() -> float:
    """Megabytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held() -> float:
    """Megabytes that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
