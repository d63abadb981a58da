from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from scmd.data import check, contents
from scmd.data.check import CheckReport, check_images, print_report
from scmd.data.folder import ClassPolicy, load_domains


@pytest.fixture
def root(image_folder) -> Path:
    return image_folder(size=32)


def report_of(root: Path, classes: ClassPolicy = "strict") -> CheckReport:
    return check_images(load_domains(root, classes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def printed(report: CheckReport, width: int = 100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    print_report(report, console, **options)
    return console.export_text()


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_sound_data(root):
    report = report_of(root)
    assert report.findings == report.errors == report.warnings == ()
    assert (report.decoded, report.cached) == (12, 0)
    assert report.bad_rows.dtype == np.int64
    assert report.bad_rows.shape == (0,)


def test_undecodable_files_each_in_their_own_words(root):
    (root / "photo/cat/001.png").write_bytes(b"")
    cut(root / "photo/dog/002.png")
    (root / "sketch/cat/000.png").write_text("<html>404</html>")
    report = report_of(root)
    assert [f.kind for f in report.errors] == ["zero-byte", "truncated", "unreadable"]
    empty, truncated, unreadable = (f.message for f in report.errors)
    assert empty == "photo/cat/001.png is empty (0 bytes)"
    assert truncated.startswith("photo/dog/002.png is cut off")
    assert unreadable == "sketch/cat/000.png cannot be decoded: not an image that Pillow knows"
    assert [report.data.paths[row] for row in report.bad_rows] == [
        "photo/cat/001.png",
        "photo/dog/002.png",
        "sketch/cat/000.png",
    ]
    assert report.warnings == ()


def test_file_that_vanishes_or_is_closed_is_a_finding(root, monkeypatch):
    data = load_domains(root)
    (root / "photo/cat/001.png").unlink()
    read_image = check.read_image

    def refuse(path):
        if path == root / "photo/cat/002.png":
            error = PermissionError(13, "Permission denied")
            raise check.BadImageError(f"{path} cannot be decoded: Permission denied") from error
        return read_image(path)

    monkeypatch.setattr(check, "read_image", refuse)
    report = check_images(data)
    assert [f.message for f in report.errors] == [
        "photo/cat/001.png cannot be read: No such file or directory",
        "photo/cat/002.png cannot be decoded: Permission denied",
    ]
    assert report.bad_rows.tolist() == [1, 2]


def test_duplicate_across_domains_is_an_error(root):
    shutil.copy(root / "photo/cat/001.png", root / "sketch/cat/copy.png")
    finding = only(report_of(root).errors)
    assert finding.kind == "duplicate across domains"
    assert "photo/cat/001.png, sketch/cat/copy.png" in finding.message
    assert "in photo, sketch" in finding.message
    assert "labelled" not in finding.message


def test_duplicate_across_domains_tells_of_different_classes(root):
    shutil.copy(root / "photo/cat/001.png", root / "sketch/dog/copy.png")
    assert only(report_of(root).errors).message.endswith("labelled cat, dog")


def test_duplicates_within_a_domain_are_warnings(root):
    shutil.copy(root / "photo/cat/001.png", root / "photo/cat/copy.png")
    shutil.copy(root / "sketch/cat/001.png", root / "sketch/dog/copy.png")
    report = report_of(root)
    assert report.errors == ()
    other_class, within = report.warnings
    assert other_class.kind == "duplicate across classes"
    assert other_class.message == "sketch/cat/001.png, sketch/dog/copy.png, labelled cat, dog"
    assert within.kind == "duplicate within a domain"
    assert within.message == "photo/cat/001.png, photo/cat/copy.png"


def test_duplicates_are_told_by_pixels_not_bytes(root):
    with Image.open(root / "photo/cat/001.png") as image:
        image.save(root / "sketch/cat/other.bmp")
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        image.rotate(180).save(root / "sketch/cat/turned.tif", exif=exif)
    finding = only(report_of(root).errors)
    assert [load_domains(root).paths[row] for row in finding.rows] == [
        "photo/cat/001.png",
        "sketch/cat/other.bmp",
        "sketch/cat/turned.tif",
    ]


def test_same_bytes_in_another_shape_are_no_duplicate(root):
    Image.new("RGB", (4, 9), "red").save(root / "photo/cat/tall.png")
    Image.new("RGB", (9, 4), "red").save(root / "sketch/cat/wide.png")
    assert report_of(root).findings == ()


def test_wrong_extension_is_a_warning_and_decodes(root):
    (root / "photo/cat/001.png").rename(root / "photo/cat/001.jpg")
    report = report_of(root)
    finding = only(report.findings)
    assert finding == only(report.warnings)
    assert finding.kind == "wrong extension"
    assert finding.message == "photo/cat/001.jpg is a PNG file"
    assert report.bad_rows.size == 0


def test_right_extensions_pass(root):
    with Image.open(root / "photo/cat/001.png") as image:
        rotated = [image.rotate(90 * turn) for turn in range(4)]
    for name, picture in zip(("a.JPEG", "b.jpg", "c.tiff", "d.GIF"), rotated, strict=True):
        picture.save(root / "photo/cat" / name)
    # Two pictures in one JPEG file, as phones write it.
    rotated[1].save(root / "photo/dog/e.jpg", "MPO", save_all=True, append_images=[rotated[2]])
    assert [f for f in report_of(root).findings if f.kind == "wrong extension"] == []


def test_ignored_files_are_counted_and_named(root):
    for index in range(7):
        (root / "photo/cat" / f"{index}.heic").touch()
    (root / "sketch/new").mkdir()
    (root / "sketch/new/x.txt").touch()
    for name in ("readme.md", "photo/notes.txt", "photo/cat/.DS_Store", ".git"):
        (root / name).touch()
    shutil.move(root / "photo/dog/001.png", root / "photo/lost.png")
    foreign, outside = report_of(root).warnings
    assert foreign.kind == outside.kind == "ignored"
    assert foreign.message == (
        "8 files without an image's extension: photo/cat/0.heic, photo/cat/1.heic, "
        "photo/cat/2.heic, photo/cat/3.heic, photo/cat/4.heic and 3 more"
    )
    assert outside.message == "1 image outside every class folder: photo/lost.png"


def test_files_of_other_classes_are_not_ignored_files(image_folder):
    root = image_folder(classes=("cat", "dog"), count={("sketch", "dog"): 0})
    assert report_of(root, "intersection").findings == ()


def test_manifest_names_all_it_wants(root):
    manifest = root / "some.csv"
    lines = [f"{d}/cat/000.png,{d},cat" for d in ("photo", "sketch")]
    manifest.write_text("\n".join(["path,domain,class", *lines]))
    report = report_of(manifest)
    assert report.findings == ()
    assert report.decoded == 2


def test_progress_counts_to_all(root):
    calls = []
    check_images(load_domains(root), lambda done, of: calls.append((done, of)))
    assert calls == [(done, 12) for done in range(1, 13)]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The files that were decoded, so far."""
    names: list[str] = []
    read_image = check.read_image

    def read(path: Path):
        names.append("/".join(path.parts[-3:]))
        return read_image(path)

    monkeypatch.setattr(check, "read_image", read)
    return names


def test_unchanged_images_are_not_decoded_again(root, decoded):
    shutil.copy(root / "photo/cat/001.png", root / "sketch/cat/copy.png")
    (root / "photo/cat/002.png").rename(root / "photo/cat/002.jpg")
    first = report_of(root)
    assert len(decoded) == 13
    decoded.clear()
    second = report_of(root)
    assert decoded == []
    assert (second.decoded, second.cached) == (0, 13)
    assert second.findings == first.findings
    assert {f.kind for f in second.findings} == {"duplicate across domains", "wrong extension"}


def test_changed_image_is_checked_anew(root, decoded):
    report_of(root)
    decoded.clear()
    path = root / "photo/cat/001.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    cut(root / "photo/dog/000.png")
    report = report_of(root)
    assert sorted(decoded) == ["photo/cat/001.png", "photo/dog/000.png"]
    assert only(report.errors).kind == "truncated"


def test_failure_is_not_remembered(root, decoded):
    cut(root / "photo/dog/000.png")
    report_of(root)
    decoded.clear()
    assert only(report_of(root).errors).kind == "truncated"
    assert decoded == ["photo/dog/000.png"]


def test_interrupted_check_goes_on_where_it_was(root, decoded):
    def interrupt(done, of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_images(load_domains(root), interrupt)
    assert report_of(root).cached == 5


def test_check_of_a_part_forgets_nothing_of_the_whole(image_folder, decoded):
    root = image_folder(count={("sketch", "dog"): 0})
    report_of(root, "union")
    (root / "photo/cat/000.png").touch()
    report_of(root, "intersection")
    decoded.clear()
    report_of(root, "union")
    assert decoded == []


def test_cache_is_one_file_for_each_data_set(root, image_folder):
    other = image_folder(("a", "b"), name="other")
    for folder in (root, other, root / ".." / root.name):
        report_of(folder)
    cache = Path(os.environ["SCMD_CACHE"])
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize(
    "damage", ["text", "empty", "cut", "flipped", "folder", "foreign", "version"]
)
def test_damaged_cache_is_made_anew(root, damage, monkeypatch):
    report_of(root)
    file = only(list(Path(os.environ["SCMD_CACHE"]).rglob("*.parquet")))
    content = file.read_bytes()
    (digest, _), *_ = contents.read_contents(root).values()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "version":
        monkeypatch.setattr(contents, "_SCHEMA", contents._SCHEMA.with_metadata({"scmd": "next"}))
    elif damage == "foreign":
        contents.pq.write_table(contents.pa.table({"path": ["photo/cat/000.png"]}), file)
    else:
        assert digest in content
        flipped = bytes([digest[0] ^ 1]) + digest[1:]
        file.write_bytes(
            {
                "text": b"not a parquet file",
                "empty": b"",
                "cut": content[:-20],
                "flipped": content.replace(digest, flipped),
            }[damage]
        )
    assert report_of(root).cached == 0
    if damage != "folder":
        assert report_of(root).cached == 12


def test_cache_that_cannot_be_written_is_no_error(root, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        report = report_of(root)
        assert report.findings == ()
        assert report.cached == 0


def test_the_cache_may_lie_below_the_home(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCMD_CACHE", "~/kept")
    monkeypatch.chdir(tmp_path)
    assert report_of(root).cached == 0
    assert report_of(root).cached == 12
    assert len(list((tmp_path / "home" / "kept" / "check").iterdir())) == 1
    assert not (tmp_path / "~").exists()


def test_printed_table_has_totals(image_folder):
    root = image_folder(("art", "photo"), ("cat", "dog"), {("art", "dog"): 1, ("photo", "dog"): 5})
    text = printed(report_of(root))
    cells = [line.replace("│", " ").replace("┃", " ").split() for line in text.splitlines()]
    assert ["domain", "cat", "dog", "total"] in cells
    assert ["art", "3", "1", "4"] in cells
    assert ["photo", "3", "5", "8"] in cells
    assert ["total", "6", "6", "12"] in cells
    assert text.splitlines()[-1].startswith("12 images, 2 domains, 2 classes: nothing wrong")


@pytest.mark.parametrize(("classes", "width"), [(13, 200), (8, 40)])
def test_many_classes_go_down(image_folder, classes, width):
    names = [f"class{index:02}" for index in range(classes)]
    text = printed(report_of(image_folder(classes=names, count=1)), width)
    cells = [line.replace("│", " ").replace("┃", " ").split() for line in text.splitlines()]
    assert ["class", "photo", "sketch", "total"] in cells
    assert all([name, "1", "1", "2"] in cells for name in names)
    assert ["total", str(classes), str(classes), str(2 * classes)] in cells


def test_printed_findings_are_capped(image_folder):
    root = image_folder(count=9)
    for path in (root / "photo/cat").iterdir():
        path.write_bytes(b"")
    shutil.copy(root / "photo/dog/001.png", root / "photo/dog/copy.png")
    text = printed(report_of(root), most=4)
    assert "9 empty files" in text
    assert text.count("is empty (0 bytes)") == 4
    assert "and 5 more" in text
    assert "photo/dog/001.png, photo/dog/copy.png" in text
    assert "37 images, 2 domains, 2 classes: 9 errors, 1 warning (" in text


def test_printing_neither_wraps_nor_reads_names_as_markup(image_folder):
    long = "x" * 150
    root = image_folder(classes=("[red]", "[/b]", "a"), count=1)
    folder = "[red]"
    (root / "photo" / folder / f"{long}.png").touch()
    text = printed(report_of(root), width=60)
    assert f"photo/[red]/{long}.png is empty" in text
