"""Archives of strangers: what is unpacked, and what is refused as a whole."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from scmd.data.benchmarks import unpack as unpacking
from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Form, RemoteFile
from scmd.data.benchmarks.unpack import ArchiveError, check_form, form_of, unpack
from scmd.errors import ScmdError

EVIL_NAMES = [
    "/etc/evil", "../evil", "a/../../evil", "a/..", "C:/evil", "C:\\evil", "..\\evil", "a\nb",
    "a\x1b[2Jb", "a\x85b", "\udcff", "a" * 300, "a/" * 32 + "b",
]  # fmt: skip


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member)
    return path


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def run(archive: Path, most_files: int = 100, most_bytes: int = 10**6) -> Path:
    """Unpack into a folder ``out`` beside the archive."""
    form = "zip" if archive.suffix == ".zip" else "tar"
    file = RemoteFile(archive.name, (), form, most_files, most_bytes)
    out = archive.parent / "out"
    unpack(archive, file, out, lambda done, of: None)
    return out


def refused(archive: Path, match: str, **limits: int) -> None:
    """It is refused, and nothing is left of it, neither inside nor outside."""
    before = set(archive.parents[1].rglob("*"))
    with pytest.raises(ArchiveError, match=match):
        run(archive, **limits)
    assert set(archive.parents[1].rglob("*")) == before


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_files_and_folders_come_out_as_they_went_in(tmp_path, make):
    files = {"set/cat/ü 1.png": b"one", "./set/dog/(2).png": b"", "set/.DS_Store": b"x"}
    files |= {"a/" * 31 + "b": b"deep", "10.00\u202fAM\xa0.png": b"as macOS calls a screenshot"}
    suffix = "zip" if make is make_zip else "tar.gz"
    out = run(make(tmp_path / f"set.{suffix}", files))
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {name.removeprefix("./"): content for name, content in files.items()}


@pytest.mark.parametrize(
    ("make", "name"),
    [(make_tar, name) for name in EVIL_NAMES]
    # A zip archive with a name that is no text cannot be made.
    + [(make_zip, name) for name in EVIL_NAMES if name != "\udcff"],
)
def test_names_that_lead_elsewhere_or_are_no_text(tmp_path, make, name):
    folder = tmp_path / "here"
    folder.mkdir()
    suffix = "zip" if make is make_zip else "tar.gz"
    refused(make(folder / f"set.{suffix}", {"fine.png": b"x", name: b"evil"}), "sent an archive")


@pytest.mark.parametrize("name", [b"Q", b"QQ"])
def test_a_zip_with_no_name(tmp_path, name):
    folder = tmp_path / "here"
    folder.mkdir()
    path = make_zip(folder / "set.zip", {name.decode(): b"x"})
    path.write_bytes(path.read_bytes().replace(name, b"\0" * len(name)))  # read up to its NUL
    refused(path, "odd name")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_the_top_itself_may_be_a_member(tmp_path, make):
    path = tmp_path / f"set.{'zip' if make is make_zip else 'tar'}"
    if make is make_zip:
        make_zip(path, {"./": b"", "./a.png": b"x"})
    else:
        tar_of(path, member("./", tarfile.DIRTYPE), tarfile.TarInfo("./a.png"))
    assert [found.name for found in run(path).iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "fine.png"),
        (tarfile.LNKTYPE, "../outside"),
        (tarfile.LNKTYPE, "fine.png"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path, kind, target):
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "outside").write_text("mine")
    archive = tar_of(folder / "set.tar", tarfile.TarInfo("fine.png"), member("x", kind, target))
    refused(archive, "link or device")
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_written_through_a_link(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    archive = tar_of(
        folder / "set.tar", member("a", tarfile.SYMTYPE, str(tmp_path)), tarfile.TarInfo("a/evil")
    )
    refused(archive, "link or device")


def test_links_in_a_zip(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    info = zipfile.ZipInfo("x")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(folder / "set.zip", "link or device")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb(tmp_path, make):
    folder = tmp_path / "here"
    folder.mkdir()
    suffix = "zip" if make is make_zip else "tar.gz"
    bomb = make(folder / f"set.{suffix}", {f"{n}.png": bytes(10**6) for n in range(3)})
    assert bomb.stat().st_size < 20_000
    refused(bomb, "unpacks to more than", most_bytes=2 * 10**6)
    refused(bomb, "more than 2 files", most_files=2, most_bytes=10**9)


def test_a_sparse_file_counts_with_its_holes(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    with tarfile.open(folder / "set.tar", "w") as archive:
        huge = tarfile.TarInfo("huge.png")
        huge.size = 10**15
        archive.fileobj.write(huge.tobuf())  # pyright: ignore[reportOptionalMemberAccess]
    refused(folder / "set.tar", "unpacks to more than")


def test_more_bytes_than_a_zip_announces(tmp_path):
    """The directory says 10 bytes, and the stream goes on."""
    folder = tmp_path / "here"
    folder.mkdir()
    path = make_zip(folder / "set.zip", {"a.png": bytes(50_000)})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    refused(path, "damaged|larger")


def sparse(count: int) -> list[bytes]:
    """A file of GNU's sparse format 1.0, whose map has so many entries."""
    about = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    chart = f"{count}\n".encode() + b"0\n" * 2 * count
    made = tarfile.TarInfo("a.png")
    made.size, made.pax_headers = len(chart), about
    return [made.tobuf(tarfile.PAX_FORMAT), chart, bytes(-len(chart) % 512)]


def long_header(kind: bytes, size: int) -> list[bytes]:
    made = tarfile.TarInfo("x")
    made.type, made.size = kind, size
    return [made.tobuf(tarfile.GNU_FORMAT), bytes(size)]


@pytest.mark.parametrize(
    "blocks",
    [
        long_header(tarfile.XHDTYPE, 2**21),
        long_header(tarfile.XGLTYPE, 2**21),
        long_header(tarfile.SOLARIS_XHDTYPE, 2**21),
        long_header(tarfile.GNUTYPE_LONGNAME, 2**21),
        long_header(tarfile.GNUTYPE_LONGLINK, 2**21),
        long_header(tarfile.XHDTYPE, 0) * 3000,
        sparse(1000),
        long_header(tarfile.GNUTYPE_SPARSE, 0),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_bomb_in_a_header(tmp_path, blocks, first):
    """What a header says is read into memory, before any limit on files counts."""
    folder = tmp_path / "here"
    folder.mkdir()
    path = folder / "set.tar.gz"
    before = [] if first else [tarfile.TarInfo("fine.png").tobuf()]
    last = [tarfile.TarInfo("a.png").tobuf(), bytes(1024)]
    path.write_bytes(gzip.compress(b"".join([*before, *blocks, *last])))
    refused(path, r"header that is too long|sparse file|recursion")
    if first:
        assert form_of(path) == "gzip"
        with pytest.raises(ArchiveError, match="no tar archive"):
            check_form(path, "tar")


def test_headers_do_not_pile_up(tmp_path):
    path = tmp_path / "set.tar.gz"
    about = {"comment": "x" * 10**6}
    with tarfile.open(path, "w:gz") as archive:
        for number in range(20):
            made = member(f"{number}.png", tarfile.REGTYPE)
            made.pax_headers = about
            archive.addfile(made)
    tracemalloc.start()
    assert len(list(run(path).iterdir())) == 20
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_one_name_twice(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("a.png", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", b"two")
    refused(folder / "set.zip", "twice")
    refused(tar_of(folder / "set.tar", *[tarfile.TarInfo("a.png")] * 2), "twice")


def test_a_name_that_is_a_file_and_a_folder(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    refused(make_zip(folder / "set.zip", {"a": b"x", "a/b": b"y"}), "cannot be unpacked")


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_damage(tmp_path, make, harm):
    folder = tmp_path / "here"
    folder.mkdir()
    suffix = "zip" if make is make_zip else "tar.gz"
    path = make(folder / f"set.{suffix}", {"a.png": os.urandom(50_000)})
    content = bytearray(path.read_bytes())
    if harm == "cut":
        del content[30_000:]
    else:
        content[20_000] ^= 1
    path.write_bytes(content)
    refused(path, "damaged|cannot be")


def test_a_zip_that_wants_a_password(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    path = make_zip(folder / "set.zip", {"a.png": b"x"})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    refused(path, "password")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "set.zip", {"a.png": b"x"})

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unpacking, "_write", full)
    with pytest.raises(ScmdError, match=r"the disk of .* is full\. Make room") as told:
        run(path)
    assert not isinstance(told.value, SourceError)  # another source would not help
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_room_is_looked_for_first(tmp_path, make, monkeypatch):
    suffix = "zip" if make is make_zip else "tar"
    path = make(tmp_path / f"set.{suffix}", {"a.png": os.urandom(5000)})
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ScmdError, match="Make room, or choose another --out"):
        run(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_replaced(tmp_path):
    stale = tmp_path / "out.aside"
    (stale / "deep").mkdir(parents=True)
    (stale / "a.png").write_bytes(b"old")
    out = run(make_zip(tmp_path / "set.zip", {"a.png": b"new"}))
    assert [path.read_bytes() for path in out.iterdir()] == [b"new"]
    assert not stale.exists()


def test_forms_are_seen_by_the_content(tmp_path):
    (tmp_path / "list").write_text("a/b.png\n")
    (tmp_path / "one").write_bytes(gzip.compress(b"x"))
    (tmp_path / "table").write_bytes(b"PAR1" + bytes(20))
    archives: dict[Form, Path] = {
        "zip": make_zip(tmp_path / "z", {"a": b"x"}),
        "tar": make_tar(tmp_path / "t", {"a": b"x"}),
        "gzip": tmp_path / "one",
        "parquet": tmp_path / "table",
        "text": tmp_path / "list",
    }
    for form, path in archives.items():
        assert form_of(path) == (None if form == "text" else form)
        check_form(path, form)
        for other, another in archives.items():
            if other != form and (form, other) not in (("gzip", "tar"),):
                with pytest.raises(ArchiveError):
                    check_form(another, form)
        if form != "text":
            with pytest.raises(ArchiveError):
                check_form(tmp_path / "list", form)


@pytest.mark.parametrize("length", [10, 40])
def test_a_gzip_that_is_cut_off_is_no_tar(tmp_path, length):
    path = make_tar(tmp_path / "set.tar.gz", {"a.png": os.urandom(3000)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArchiveError, match="no tar archive"):
        check_form(path, "tar")
    assert form_of(path) == "gzip"


def test_a_changed_byte_in_an_xz(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    path = folder / "set.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 50_000
        archive.addfile(member, io.BytesIO(os.urandom(50_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "damaged")
