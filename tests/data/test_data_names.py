"""Whatever files are called, and however they are linked; and nothing is written beside them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from scmd.cli import main
from scmd.data.check import check_images
from scmd.data.folder import load_domains
from scmd.data.loader import DomainBatches, evaluation_batches, training_batches
from scmd.errors import ScmdError

NFC, NFD = (unicodedata.normalize(form, "\u00e9t\u00e9.png") for form in ("NFC", "NFD"))
NAMES = [
    "x" * 251 + ".png",  # 255 bytes, as long as a file system takes
    "\u6f22" * 83 + ".png",
    " leading and  double .png",
    NFC,
    NFD,
    "\U0001f469\u200d\U0001f52c\U0001f600.png",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc.png",
    "two\nlines.png",
    "tab\tand\rreturn.png",
    "\x1b[31mred.png",
    "[red]marked [link=x]up.png",
    "<b>&amp;.png",
    """quotes ' " `.png""",
    "comma, semicolon; colon:.png",
    "back\\slash.png",
    "-x --help.png",
    "$HOME ${x} %s {0} ~ * ? #.png",
    "@here.png",
]
DOMAINS = ("[red]art", "photo \U0001f4f7, \u05e9\u05dc\u05d5\u05dd", "two\nlines")
CLASSES = ('big "cat", [bold]', "dog $x$ & <i> _{")


@pytest.fixture
def named(write_image, tmp_path) -> Path:
    """A data set with names that nobody would choose."""
    root = tmp_path / "it's [a] \u00e9t\u00e9\n\U0001f600"
    for domain in DOMAINS:
        for class_name in CLASSES:
            for name in NAMES:
                write_image(root / domain / class_name / name, 24)
    return root


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_every_name_is_loaded_as_it_is(named):
    data = load_domains(named)
    assert data.domains == DOMAINS
    assert data.classes == CLASSES
    assert sorted(data.paths) == sorted(
        f"{d}/{c}/{n}" for d in DOMAINS for c in CLASSES for n in NAMES
    )
    assert all(data[row].path.is_file() for row in range(len(data)))
    rows = [data.rows(domain) for domain in data.domains]
    steps = DomainBatches(data, rows, len(NAMES) * 2, seed=0, start=0, stop=1)
    (batch,) = training_batches(steps, data, 8, 0, 2, False)
    assert sorted(batch.sample_ids.tolist()) == sorted(data.ids.tolist())


def test_a_manifest_names_them_as_well(named):
    folder = load_domains(named)
    manifest = named / 'the [list], "mine".csv'
    with manifest.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "domain", "class"))
        lines.writerows((p, *p.split("/")[:2]) for p in folder.paths)
    data = load_domains(manifest)
    assert data.paths == folder.paths
    assert data.ids.tolist() == folder.ids.tolist()


def test_data_check_says_what_is_there(named, capsys, quiet):
    assert main(["data", "check", str(named)]) == 0
    said = capsys.readouterr().out
    assert "nothing wrong was found" in said
    assert "[red]art" in said
    bad = named / DOMAINS[2] / CLASSES[1] / NAMES[9]
    bad.write_bytes(b"")
    assert main(["data", "check", str(named)]) == 1
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "is empty" in line)
    assert "two\\nlines" in line  # one line, and nothing in it that a terminal obeys
    assert "\\x1b[31mred.png" in line
    assert "\x1b" not in line


def test_an_error_is_one_line_whatever_the_name(named, capsys):
    (named / "empty\n\x1b[31m").mkdir()
    assert main(["data", "check", str(named)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_classes_that_differ_only_in_their_unicode_form(write_image, tmp_path):
    for domain, form in (("a", "NFC"), ("b", "NFD")):
        name = unicodedata.normalize(form, "caf\u00e9")  # pyright: ignore[reportArgumentType]
        for class_name in (name, "bar"):
            write_image(tmp_path / "images" / domain / class_name / "1.png")
    with pytest.raises(ScmdError, match=r"'cafe\\u0301' and 'caf\\xe9' .*same letters.*Rename one"):
        load_domains(tmp_path / "images")


def state_of(root: Path) -> dict[str, tuple]:
    """Of everything under a folder: what it is, its size and its times."""
    return {
        str(path): (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for path in (root, *root.rglob("*"))
        for s in [path.lstat()]
    }


def test_from_training_to_a_report_and_nothing_is_written_beside_the_images(
    named, tmp_path, capsys, quiet, clip_folder
):
    """A file that was made and removed again would have changed its folder's times."""
    before = state_of(named)
    out = tmp_path / "runs [of] \u00e9t\u00e9, mine\n"
    settings = (
        "--method scmd --image-size 24 --student test_efficientnet --no-student-pretrained "
        "--steps 2 --batch-per-domain 4 --evaluate-every 2 --checkpoint-every 2 --workers 0"
    )
    teacher = shutil.copytree(clip_folder, tmp_path / "teacher, [of] \u00e9t\u00e9")
    where = ["--target", DOMAINS[2], "--out", str(out), "--teacher", str(teacher)]
    train = ["train", str(named), *where, *settings.split()]
    assert main(train) == 0, capsys.readouterr().err
    assert set(json.loads((out / "summary.json").read_text())["results"]) == set(DOMAINS)
    assert main([*train, "--resume"]) == 0
    assert main(["report", str(out), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "dog $x$ &amp; &lt;i&gt; _{" in page
    assert "<i> _{" not in page
    assert main(["evaluate", str(out), str(named)]) == 0
    assert main(["data", "check", str(named)]) == 0
    assert main(["data", "halves", str(named), "--out", str(tmp_path / "halves")]) == 0
    capsys.readouterr()
    table = tmp_path / 'table, "mine".csv'
    assert main(["predict", str(out), str(named / DOMAINS[0]), "--out", str(table)]) == 0
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    predicted = {next(iter(line.values())) for line in lines}
    assert predicted == {str(named / DOMAINS[0] / c / n) for c in CLASSES for n in NAMES}
    assert state_of(named) == before


def test_links_to_images_and_folders_are_followed(image_folder, write_image, tmp_path):
    root = image_folder()
    write_image(tmp_path / "store" / "deep" / "1.png")
    (root / "photo" / "cat" / "link.png").symlink_to(tmp_path / "store" / "deep" / "1.png")
    (root / "photo" / "dog" / "folder").symlink_to(tmp_path / "store")
    (root / "art").symlink_to(root / "sketch")
    (tmp_path / "other name").symlink_to(root)
    data = load_domains(tmp_path / "other name")
    assert data.domains == ("art", "photo", "sketch")
    assert {"photo/cat/link.png", "photo/dog/folder/deep/1.png"} <= set(data.paths)
    assert next(evaluation_batches(data, np.arange(len(data)), 8, 99, 0)).shape[0] == len(data)
    assert data.paths == load_domains(root).paths
    kinds = {finding.kind for finding in check_images(data).findings}
    assert kinds == {"duplicate across domains", "duplicate across classes"} or kinds == {
        "duplicate across domains"
    }


@pytest.mark.parametrize("target", ["nowhere.png", "itself.png"])
def test_link_that_leads_nowhere_is_an_image_that_cannot_be_read(image_folder, capsys, target):
    root = image_folder()
    (root / "photo" / "cat" / "itself.png").symlink_to(target)
    assert "photo/cat/itself.png" in load_domains(root).paths
    assert main(["data", "check", str(root)]) == 1
    assert "photo/cat/itself.png cannot be read" in capsys.readouterr().out
    (manifest := root / "list.csv").write_text(
        "path,domain,class\nphoto/cat/itself.png,photo,cat\n"
    )
    with pytest.raises(ScmdError, match="no such image"):
        load_domains(manifest)


@pytest.mark.parametrize("place", ["loop", "photo/loop", "photo/cat/loop", "photo/cat/deep/loop"])
@pytest.mark.parametrize("levels", [0, 1, 2, 3, 4])
def test_link_to_a_folder_that_it_lies_in_is_refused(image_folder, capsys, place, levels):
    root = image_folder()
    link = root / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(link.parents[levels])
    assert main(["data", "check", str(root)]) == 2
    said = capsys.readouterr().err
    assert str(link) in said
    assert "a folder that it lies in" in said


def test_links_that_lead_to_each_other_are_refused(image_folder):
    root = image_folder()
    (root / "photo" / "cat" / "dogs").symlink_to(root / "photo" / "dog")
    (root / "photo" / "dog" / "cats").symlink_to(root / "photo" / "cat")
    with pytest.raises(ScmdError, match="a folder that it lies in"):
        load_domains(root)


def test_hidden_domains_and_classes_may_be_loops(image_folder):
    root = image_folder()
    expected = load_domains(root).paths
    (root / ".loop").symlink_to(root)
    (root / "photo" / ".loop").symlink_to(root)
    assert load_domains(root).paths == expected
    assert os.path.islink(root / ".loop")
