"""``scmd data import``: what people have in a folder, and what they are told about it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.build import Reporting
from scmd.data.benchmarks.importing import import_copy
from scmd.data.benchmarks.sets_large import CAMELYON17, TERRA_INCOGNITA
from scmd.data.benchmarks.sets_mnist import ROTATED_MNIST
from scmd.errors import ScmdError

from test_data_get import IMAGES, benchmark, bring_in, left_over, write  # isort: skip
from test_data_get_arrange import arranged, files, put, write_labels, write_mnist, write_table  # isort: skip
from test_data_get_unpack import make_zip  # isort: skip

PHOTOS = {name: content for name, content in IMAGES.items() if name.startswith("photo")}
SKETCHES = {name: content for name, content in IMAGES.items() if name.startswith("sketch")}


def imported(known, path: Path, out: Path, **options) -> set[str]:
    """The names of a set of the catalogue, of which the test has a few images."""
    import_copy(known, path, out, Reporting(lambda line: None), True, **options)
    return files(out)


def refused(path: Path, match: str, known=None) -> str:
    """It is refused in one line that names nothing of ours; nothing is left of it."""
    out = path.parent / "data" / "Small"
    with pytest.raises(ScmdError, match=match) as told:
        import_copy(known or benchmark(), path, out, Reporting(lambda line: None))
    assert not out.parent.exists()
    said = str(told.value)
    assert not any(ours in said for ours in (".importing", "archive-", "arranged", "sent "))
    return said


def unreadable(monkeypatch, *paths: Path) -> None:
    """These may not be read: the tests may run as root, which may read all."""
    scan, opened = os.scandir, Path.open

    def check(path) -> None:
        if not isinstance(path, int) and Path(os.path.realpath(path)) in paths:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", lambda path=".": check(path) or scan(path))
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: check(path) or opened(path, *a, **k))


# Links, pipes, and what may not be read.


def test_linked_folders_are_followed(tmp_path):
    given = write(tmp_path / "given")
    for name in ("photo/cat", "sketch"):
        (given / name).rename(tmp_path / Path(name).name)
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "0.png").rename(tmp_path / "0.png")
    (tmp_path / "cat" / "more" / "link").symlink_to(tmp_path / "sketch" / "dog")
    (given / "photo" / "cat").symlink_to(tmp_path / "cat")
    (given / "sketch").symlink_to(tmp_path / "sketch")
    (tmp_path / "cat" / "0.png").symlink_to(tmp_path / "0.png")
    bring_in(given, tmp_path / "out", allow_differences=True)
    linked = {f"photo/cat/more/link/{n}.png" for n in range(3)}
    assert files(tmp_path / "out") == {*IMAGES, *linked}


@pytest.mark.parametrize("name", ["photo/cat/loop", "photo/cat/deep/loop"])
@pytest.mark.parametrize("target", ["photo/cat", "photo", "."])
def test_a_loop_is_told(tmp_path, name, target):
    given = write(tmp_path / "given")
    (given / name).parent.mkdir(exist_ok=True)
    (given / name).symlink_to(given / target)
    refused(given, rf"{name}.* a folder that it lies in")


def test_a_loop_elsewhere_does_no_harm(tmp_path):
    write_mnist(tmp_path / "given")
    (tmp_path / "given" / "loop").symlink_to(tmp_path / "given")
    (tmp_path / "given" / "itself").symlink_to(tmp_path / "given" / "itself")
    found = imported(ROTATED_MNIST, tmp_path / "given", tmp_path / "out", allow_differences=True)
    assert len(found) == 60


def test_what_may_not_be_read_beside_the_set_is_passed_over(tmp_path, monkeypatch):
    """A disk's lost+found."""
    given = write(tmp_path / "given", "kfold")
    write_mnist(tmp_path / "mnist")
    lost = [folder / "lost+found" for folder in (given, given / "kfold", tmp_path / "mnist")]
    for folder in lost:
        folder.mkdir()
    unreadable(monkeypatch, *lost)
    assert bring_in(given, tmp_path / "out").differences == ()
    imported(ROTATED_MNIST, tmp_path / "mnist", tmp_path / "digits", allow_differences=True)


@pytest.mark.parametrize("name", ["photo", "photo/cat", "photo/cat/deep", "photo/cat/1.png"])
def test_what_may_not_be_read_within_the_set_is_told(tmp_path, monkeypatch, name):
    given = write(tmp_path / "given")
    put(given, "photo/cat/deep/9.png")
    unreadable(monkeypatch, given / name)
    with pytest.raises((ScmdError, PermissionError)) as told:  # the command line says both
        bring_in(given, tmp_path / "data" / "Small", allow_differences=True)
    assert str(given / name) in str(told.value)
    assert "--out" not in str(told.value)
    assert not (tmp_path / "data").exists()


class Broken(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_an_image_that_breaks_off_is_told(tmp_path, monkeypatch):
    given = write(tmp_path / "given")
    opened = Path.open

    def broken(path: Path, *arguments, **options):
        if path == given / "photo/cat/1.png":
            return Broken()
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", broken)
    said = refused(given, r"given/photo/cat/1\.png cannot be read: Input/output error")
    assert "--out" not in said


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_no_image(tmp_path, link):
    given = write(tmp_path / "given")
    os.mkfifo(given / "photo" / "cat" / "z.png")
    with pytest.raises(ScmdError, match=r"is no file: .*given/photo/cat/z\.png"):
        bring_in(given, tmp_path / "out", link=link)


def test_a_name_that_is_no_text_is_told_where_it_is(tmp_path):
    given = write(tmp_path / "given")
    (given / "photo" / "cat" / "\udcff.png").write_bytes(b"x")
    refused(given, r"not UTF-8: '.*/given/photo/cat/\\udcff\.png'\. Rename it")


# Packed and unpacked, side by side.


def test_digits_beside_an_archive(tmp_path):
    write_mnist(tmp_path / "given")
    make_zip(tmp_path / "given" / "holiday.zip", {"a.txt": b"x"})
    found = imported(ROTATED_MNIST, tmp_path / "given", tmp_path / "out", allow_differences=True)
    assert len(found) == 60


@pytest.mark.parametrize("link", [False, True])
def test_half_of_it_packed(tmp_path, link):
    given = tmp_path / "given"
    given.mkdir()
    make_zip(given / "photo.zip", PHOTOS)
    put(given, "kfold/readme.txt")
    for name, content in SKETCHES.items():
        path = given / "kfold" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    out = tmp_path / "out"
    assert bring_in(given, out, link=link).differences == ()
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    assert (out / "sketch/cat/0.png").samefile(given / "kfold/sketch/cat/0.png") == link


def test_images_beside_their_packed_labels(tmp_path):
    write_labels(tmp_path / "l.json", [("a", 38, 0), ("b", 46, 2)])
    given = tmp_path / "given"
    put(given, "images/a.jpg", "images/b.jpg")
    make_zip(given / "labels.zip", {"x/l.json": (tmp_path / "l.json").read_bytes()})
    found = imported(TERRA_INCOGNITA, given, tmp_path / "out", allow_differences=True)
    assert found == {"location_38/cat/a.jpg", "location_46/dog/b.jpg"}


def test_tables_by_any_name(tmp_path):
    given = tmp_path / "given"
    for number, (name, images) in enumerate((("a.parquet", PHOTOS), ("a.pq", SKETCHES))):
        rows = [
            (content, f"{number}{Path(n).name}", n.split("/")[0], n.split("/")[1])
            for n, content in images.items()
        ]
        write_table(given / name, rows, [])
    put(given, "._a.parquet")
    assert bring_in(given, tmp_path / "out").differences == ()


# Labels and tables.


def test_only_labels_are_read_as_labels(tmp_path):
    """Not a download's memory, what macOS leaves beside a file, a folder, the list of a split."""
    source = tmp_path / "in"
    put(source, "all/a.jpg")
    write_labels(source / "one.json", [("a", 38, 0)])
    for name, content in (
        ("._one.json", "\0\5\x16\7"), ("labels.tar.gz.part0.json", '{"address": "x"}'),
        ("list.json", "[1]"), ("a.json/readme.txt", "x"),
    ):  # fmt: skip
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    assert arranged(TERRA_INCOGNITA, source, tmp_path / "out") == {"location_38/cat/a.jpg"}


def test_ids_may_be_numbers_and_text(tmp_path):
    put(tmp_path / "in", "a.jpg", "7.jpg")
    write_labels(tmp_path / "in" / "one.json", [("a", 38, 0), (7, 38, 0)])  # pyright: ignore
    found = arranged(TERRA_INCOGNITA, tmp_path / "in", tmp_path / "out")
    assert found == {"location_38/cat/a.jpg", "location_38/cat/7.jpg"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"categories": [], "annotations": [], "images": [{"id": 1, "location": 38, "file_name": '
        "null}]}",
        '{"categories": 1, "annotations": [], "images": []}',
        '{"categories": [], "annotations": [{"image_id": [], "category_id": 0}], "images": []}',
        "\0",
    ],
)
def test_damaged_labels(tmp_path, text):
    put(tmp_path / "in", "a.jpg")
    (tmp_path / "in" / "labels.json").write_text(text)
    with pytest.raises(SourceError, match=r"labels that cannot be read: labels\.json"):
        arranged(TERRA_INCOGNITA, tmp_path / "in", tmp_path / "out")


HEADING = ",patient,node,x_coord,y_coord,tumor,center\n"


@pytest.mark.parametrize("text", [f"0,{'1' * 200_000},1,1,1,1,1", "0,1,1,1,1,1,x", "0", "\xff"])
def test_damaged_metadata_of_camelyon(tmp_path, text):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "metadata.csv").write_text(HEADING + text, encoding="latin-1")
    with pytest.raises(SourceError, match=r"metadata\.csv that cannot be read"):
        arranged(CAMELYON17, tmp_path / "in", tmp_path / "out")


def test_a_folder_is_no_table(tmp_path):
    put(tmp_path / "in", "metadata.csv/x", "a.parquet/x", "._metadata.csv", "._a.parquet")
    with pytest.raises(SourceError, match=r"nor a metadata\.csv"):
        arranged(CAMELYON17, tmp_path / "in", tmp_path / "out")


# What people are told.


def test_the_damaged_archive_of_several_is_named(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    make_zip(given / "photo.zip", PHOTOS)
    damaged = make_zip(given / "sketch.zip", SKETCHES)
    content = bytearray(damaged.read_bytes())
    content[60] ^= 0xFF
    damaged.write_bytes(content)
    refused(given, r"given is no copy of Small: it has sketch\.zip, which is a damaged archive: ")
    refused(damaged, r"sketch\.zip is no copy of Small: it is a damaged archive: ")


def test_a_table_that_is_refused_is_the_users_own(tmp_path):
    write_table(tmp_path / "given" / "t.parquet", [(b"x", "a.jpg", "photo", 5)], ["cat"])
    refused(tmp_path / "given", r"given is no copy of Small: it has a table with .*t\.parquet")
    refused(tmp_path / "given" / "t.parquet", r"t\.parquet is no copy of Small: it is a table with")


def test_what_is_at_the_top_is_the_users_own(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    wrong = make_zip(given / "x.zip", {"foo/bar/1.png": b"x"})
    refused(wrong, r"\(at its top: foo\)")
    make_zip(given / "y.zip", {"readme": b"x"})
    put(given, "notes/a.txt")
    refused(given, r"\(at its top: foo, notes, readme, x\.zip, y\.zip\)")


def test_a_full_disk_is_no_fault_of_the_copy(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("scmd.data.benchmarks.arrange._put", full)
    with pytest.raises(ScmdError, match=r"the disk is full\. Make room, or choose an"):
        bring_in(write(tmp_path / "given"), tmp_path / "out")


def test_out_may_be_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bring_in(write(tmp_path / "given"), Path("."))
    monkeypatch.chdir(tmp_path)
    assert files(tmp_path / "here") == set(IMAGES)
    assert left_over(tmp_path / "here") == []
