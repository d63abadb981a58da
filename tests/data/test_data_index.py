"""The index of a large data set is kept, and nobody notices but by the clock."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scmd.data.index_cache as index_cache
import scmd.data.watched as watched
from scmd.data.folder import ClassPolicy, DomainImages, load_domains
from scmd.data.loader import evaluation_batches
from scmd.errors import ScmdError
from scmd.store import cache_root


@pytest.fixture(autouse=True)
def _small_and_old(monkeypatch):
    """Small data sets count as large, and new folders as settled."""
    monkeypatch.setattr(index_cache, "CACHED_FROM", 3)
    monkeypatch.setattr(watched, "SETTLED_SECONDS", -60)


@pytest.fixture
def listed(monkeypatch) -> list[Path]:
    """What is listed, and not taken from the cache."""
    sources: list[Path] = []
    for name in ("list_folder", "list_manifest"):
        original = getattr(index_cache, name)

        def listing(source, seen, original=original):
            sources.append(source)
            return original(source, seen)

        monkeypatch.setattr(index_cache, name, listing)
    return sources


@pytest.fixture
def root(image_folder, write_image) -> Path:
    """Two domains of two classes; one has nested folders, a linked one, and linked images."""
    root = image_folder(("a", "b"))
    write_image(root / "a" / "cat" / "deep" / "deeper" / "x.png")
    write_image(root.parent / "elsewhere" / "y.png")
    (root / "b" / "dog" / "linked").symlink_to(root.parent / "elsewhere")
    (root / "b" / "dog" / "link.png").symlink_to(root.parent / "elsewhere" / "y.png")
    (root / "b" / "dog" / "nowhere.png").symlink_to(root.parent / "to_come")
    return root


def manifest_of(data: DomainImages) -> Path:
    lines = [
        f"{data.paths[row]},{data[row].domain},{data[row].class_name}" for row in range(len(data))
    ]
    path = data.root / "samples.csv"
    kept = [line for line in lines if "nowhere" not in line]
    path.write_text("\n".join(["path,domain,class", *kept, ""]))
    return path


def assert_same(a: DomainImages, b: DomainImages) -> None:
    assert (a.source, a.root, a.domains, a.classes) == (b.source, b.root, b.domains, b.classes)
    assert tuple(a.paths) == tuple(b.paths)
    for name in ("domain_index", "labels", "ids"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def uncached(source: Path, classes: ClassPolicy = "strict") -> DomainImages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_cache, "CACHED_FROM", 10**9)
        patch.setenv("SCMD_CACHE", str(source.parent / "nothing"))
        return load_domains(source, classes)


def kept() -> list[Path]:
    return sorted(cache_root().glob("index/*/index.npz"))


@pytest.mark.parametrize("policy", ["strict", "union", "intersection"])
@pytest.mark.parametrize("manifest", [False, True])
def test_result_is_the_same_without_with_and_from_the_cache(root, listed, policy, manifest):
    if policy != "strict":
        shutil.copytree(root / "a" / "cat", root / "a" / "fox")
    source = manifest_of(load_domains(root, "union")) if manifest else root
    shutil.rmtree(cache_root())
    listed.clear()
    first = load_domains(source, policy)
    again = load_domains(source, policy)
    assert listed == [source]
    assert_same(first, uncached(source, policy))
    assert_same(again, first)
    images = [next(evaluation_batches(d, np.arange(4), 8, 4, 0)) for d in (first, again)]
    assert images[0].equal(images[1])


def test_small_data_set_is_not_kept(root, monkeypatch):
    monkeypatch.setattr(index_cache, "CACHED_FROM", 20_000)
    load_domains(root)
    assert not cache_root().exists() or not list(cache_root().iterdir())


def add(root: Path, name: str, source: str = "a/cat/000.png") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / source, root / name)


def replace_by_folder(root: Path, name: str) -> None:
    (root / name).unlink()
    add(root, f"{name}/inner.png", "a/dog/000.png")


def retarget(root: Path, name: str, target: Path) -> None:
    (root / name).unlink()
    (root / name).symlink_to(target)


def swap(root: Path, one: str, other: str) -> None:
    (root / one).rename(root / "kept")
    (root / other).rename(root / one)
    (root / "kept").rename(root / other)


def with_old_times(change: Callable[[Path], object], *folders: str) -> Callable[[Path], None]:
    """A change that puts the folders' times back, as an archive that is unpacked does."""

    def changing(root: Path) -> None:
        before = {folder: (root / folder).stat() for folder in folders}
        change(root)
        for folder, status in before.items():
            os.utime(root / folder, ns=(status.st_atime_ns, status.st_mtime_ns))

    return changing


CHANGES: dict[str, Callable[[Path], object]] = {
    "image added": lambda root: add(root, "a/cat/new.png"),
    "image removed": lambda root: (root / "a/cat/001.png").unlink(),
    "image renamed": lambda root: (root / "a/cat/001.png").rename(root / "a/cat/9.png"),
    "image moved": lambda root: (root / "a/cat/001.png").rename(root / "a/dog/9.png"),
    "image added, folder's time put back": with_old_times(
        lambda root: add(root, "a/cat/new.png"), "a/cat"
    ),
    "image replaced by a folder": lambda root: replace_by_folder(root, "a/cat/001.png"),
    "nested image added": lambda root: add(root, "a/cat/deep/deeper/new.png"),
    "nested folder added": lambda root: add(root, "a/cat/deep/other/new.png"),
    "nested folder removed": lambda root: shutil.rmtree(root / "a/cat/deep"),
    "class renamed everywhere": lambda root: [
        (root / d / "cat").rename(root / d / "fox") for d in "ab"
    ],
    "class added everywhere": lambda root: [add(root, f"{d}/fox/1.png") for d in "ab"],
    "domain added": lambda root: shutil.copytree(root / "a", root / "c"),
    "domain renamed": lambda root: (root / "a").rename(root / "z"),
    "classes swapped": lambda root: swap(root, "a/cat", "a/dog"),
    "behind a link added": lambda root: add(root, "../elsewhere/new.png"),
    "link led elsewhere": lambda root: retarget(root, "b/dog/linked", root / "a" / "cat"),
    "image's link leads to a folder": lambda root: add(root, "../to_come/new.png"),
    "name that is no image": lambda root: (root / "a/cat/001.png").rename(root / "a/cat/1.txt"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_noticed(root, change, listed):
    load_domains(root)
    assert kept()
    before = uncached(root)
    time.sleep(0.02)  # a tick of the file system's clock, for which SETTLED_SECONDS stands else
    CHANGES[change](root)
    listed.clear()
    after = load_domains(root)
    assert listed == [root]
    assert_same(after, uncached(root))
    assert tuple(after.paths) != tuple(before.paths)
    assert_same(load_domains(root), after)
    assert listed.count(root) == 2  # and once by uncached


def test_image_replaced_in_place_changes_no_name_and_is_read_anew(root):
    """Names are kept, and no pixels."""
    data = load_domains(root)
    before = next(evaluation_batches(data, np.array([0]), 8, 1, 0))
    Image.new("RGB", (16, 16), "red").save(root / data.paths[0])
    again = load_domains(root)
    assert_same(again, data)
    after = next(evaluation_batches(again, np.array([0]), 8, 1, 0))
    assert not after.equal(before)
    assert after[0, 0].min() == 255


MANIFEST_CHANGES: dict[str, Callable[[Path], object]] = {
    "line removed": lambda path: path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n"),
    "label changed, as long": lambda path: path.write_text(
        path.read_text().replace("a/cat/000.png,a,cat", "a/cat/000.png,a,dog")
    ),
    "replaced by another": lambda path: (
        path.with_suffix(".new").write_text(path.read_text().replace("b,dog", "b,cat", 1)),
        os.replace(path.with_suffix(".new"), path),
    ),
}


@pytest.mark.parametrize("change", MANIFEST_CHANGES)
def test_changed_manifest_is_noticed(root, change, listed):
    path = manifest_of(load_domains(root))
    load_domains(path)
    assert len(kept()) == 2
    time.sleep(0.02)
    MANIFEST_CHANGES[change](path)
    listed.clear()
    after = load_domains(path)
    assert listed == [path]
    assert_same(after, uncached(path))


@pytest.mark.parametrize("name", ["a/cat/001.png", "a/cat/deep/deeper/x.png", "b/dog/link.png"])
@pytest.mark.parametrize("how", ["removed", "renamed", "folder gone", "target gone", "a folder"])
def test_manifest_whose_image_is_gone(root, name, how):
    path = manifest_of(load_domains(root))
    load_domains(path)
    time.sleep(0.02)
    if how == "removed":
        (root / name).unlink()
    elif how == "renamed":
        (root / name).rename((root / name).with_suffix(".jpg"))
    elif how == "folder gone":
        (root / name).parent.rename(root / "away")
    elif how == "target gone":
        (root / name).resolve().unlink()
    else:
        replace_by_folder(root, name)
    with pytest.raises(ScmdError, match="no such image"):
        load_domains(path)


def test_folder_that_has_just_been_changed_is_not_relied_on(root, monkeypatch):
    """Within a tick of its clock a second change would leave no trace."""
    monkeypatch.setattr(watched, "SETTLED_SECONDS", 30)
    assert len(load_domains(root)) == len(load_domains(root))
    assert not kept()
    now = time.time_ns()
    for later, relied_on in ((0, False), (29, False), (31, True)):
        monkeypatch.setattr(time, "time_ns", lambda later=later: now + later * 10**9)
        load_domains(root)
        assert bool(kept()) == relied_on


def test_what_is_added_while_a_folder_is_listed_is_noticed_the_next_time(root, monkeypatch):
    scandir, added = os.scandir, []

    @contextmanager
    def slow(path):
        with scandir(path) as entries:
            listed = list(entries)
        if Path(path) == root / "a" / "cat" and not added:
            time.sleep(0.02)
            add(root, "a/cat/new.png", "a/dog/000.png")
            added.append(path)
        yield iter(listed)

    monkeypatch.setattr(os, "scandir", slow)
    assert "a/cat/new.png" not in load_domains(root).paths
    assert kept()
    assert "a/cat/new.png" in load_domains(root).paths


def test_folder_from_the_future_is_not_relied_on(root):
    os.utime(root / "a" / "cat", (2**33, 2**33))
    load_domains(root)
    assert not kept()


def test_other_image_types_make_another_index(root, monkeypatch):
    """What counts as an image is Pillow's to say, and its plug-ins'."""
    load_domains(root)
    for module in ("scmd.data.index_cache", "scmd.data.walking"):
        monkeypatch.setattr(f"{module}.IMAGE_EXTENSIONS", frozenset({".png", ".txt"}))
    (root / "a" / "dog" / "more.txt").write_bytes(b"")
    assert "a/dog/more.txt" in load_domains(root).paths
    assert len(kept()) == 2


def test_damaged_index_is_made_anew(root, listed):
    expected = load_domains(root)
    (file,) = kept()
    whole = file.read_bytes()
    draw = np.random.default_rng(0)
    damaged = [b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"nonsense"]
    for place in draw.integers(len(whole), size=60).tolist():
        damaged.append(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    for content in damaged:
        file.write_bytes(content)
        assert_same(load_domains(root), expected)
    assert len(listed) > 1
    for place in range(len(whole) - 900, len(whole)):  # where an archive says what is in it
        for bit in (1, 8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            if found := index_cache._read(file.parent, root):
                assert found.paths == expected.paths


def test_index_of_another_folder_in_the_same_place(root, tmp_path):
    """A folder that was moved away and another one that is put there are told apart."""
    load_domains(root)
    shutil.copytree(root, tmp_path / "other", symlinks=True)
    (tmp_path / "other" / "a" / "cat" / "000.png").rename(tmp_path / "other" / "a/cat/7.png")
    root.rename(tmp_path / "away")
    (tmp_path / "other").rename(root)
    assert "a/cat/7.png" in load_domains(root).paths


@pytest.mark.parametrize("how", ["a file", "read-only"])
def test_cache_that_cannot_be_written_changes_nothing(root, tmp_path, monkeypatch, how):
    place = tmp_path / "cache"
    if how == "a file":
        place.write_text("")
    else:

        def refuse(*args, **kwargs):
            raise ScmdError("read-only")

        monkeypatch.setattr(index_cache, "exclusive", refuse)
    expected = uncached(root)
    monkeypatch.setenv("SCMD_CACHE", str(place))
    assert_same(load_domains(root), expected)
    assert_same(load_domains(root), expected)


def test_disk_that_is_full_changes_nothing(root, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    expected = uncached(root)
    monkeypatch.setattr(np, "savez", full)
    assert_same(load_domains(root), expected)
    assert not list(cache_root().glob("index/*/*index*"))


def test_of_two_at_once_one_makes_it_and_the_other_waits(root, monkeypatch):
    written, original = [], index_cache._write
    monkeypatch.setattr(
        index_cache, "_write", lambda *a: (time.sleep(0.1), written.append(1), original(*a))
    )
    results: list[DomainImages] = []
    threads = [
        threading.Thread(target=lambda: results.append(load_domains(root))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert written == [1]
    for data in results:
        assert_same(data, uncached(root))


def test_errors_are_the_same_and_nothing_is_kept(root):
    (root / "c").mkdir()
    for _ in range(2):
        with pytest.raises(ScmdError, match="domain 'c' has no class folder"):
            load_domains(root)
    assert not kept()
