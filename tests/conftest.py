"""What the tests share: small image folders, the optional real data, a cache of their own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from soaking import SOAK

# Before torch is imported, and for what the tests start: networks this small gain nothing from
# threads, and on a busy machine the threads wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only ``make soak`` runs."""
    skip = pytest.mark.skip(reason="long; make soak runs it")
    for item in items:
        if item.get_closest_marker("soak") and not SOAK:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """``write_image(path, size=16)`` writes noise that depends on the last names of the path."""

    def write(path: Path, size: int = 16) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = zlib.crc32("/".join(path.parts[-3:]).encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def image_folder(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """``image_folder(domains, classes, count)`` writes a data set and returns its folder.

    ``count`` is the number of images of every class of every domain, or a mapping of
    ``(domain, class)`` to it (3 where it has no such key). No two images are alike.
    """

    def make(
        domains: Sequence[str] = ("photo", "sketch"),
        classes: Sequence[str] = ("cat", "dog"),
        count: int | Mapping[tuple[str, str], int] = 3,
        size: int = 16,
        name: str = "images",
    ) -> Path:
        root = tmp_path / name
        for domain in domains:
            for label in classes:
                n = count if isinstance(count, int) else count.get((domain, label), 3)
                for index in range(n):
                    write_image(root / domain / label / f"{index:03}.png", size)
        return root

    return make


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data that ``SCMD_TEST_DATA`` names; without it, the test is skipped."""
    folder = os.environ.get("SCMD_TEST_DATA")
    if not folder:
        pytest.skip("SCMD_TEST_DATA is not set: it names a folder with data/PACS")
    return Path(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights, saved as open_clip saves: a folder to load it from.

    Its images are 32 x 32, its embeddings have 16 numbers. Copy the folder to change it.
    """
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    preprocess_cfg = {"mean": [0.4, 0.45, 0.5], "std": [0.2, 0.25, 0.3]}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = open_clip.CLIP(**model_cfg)
    folder = tmp_path_factory.mktemp("clip")
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
