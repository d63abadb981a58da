from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from scmd.data.folder import load_domains, resolve_domain, sample_id
from scmd.errors import ScmdError, ScmdWarning


def manifest(folder: Path, *lines: str, header: str = "path,domain,class") -> Path:
    path = folder / "samples.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def assert_same(a, b):
    assert (a.domains, a.classes, a.paths) == (b.domains, b.classes, b.paths)
    for name in ("domain_index", "labels", "ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_folder_gives_domains_classes_and_samples(image_folder):
    root = image_folder(("photo", "art"), ("dog", "cat"), {("art", "dog"): 2})
    data = load_domains(root)
    assert data.domains == ("art", "photo")
    assert data.classes == ("cat", "dog")
    assert data.counts().tolist() == [[3, 2], [3, 3]]
    for row in range(len(data)):
        sample = data[row]
        assert sample.path.is_file()
        assert sample.path.relative_to(root).parts[:2] == (sample.domain, sample.class_name)


def test_manifest_in_any_order_equals_the_folder(image_folder):
    root = image_folder()
    expected = load_domains(root)
    lines = [
        f"{data.path.relative_to(root).as_posix()},{data.domain},{data.class_name}"
        for data in (expected[row] for row in np.random.default_rng(0).permutation(len(expected)))
    ]
    assert_same(load_domains(manifest(root, *lines)), expected)


def test_manifest_may_come_from_a_spreadsheet(image_folder):
    root = image_folder(count=1)
    path = root / "samples.csv"
    rows = [f'"{d}/{c}/000.png","{d}","{c}",7' for d in ("photo", "sketch") for c in ("cat", "dog")]
    text = "\r\n".join(["path,domain,class,age", *rows, ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(load_domains(path)) == 4


def test_ids_depend_on_the_path_alone(image_folder, write_image, tmp_path):
    root = image_folder()
    before = load_domains(root)
    write_image(root / "photo" / "cat" / "0000.png")
    write_image(root / "art" / "cat" / "000.png")
    write_image(root / "art" / "dog" / "000.png")
    moved = root.rename(tmp_path / "moved")
    after = load_domains(moved)
    ids = dict(zip(after.paths, after.ids.tolist(), strict=True))
    assert {ids[path] for path in before.paths} == set(before.ids.tolist())
    assert all(ids[path] == sample_id(path) >= 0 for path in after.paths)
    assert len(set(ids.values())) == len(after)


def test_what_is_no_image_is_left_out(image_folder):
    root = image_folder(count=1)
    for name in ("notes.txt", ".hidden.png", "._000.png", "model.h5"):
        (root / "photo" / "cat" / name).write_bytes(b"x")
    (root / "readme.md").write_text("x")
    (root / ".git" / "objects").mkdir(parents=True)
    assert load_domains(root).paths == (
        "photo/cat/000.png",
        "photo/dog/000.png",
        "sketch/cat/000.png",
        "sketch/dog/000.png",
    )


def test_class_policies(image_folder):
    root = image_folder(("a", "b", "c"), ("cat", "dog", "fox"), {("b", "dog"): 0, ("c", "fox"): 0})
    union = load_domains(root, "union")
    assert union.classes == ("cat", "dog", "fox")
    assert union.counts().tolist() == [[3, 3, 3], [3, 0, 3], [3, 3, 0]]
    intersection = load_domains(root, "intersection")
    assert intersection.classes == ("cat",)
    assert intersection.counts().tolist() == [[3], [3], [3]]
    with pytest.raises(ScmdError) as error:
        load_domains(root, "strict")
    message = str(error.value)
    assert "domain 'b' has no class 'dog'" in message
    assert "domain 'c' has no class 'fox'" in message
    assert str(root) in message
    assert "--classes intersection" in message
    assert "--classes union" in message


def test_policies_agree_where_nothing_is_missing(image_folder):
    root = image_folder()
    for policy in ("union", "intersection"):
        assert_same(load_domains(root, policy), load_domains(root, "strict"))


def test_no_common_class(image_folder):
    root = image_folder(("a", "b"), ("cat", "dog"), {("a", "cat"): 0, ("b", "dog"): 0})
    with pytest.raises(ScmdError, match=r"no class is in every domain of .*--classes union"):
        load_domains(root, "intersection")


def test_single_domain_is_a_warning(image_folder):
    root = image_folder(("photo",))
    with pytest.warns(ScmdWarning, match="single domain, 'photo'"):
        data = load_domains(root)
    assert data.domains == ("photo",)


def test_several_domains_warn_of_nothing(image_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_domains(image_folder())


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("skech", "'sketch'"), ("Photo", "'photo'"), ("zzz", "Choose one of them")],
)
def test_unknown_domain_suggests_the_nearest(image_folder, name, suggestion):
    data = load_domains(image_folder())
    assert resolve_domain(data, "photo") == "photo"
    with pytest.raises(ScmdError) as error:
        resolve_domain(data, name)
    message = str(error.value)
    assert repr(name) in message
    assert "'photo', 'sketch'" in message
    assert suggestion in message.rpartition(")")[2]


def test_no_such_path(tmp_path):
    with pytest.raises(ScmdError, match=r"no such folder or manifest: .*nowhere.*Give a folder"):
        load_domains(tmp_path / "nowhere")


def test_folder_without_domains(tmp_path):
    with pytest.raises(ScmdError, match="no domain found") as error:
        load_domains(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert f"Expected {tmp_path.name}/domain/class/image" in str(error.value)


def test_domain_without_classes(image_folder):
    root = image_folder()
    with pytest.raises(ScmdError, match="domain 'cat' has no class folder") as error:
        load_domains(root / "photo")
    assert "perhaps a single domain?" in str(error.value)


def test_domain_without_images(image_folder):
    root = image_folder()
    (root / "zebra" / "cat").mkdir(parents=True)
    with pytest.raises(ScmdError, match=r"domain 'zebra' has no image: .*zebra\. Add some"):
        load_domains(root, "union")


def test_no_image_at_all(image_folder):
    root = image_folder(count=0)
    (root / "photo" / "cat").mkdir(parents=True)
    with pytest.raises(ScmdError, match=r"no image found under .*Expected .*domain/class/image"):
        load_domains(root)


def test_folder_that_cannot_be_read(image_folder, monkeypatch):
    root = image_folder()
    closed, scandir = root / "sketch" / "dog", os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ScmdError, match=r"Permission denied.*Change its permissions") as error:
        load_domains(root)
    assert str(closed) in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_name_that_is_no_text(image_folder):
    root = image_folder()
    os.rename(
        root / "photo" / "cat" / "000.png", os.fsencode(root / "photo" / "cat") + b"/\xff.png"
    )
    with pytest.raises(ScmdError, match=r"not UTF-8: .*udcff\.png.*Rename it"):
        load_domains(root)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["a.png,photo"], ["line 2", "no class", "Fill it in"]),
        ([",photo,cat"], ["line 2", "no path"]),
        (["photo/cat/000.png, ,cat"], ["line 2", "no domain"]),
        (["photo/cat/nowhere.png,photo,cat"], ["line 2", "nowhere.png", "relative to"]),
        (
            ["photo/cat/000.png,photo,cat", "photo/cat/000.png,photo,dog"],
            ["line 3", "photo/cat/000.png is already on line 2", "Keep one"],
        ),
        ([], ["names no image", "no line after the first"]),
        (['"photo/cat/000.png,photo,cat'], ["is not a CSV file"]),
    ],
)
def test_bad_manifest_line(image_folder, lines, parts):
    path = manifest(image_folder(), *lines)
    with pytest.raises(ScmdError) as error:
        load_domains(path)
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_bad_manifest_header(image_folder):
    path = manifest(image_folder(), "photo/cat/000.png,photo,cat", header="file,domain,label")
    with pytest.raises(ScmdError, match=r"no column 'path', 'class'.*must be path,domain,class"):
        load_domains(path)


def test_image_given_as_manifest(image_folder):
    path = image_folder() / "photo" / "cat" / "000.png"
    with pytest.raises(ScmdError, match=r"000\.png is not a CSV file in UTF-8"):
        load_domains(path)


def test_manifest_is_checked_for_missing_classes(image_folder):
    path = manifest(image_folder(), "photo/cat/000.png,photo,cat", "sketch/dog/000.png,sketch,dog")
    with pytest.raises(ScmdError, match="domain 'photo' has no class 'dog'"):
        load_domains(path)
