"""``scmd data get`` and ``scmd data import``, from a server's archives to a checked folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from loopback import serving
from PIL import Image

from scmd.cli import main
from scmd.data.benchmarks import arrange as arranging
from scmd.data.benchmarks import catalogue
from scmd.data.benchmarks.build import Reporting
from scmd.data.benchmarks.entries import Benchmark, Counts, RemoteFile, Source, Way
from scmd.data.benchmarks.get import get
from scmd.data.benchmarks.importing import import_copy
from scmd.data.benchmarks.sets_mnist import ROTATED_MNIST
from scmd.data.benchmarks.transfer import Patience
from scmd.errors import ScmdError

from test_data_get_arrange import files, write_mnist, write_table  # isort: skip
from test_data_get_unpack import make_tar, make_zip  # isort: skip

QUICK = Patience(tries=2, unreachable=1, pause=0, timeout=1)
DOMAINS, CLASSES = ("photo", "sketch"), ("cat", "dog")


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((24, 24), seed + 1).save(file, "PNG")
    return file.getvalue()


IMAGES = {f"{d}/{c}/{n}.png": picture(n) for d in DOMAINS for c in CLASSES for n in range(3)}


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def archive(tmp_path) -> bytes:
    folder = tmp_path / "made"
    folder.mkdir()
    return make_zip(folder / "set.zip", {f"kfold/{n}": c for n, c in IMAGES.items()}).read_bytes()


def benchmark(*ways: Way, per_class: int = 3) -> Benchmark:
    counts = Counts("small", dict.fromkeys(DOMAINS, 2 * per_class), "this test")
    return Benchmark(
        name="small", title="Small", domains=DOMAINS, classes=CLASSES, counts=(counts,),
        ways=ways, by_hand="https://example.org", paper="none", licence="none",
    )  # fmt: skip


def zipped(*sources: Source, name: str = "set.zip") -> Way:
    return Way((RemoteFile(name, sources, "zip", 100, 10**7),))


def run(small: Benchmark, out: Path, said: list[str] | None = None, **options):
    reporting = Reporting((lambda line: None) if said is None else said.append)
    return get(small, out, reporting, patience=QUICK, **options)


def left_over(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name.startswith("."))


def test_from_an_archive_to_a_folder(server, archive, tmp_path):
    out = tmp_path / "data" / "Small"
    said: list[str] = []
    found = run(benchmark(zipped(Source(server.put("a", archive)))), out, said)
    assert (found.differences, len(found.data)) == ((), 12)
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    digest = hashlib.sha256(archive).hexdigest()
    assert f"set.zip: SHA-256 {digest} (none is published; keep this one)" in said
    assert left_over(out) == []


def test_what_is_there_is_not_fetched_again(server, archive, tmp_path):
    out = tmp_path / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))))
    run(small, out)
    assert run(small, out).differences == ()
    assert len(server.requests) == 1
    (tmp_path / ".Small.getting-small" / "1" / "unpacked").mkdir(parents=True)  # killed in the end
    run(small, out)
    assert left_over(out) == []
    next(out.rglob("*.png")).unlink()
    with pytest.raises(ScmdError, match=r"is there already, and is not Small as published"):
        run(small, out)


def test_a_hostile_or_damaged_archive_is_followed_by_the_next_source(server, archive, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    evil = make_zip(folder / "e.zip", {"../../evil.png": b"x"}).read_bytes()
    bomb = make_zip(folder / "b.zip", {"a.png": bytes(2 * 10**7)}).read_bytes()
    empty = make_zip(folder / "n.zip", {"readme.txt": b"nothing"}).read_bytes()
    cut = archive[: len(archive) // 2]
    sources = [Source(server.put(str(n), c)) for n, c in enumerate((evil, bomb, cut))]
    out = tmp_path / "data" / "Small"
    said: list[str] = []
    good = Source(server.put("good", archive))
    run(benchmark(zipped(*sources, good)), out, said)
    assert files(out) == set(IMAGES)
    text = "\n".join(said)
    assert "leads out of it" in text
    assert "unpacks to more than" in text
    assert "no zip file" in text or "damaged" in text
    assert not list(tmp_path.rglob("evil.png"))

    # One that unpacks and is something else: the next way.
    other = tmp_path / "other" / "Small"
    run(benchmark(zipped(Source(server.put("empty", empty))), zipped(good)), other)
    assert files(other) == set(IMAGES)


def test_where_no_source_works_each_is_told_with_the_way_by_hand(server, tmp_path):
    out = tmp_path / "data" / "Small"
    sources = Source(f"{server.address}/gone"), Source(server.put("p", faults=["page"]))
    with pytest.raises(ScmdError) as told:
        run(benchmark(zipped(*sources)), out)
    host = server.address.removeprefix("http://")
    assert str(told.value) == (
        f"Small cannot be had, no source works ({host}: answers 404 Not Found; {host}: answers "
        "with a web page (Sorry), not the file). Get it by hand: https://example.org, then run: "
        "scmd data import small PATH"
    )
    assert not out.parent.exists()


def test_other_counts_than_published_are_refused_until_allowed(server, archive, tmp_path):
    out = tmp_path / "data" / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))), per_class=4)
    with pytest.raises(ScmdError, match=r"photo has 6 images instead of 8.*--allow-differences"):
        run(small, out)
    assert not out.exists()
    found = run(small, out, allow_differences=True)
    assert len(found.differences) == 2
    assert files(out) == set(IMAGES)
    assert len(server.requests) == 1  # nothing was fetched again
    assert left_over(out) == []


def test_archives_are_kept_on_request(server, archive, tmp_path):
    out = tmp_path / "Small"
    run(benchmark(zipped(Source(server.put("a", archive)))), out, keep_archives=True)
    assert (tmp_path / ".Small.getting-small" / "1" / "set.zip").read_bytes() == archive
    assert files(tmp_path / ".Small.getting-small") == {"1/set.zip"}


def test_several_files_of_several_forms(server, tmp_path):
    """A tar for a domain, a table for none: all files of a way make up the set."""
    folder = tmp_path / "made"
    folder.mkdir()
    parts = []
    for domain in DOMAINS:
        own = {name: content for name, content in IMAGES.items() if name.startswith(domain)}
        content = make_tar(folder / f"{domain}.tar.gz", own).read_bytes()
        source = Source(server.put(domain, content))
        parts.append(RemoteFile(f"{domain}.tar.gz", (source,), "tar", 100, 10**7))
    out = tmp_path / "data" / "Small"
    assert run(benchmark(Way(tuple(parts))), out).differences == ()
    rows = [(c, Path(n).name, n.split("/")[0], CLASSES.index(n.split("/")[1])) for n, c in
            IMAGES.items()]  # fmt: skip
    write_table(folder / "t.parquet", rows, list(CLASSES))
    table = Source(server.put("t", (folder / "t.parquet").read_bytes()))
    out = tmp_path / "table" / "Small"
    run(benchmark(Way((RemoteFile("t.parquet", (table,), "parquet"),))), out)
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES


def one_domain(folder: Path, domain: str) -> bytes:
    own = {name: content for name, content in IMAGES.items() if name.startswith(domain)}
    return make_zip(folder / f"{domain}.zip", own).read_bytes()


def archive_at(url: str, name: str, digest: str | None = None) -> RemoteFile:
    return RemoteFile(name, (Source(url, digest=digest),), "zip", 100, 10**7)


@pytest.mark.parametrize("rests", [[], ["bytes=100-", "bytes=200-"]])
def test_what_two_ways_have_in_common_is_fetched_once(server, tmp_path, rests):
    url = server.put("photo", one_domain(tmp_path, "photo"), faults=[100] * len(rests))
    common = archive_at(url, "p.zip")
    gone = archive_at(f"{server.address}/gone", "old.zip")
    late = archive_at(f"{server.address}/sketch", "new.zip")
    small, out = benchmark(Way((common, gone)), Way((late, common))), tmp_path / "data" / "Small"
    with pytest.raises(ScmdError, match="no source works"):
        run(small, out)
    server.put("sketch", one_domain(tmp_path, "sketch"))
    assert run(small, out).differences == ()
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    assert server.ranges("photo") == ["", *rests]
    assert left_over(out) == []


@pytest.mark.parametrize("published", [True, False])
def test_only_a_file_of_a_published_digest_outlives_another_files_fault(
    server, tmp_path, published
):
    photo = one_domain(tmp_path, "photo")
    digest = f"sha256:{hashlib.sha256(photo).hexdigest()}" if published else None
    common = archive_at(server.put("photo", photo), "p.zip", digest)
    wrong = server.put("wrong", make_zip(tmp_path / "w.zip", {"a/b/1.png": b"x"}).read_bytes())
    late = archive_at(f"{server.address}/sketch", "new.zip")
    ways = Way((common, archive_at(wrong, "old.zip"))), Way((common, late))
    out = tmp_path / "data" / "Small"
    with pytest.raises(ScmdError, match=r"\(p\.zip, old\.zip: has no folder with the domains"):
        run(benchmark(*ways), out)
    assert len(server.ranges("photo")) == (1 if published else 2)
    server.put("sketch", one_domain(tmp_path, "sketch"))
    run(benchmark(*ways), out)
    assert files(out) == set(IMAGES)
    assert len(server.ranges("wrong")) == 2  # not kept


def test_a_way_that_makes_no_data_set_is_followed_by_the_next(server, archive, tmp_path):
    rows = [(c, Path(n).stem, n.split("/")[0], CLASSES.index(n.split("/")[1])) for n, c in
            IMAGES.items()]  # fmt: skip
    write_table(tmp_path / "t.parquet", rows, list(CLASSES))  # names without .png
    url = server.put("t", (tmp_path / "t.parquet").read_bytes())
    table = Way((RemoteFile("t.parquet", (Source(url),), "parquet"),))
    out = tmp_path / "data" / "Small"
    run(benchmark(table, zipped(Source(server.put("a", archive)))), out)
    assert files(out) == set(IMAGES)
    assert left_over(out) == []


def test_two_sets_of_one_place_neither_mix_nor_lose_anything(server, archive, tmp_path):
    out = tmp_path / "data" / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))), per_class=4)
    with pytest.raises(ScmdError, match="instead of 8"):
        run(small, out)
    images = {f"{d}/{c}/1.png": picture() for d in ("x", "y") for c in CLASSES}
    url = server.put("b", make_zip(tmp_path / "b.zip", images).read_bytes())
    other = dataclasses.replace(
        small, name="other", domains=("x", "y"), ways=(zipped(Source(url)),), counts=()
    )
    run(other, out, allow_differences=True)
    assert files(out) == set(images)
    shutil.rmtree(out)
    run(small, out, allow_differences=True)
    assert files(out) == set(IMAGES)
    assert [path for _, path, _ in server.requests] == ["a", "b"]
    assert left_over(out) == []


@pytest.mark.parametrize("imported", [False, True])
def test_an_empty_folder_that_one_is_in_is_filled(server, archive, tmp_path, monkeypatch, imported):
    here = tmp_path / "data" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    if imported:
        bring_in(write(tmp_path / "given"), Path())
    else:
        run(benchmark(zipped(Source(server.put("a", archive)))), Path())
    assert files(here) == set(IMAGES)
    assert left_over(here) == []


def test_digits_from_mnists_files(server, tmp_path):
    write_mnist(tmp_path / "made")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    way = Way(tuple(
        RemoteFile(n, (Source(server.put(n, (tmp_path / "made" / n).read_bytes())),), "gzip")
        for n in names
    ))  # fmt: skip
    rotated = dataclasses.replace(
        ROTATED_MNIST,
        ways=(way,),
        counts=(Counts("small", dict.fromkeys(ROTATED_MNIST.domains, 10), "here"),),
    )
    with pytest.raises(ScmdError, match="has no"):  # sixty digits do not fill sixty cells
        run(rotated, tmp_path / "data" / "RotatedMNIST")
    found = run(rotated, tmp_path / "data" / "RotatedMNIST", allow_differences=True)
    assert len(found.data) == 60


# What is killed.

CHILD = """
import sys
from pathlib import Path
from scmd.data.benchmarks.build import Reporting
from scmd.data.benchmarks.entries import Benchmark, Counts, RemoteFile, Source, Way
from scmd.data.benchmarks.get import get
url, out, images = sys.argv[1:]
way = Way((RemoteFile("set.zip", (Source(url),), "zip", 5000, 10**8),))
counts = Counts("small", {"photo": int(images), "sketch": int(images)}, "here")
small = Benchmark("small", "Small", ("photo", "sketch"), (way,), "x", "x", "x", ("cat", "dog"),
                  counts=(counts,))
get(small, Path(out), Reporting(print))
"""


def test_killed_in_the_middle_of_a_download_it_goes_on_from_there(server, archive, tmp_path):
    url = server.put("a", archive, faults=["stall"])
    out = tmp_path / "data" / "Small"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(out), "6"], stdout=-1, stderr=-1
    )
    part = tmp_path / "data" / ".Small.getting-small" / "1" / "set.zip.part0"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    server.go_on.set()
    before = part.stat().st_size
    assert run(benchmark(zipped(Source(url))), out).differences == ()
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    assert before == len(archive) // 2
    assert server.ranges("a")[-1] == f"bytes={before}-"
    assert left_over(out) == []


@pytest.mark.parametrize("after", [1, 7])
def test_stopped_in_the_middle_of_arranging_it_goes_on(
    server, archive, tmp_path, monkeypatch, after
):
    out = tmp_path / "data" / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))))
    put, done = arranging._put, []

    def stops(*arguments) -> None:
        done.append(1)
        if len(done) == after:
            raise KeyboardInterrupt
        put(*arguments)

    monkeypatch.setattr(arranging, "_put", stops)
    with pytest.raises(KeyboardInterrupt):
        run(small, out)
    monkeypatch.undo()
    assert not out.exists()
    way = tmp_path / "data" / ".Small.getting-small" / "1"
    for stale in ("arranged.aside", "unpacked/set.zip.aside"):  # what a kill would leave
        (way / stale / "photo").mkdir(parents=True)
        (way / stale / "photo" / "junk.png").write_bytes(b"junk")
    assert run(small, out).differences == ()
    assert files(out) == set(IMAGES)
    assert len(server.requests) == 1


def test_stopped_before_an_unpacked_archive_has_its_name_it_goes_on(
    server, archive, tmp_path, monkeypatch
):
    out = tmp_path / "data" / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))))
    rename = Path.replace

    def stops(path: Path, target: Path) -> Path:
        if path.name == "set.zip.part0":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        run(small, out)
    monkeypatch.undo()
    run(small, out, keep_archives=True)
    assert files(out) == set(IMAGES)
    assert files(tmp_path / "data" / ".Small.getting-small") == {"1/set.zip"}
    assert len(server.requests) == 1


def test_two_at_once_fetch_once(server, archive, tmp_path):
    out = tmp_path / "data" / "Small"
    small = benchmark(zipped(Source(server.put("a", archive))))
    results = []
    threads = [threading.Thread(target=lambda: results.append(run(small, out))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [found.differences for found in results] == [(), (), ()]
    assert len(server.requests) == 1
    assert left_over(out) == []


@pytest.mark.soak
def test_killed_again_and_again_it_arrives_in_the_end(server, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    many = {
        f"{d}/{c}/{n}.png": os.urandom(20_000) for d in DOMAINS for c in CLASSES for n in range(250)
    }
    content = make_zip(folder / "set.zip", many).read_bytes()
    url, out = server.put("a", content), tmp_path / "data" / "Small"
    command = [sys.executable, "-c", CHILD, url, str(out), "500"]
    draw = random.Random(0)
    killed = 0
    for _ in range(25):
        server.files["a"].faults = [draw.randrange(10**6)] * 2
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 4))
        child.kill()
        killed += child.wait() == -signal.SIGKILL
        assert not out.exists() or len(files(out)) == 1000
    server.files["a"].faults = []
    subprocess.run(command, capture_output=True, check=True)
    assert killed > 5
    assert {name: (out / name).read_bytes() for name in files(out)} == many
    assert server.sent < 2 * len(content)  # it went on, and did not begin anew each time
    subprocess.run(command, capture_output=True, check=True)
    assert left_over(out) == []


# Importing.


def write(folder: Path, prefix: str = "") -> Path:
    for name, content in IMAGES.items():
        path = folder / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def bring_in(path: Path, out: Path, **options):
    return import_copy(benchmark(), path, out, Reporting(lambda line: None), **options)


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_is_imported_and_not_altered(tmp_path, link):
    given = write(tmp_path / "given", "kfold")
    for path in given.rglob("*.png"):
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in given.rglob("*")}
    out = tmp_path / "data" / "Small"
    assert bring_in(given, out, link=link).differences == ()
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    assert {path: path.stat().st_mtime_ns for path in given.rglob("*")} == before
    one = next(iter(IMAGES))
    assert (out / one).samefile(given / "kfold" / one) == link
    assert left_over(out) == []


@pytest.mark.parametrize("form", ["zip", "tar", "folder of archives"])
def test_archives_are_imported(tmp_path, form):
    given = tmp_path / "given"
    given.mkdir()
    if form == "folder of archives":
        for domain in DOMAINS:
            own = {n: c for n, c in IMAGES.items() if n.startswith(domain)}
            make_zip(given / f"{domain}.zip", own)
        path = given
    else:
        path = (make_zip if form == "zip" else make_tar)(given / f"my.{form}", IMAGES)
    out = tmp_path / "data" / "Small"
    bring_in(path, out, link=True)
    assert {name: (out / name).read_bytes() for name in files(out)} == IMAGES
    assert left_over(out) == []


def test_a_hostile_archive_is_not_imported(tmp_path):
    path = make_zip(tmp_path / "my.zip", {"../evil.png": b"x"})
    with pytest.raises(ScmdError, match=r"it is an archive with a path that leads out of it"):
        bring_in(path, tmp_path / "data" / "Small")
    assert list(tmp_path.iterdir()) == [path]


def test_an_import_that_was_killed_does_not_mix_with_the_next(tmp_path):
    stale = tmp_path / "data" / ".Small.importing" / "arranged" / "photo" / "cat"
    stale.mkdir(parents=True)
    (stale / "old.png").write_bytes(b"of another copy")
    bring_in(write(tmp_path / "given"), tmp_path / "data" / "Small")
    assert files(tmp_path / "data" / "Small") == set(IMAGES)


def test_an_import_does_not_touch_what_a_download_has(server, archive, tmp_path):
    out = tmp_path / "data" / "Small"
    half = Source(server.put("a", archive, faults=[100] * 9))
    with pytest.raises(ScmdError):
        run(benchmark(zipped(half)), out)
    bring_in(write(tmp_path / "given"), out)
    assert (tmp_path / "data" / ".Small.getting-small" / "1" / "set.zip.part0").stat().st_size > 0


def test_the_given_copy_of_pacs(test_data, tmp_path, capsys):
    given = test_data / "data" / "PACS"
    out = tmp_path / "PACS"
    assert main(["data", "import", "pacs", str(given), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "9,991 images, 4 domains, 7 classes" in text
    assert "As published" in text
    assert files(out) == files(given)


# As a user types it.


@pytest.fixture
def known(server, archive, monkeypatch) -> Benchmark:
    """The set of these tests, in the catalogue."""
    small = benchmark(zipped(Source(server.put("a", archive))))
    monkeypatch.setitem(catalogue.CATALOGUE, "small", small)
    return small


def test_commands(known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "get"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in catalogue.CATALOGUE)
    assert main(["data", "get", "small"]) == 0
    shown = capsys.readouterr()
    assert "data/Small: 12 images, 2 domains, 2 classes" in shown.out
    assert "SHA-256" in shown.err
    assert main(["data", "import", "SMALL", "data/Small", "--out", "again"]) == 0
    assert files(tmp_path / "again") == set(IMAGES)
    next((tmp_path / "again").rglob("*.png")).unlink()
    assert main(["data", "import", "small", "again", "--check-only"]) == 1
    assert "Not as published" in capsys.readouterr().out


def test_the_help_names_every_set(capsys):
    with pytest.raises(SystemExit):
        main(["data", "get", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(name in words for name in catalogue.CATALOGUE)


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["get", "pax"], "there is no benchmark set 'pax'"),
        (["get", "smal"], "Did you mean 'small'?"),
        (["get", "small", "--out", "taken"], "taken is there already"),
        (["get", "small", "--out", "file"], "file is there already"),
        (["get", "small", "--out", "file/below"], "Choose another --out"),
        (["get", "small", "--out", "a\0b"], "is no name of a folder"),
        (["import", "small", "copy", "--out", "a\0b"], "is no name of a folder"),
        (["import", "small", "pipe"], "pipe is neither a file nor a folder"),
        (["import", "pax", "taken"], "there is no benchmark set 'pax'"),
        (["import", "small", "gone"], "no such file or folder: gone"),
        (["import", "small", "gone", "--check-only"], "no such file or folder: gone"),
        (["import", "small", "taken"], "no folder with the domains photo, sketch"),
        (["import", "small", "file"], "no archive of images: file"),
        (["import", "small", "file", "--check-only"], "file is no folder"),
        (["import", "small", "empty"], "at its top: nothing"),
        (["import", "small", "copy", "--out", "taken"], "taken is there already"),
        (["import", "small", "copy", "--out", "copy/in"], "which is not to be changed"),
        (["import", "small", "less"], "Pass --allow-differences"),
        (["import", "rotated-mnist", "empty"], "lacks a file of MNIST"),
        (["import", "terra-incognita", "empty"], "nor labels (*.json)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(known, tmp_path, monkeypatch, capsys, arguments, way_out):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "copy")
    write(tmp_path / "less")
    (tmp_path / "less" / "photo" / "cat" / "0.png").unlink()
    (tmp_path / "taken" / "things").mkdir(parents=True)
    (tmp_path / "taken" / "things" / "x").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    before = {p: p.read_bytes() if p.is_file() else b"" for p in tmp_path.rglob("*")}
    assert main(["data", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert way_out in line
    after = {p: p.read_bytes() if p.is_file() else b"" for p in tmp_path.rglob("*")}
    assert after == before


def test_what_a_server_sends_to_the_terminal_is_no_markup(known, server, tmp_path, capsys):
    server.files["a"].faults = ["page"] * 9
    server.files["a"].page = b"<html><title>[bold]\x1b[2J\n[/]</title></html>"
    assert main(["data", "get", "small", "--out", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert "[bold]" in err
    assert "\x1b" not in err
