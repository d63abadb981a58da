"""The report of real small runs: what stands in it, and that it works in a browser."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from scmd.averaging import AverageConfig
from scmd.cli import main
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.images import read_image
from scmd.files import read_json
from scmd.loop import train
from scmd.methods import METHODS
from scmd.methods.scmd import SCMDConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.report import gather as gathering
from scmd.report.figures import reliability
from scmd.report.gather import RunPage
from scmd.report.page import distinct_names, write_page
from scmd.report.thumbnails import thumbnail
from scmd.selection import SelectionConfig


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clip_folder) -> dict[str, Path]:
    """An ERM and an SCMD run on one small data set, whose class names are no nice ones."""
    from PIL import Image

    root = tmp_path_factory.mktemp("report")
    draw = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch & ink"):
        for label in ("cat", "<b>dog"):
            folder = root / "images" / domain / label
            folder.mkdir(parents=True)
            for index in range(10):
                pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    base = RunConfig(
        method="erm",
        data=DataConfig(str(root / "images"), "sketch & ink", image_size=24),
        student=StudentConfig("test_efficientnet", pretrained=False, freeze_batch_norm=False),
        teacher=TeacherConfig(str(clip_folder)),
        hparams=METHODS["erm"].Config(lr=1e-3),
        training=TrainingConfig(
            steps=8, batch_per_domain=6, evaluate_every=4, checkpoint_every=8, workers=0
        ),
        average=AverageConfig("none"),
    )
    hparams = SCMDConfig(lr=1e-3, selection=SelectionConfig(fraction=0.5))
    quiet = Console(quiet=True)
    train(base, root / "erm", console=quiet)
    train(replace(base, method="scmd", hparams=hparams), root / "scmd", console=quiet)
    return {"erm": root / "erm", "scmd": root / "scmd", "images": root / "images"}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page")
    assert main(["report", str(runs["erm"]), str(runs["scmd"]), "--out", str(out)]) == 0
    return out / "index.html"


def test_the_page_says_what_the_runs_say(runs, page):
    text = page.read_text()
    for run in ("erm", "scmd"):
        accuracy = read_json(runs[run] / "summary.json")["results"]["sketch & ink"]["accuracy"]
        assert f"<td>{100 * accuracy:.1f}</td>" in text
    assert "sketch &amp; ink" in text
    assert "by the teacher" in text
    assert "<b>" not in text
    assert not re.search(r'(src|href)="https?:', text)


def test_the_list_of_labels_to_review_is_what_the_teacher_is_sure_of(runs, page):
    review = page.parent / f"label-review-{runs['scmd'].name}.csv"
    if not review.exists():
        pytest.skip("this teacher is sure of nothing")
    with review.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sure = [float(row["teacher_confidence"]) for row in rows]
    assert sure == sorted(sure, reverse=True)
    assert min(sure) >= 0.7
    assert all(row["label"] != row["teacher"] and row["domain"] != "sketch & ink" for row in rows)


def test_a_report_is_the_same_again_and_asks_nobody_twice(runs, page, tmp_path, monkeypatch):
    monkeypatch.setattr("scmd.report.opinions.collect_logits", None)
    assert main(["report", str(runs["erm"]), str(runs["scmd"]), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").read_text() == page.read_text()


def test_without_its_images_a_run_is_shown_with_a_word(runs, tmp_path, capsys):
    moved = tmp_path / "erm"
    shutil.copytree(runs["erm"], moved)
    config = (moved / "config.toml").read_text().replace(str(runs["images"]), "/nowhere")
    (moved / "config.toml").write_text(config)
    assert main(["report", str(moved), "--out", str(tmp_path / "out")]) == 0
    assert "The images could not be read" in (tmp_path / "out" / "index.html").read_text()


def copied(run: Path, to: Path, images: Path, moved_to: Path) -> Path:
    """A run, by its configuration of images that lie elsewhere."""
    shutil.copytree(run, to)
    config = (to / "config.toml").read_text().replace(str(images), str(moved_to))
    (to / "config.toml").write_text(config)
    return to


def add_a_class(images: Path) -> Path:
    for domain in images.iterdir():
        shutil.copytree(domain / "cat", domain / "aardvark")
    return images


def rename_a_class(images: Path) -> Path:
    for domain in images.iterdir():
        (domain / "cat").rename(domain / "aardvark")
    return images


def remove_an_image(images: Path) -> Path:
    (images / "art" / "cat" / "0.png").unlink()
    return images


def name_a_class_otherwise(images: Path) -> Path:
    """The same files, by a manifest."""
    manifest = images / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "domain", "class"))
        for path in sorted(images.rglob("*.png")):
            domain, label, name = path.relative_to(images).parts
            writer.writerow((f"{domain}/{label}/{name}", domain, label.replace("cat", "cats")))
    return manifest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (add_a_class, "'aardvark'"),
        (rename_a_class, "'aardvark', 'cat'"),
        (remove_an_image, "art/cat/0.png is gone"),
        (name_a_class_otherwise, "'cat', 'cats'"),
    ],
)
def test_of_data_that_have_changed_only_what_the_run_wrote_is_shown(change, what, runs, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(runs["images"], images)
    run = copied(runs["scmd"], tmp_path / "run", runs["images"], change(images))
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    page = gathering.gather(run, tmp_path / "out", Console(quiet=True))
    assert len(page.notes) == 1
    assert "has changed since the run" in page.notes[0]
    assert what in page.notes[0]
    assert (page.errors, page.teacher, page.explorer) == ([], None, None)
    assert list(page.figures) == ["curves"]
    text = (tmp_path / "out" / "index.html").read_text()
    accuracy = read_json(run / "summary.json")["results"]["sketch & ink"]["accuracy"]
    assert f"<td>{100 * accuracy:.1f}</td>" in text
    assert "has changed since the run" in text
    assert "data:image/jpeg" not in text


def test_where_no_loss_is_known_the_page_says_so(runs, tmp_path):
    """Of what rule ``random`` never kept; a NaN would be no JSON, and stop the page's script."""
    run = tmp_path / "run"
    shutil.copytree(runs["scmd"], run)
    table = pq.read_table(run / "selection.parquet")
    kept = table["kept"].to_numpy(zero_copy_only=False)
    loss = np.where(kept, table["loss"].to_numpy(), np.nan).astype(np.float32)
    place = table.schema.get_field_index("loss")
    pq.write_table(table.set_column(place, "loss", pa.array(loss)), run / "selection.parquet")
    page = gathering.gather(run, tmp_path, Console(quiet=True))
    assert page.explorer is not None
    json.dumps(page.explorer, allow_nan=False)
    drawn = [s for s in page.explorer["samples"].values() if s.get("drawn")]
    assert any(sample["kept"] == 0 for sample in drawn)
    assert all((sample["loss"] is None) == (sample["kept"] == 0) for sample in drawn)


def test_runs_of_one_name_are_told_apart_and_old_lists_go(runs, tmp_path, monkeypatch):
    found = [tmp_path / name / "run" for name in ("x", "y")]
    for run in found:
        shutil.copytree(runs["scmd"], run)
    out, lengths = tmp_path / "out", [2, 1]
    given = {"domain": "art", "label": "cat", "teacher": "dog", "teacher_confidence": 0.9}
    monkeypatch.setattr(
        gathering,
        "_review",
        lambda *_: [{"row": i, "path": f"{i}.png", **given} for i in range(lengths.pop(0))],
    )
    command = ["report", *map(str, found), "--out", str(out)]
    assert main(command) == 0
    text = (out / "index.html").read_text()
    for name, count in (("x-run", 2), ("y-run", 1)):
        assert re.search(f'<h2 id="run-[12]">{name}</h2>', text)
        assert f"on {count} source images: they are in <code>label-review-{name}.csv</code>" in text
        lines = (out / f"label-review-{name}.csv").read_text().splitlines()
        assert lines[1:] == [f"{i}.png,art,cat,dog,0.9" for i in range(count)]
    lengths[:] = [0, 1]
    assert main(command) == 0
    assert [path.name for path in out.glob("*.csv")] == ["label-review-y-run.csv"]


def told(accuracy: float, method: str = "erm", data: str = "/data/a", **changes) -> RunPage:
    """A run of the target ``art``, as far as the comparison of a page needs it."""
    result = {"accuracy": accuracy, "interval": [0, 1], "macro_accuracy": 0.5, "ece": 0.1}
    student = StudentConfig(changes.pop("student", "resnet50.tv2_in1k"))
    teacher = TeacherConfig(changes.pop("teacher", "large"))
    config = RunConfig(
        method, DataConfig(data, "art"), student, teacher, hparams=METHODS[method].Config()
    )
    scores = {"art": {**result, "role": "target", "n": 4, "per_class": {}, "confusion": [[4]]}}
    summary = {
        "method": method, "target": "art", "seed": 0, "steps": 1, "sources": ["ink"],
        "classes": ["cat"], "images": {}, "results": scores, "cost": {"student": {}},
        "model_selection": {"step": 0, "rule": "it"},
    }  # fmt: skip
    asked = {**scores["art"], "accuracy": changes.pop("ceiling", 0.9)} if method != "erm" else None
    folder = Path(data) / f"{method}-{accuracy}"
    return RunPage(folder, folder, folder.name, config, summary, {}, asked, [], [], None, [])


def gap(*pages: RunPage, to: Path) -> str:
    """What the page says of it, a line for each note."""
    write_page(to / "index.html", "title", pages)
    notes = re.findall('<p class="soft">([^<]*)</p>', (to / "index.html").read_text())
    return "\n".join(note for note in notes if re.match("Gap |.* gap ", note))


def test_the_gap_closed_is_between_runs_that_are_like_for_like(tmp_path):
    erm, kd, scmd = told(0.5), told(0.7, "kd"), told(0.8, "scmd")
    usual = "Gap from ERM to the teacher closed on art: kd-0.7 +0.50, scmd-0.8 +0.75."
    assert gap(erm, kd, scmd, to=tmp_path) == usual
    other = told(0.8, "scmd", student="resnet18")
    said = gap(erm, kd, other, to=tmp_path)
    assert "closed on art: kd-0.7 +0.50." in said
    assert "scmd-0.8 is not compared with erm-0.5 in the gap closed: student.name: " in said
    assert "resnet18" in said
    assert gap(erm, told(0.7, "kd", teacher="small", ceiling=0.6), scmd, to=tmp_path) == ""


def test_runs_on_other_data_have_a_gap_of_their_own(tmp_path):
    """A domain of the same name is another domain there."""
    pages = [told(0.5), told(0.7, "kd"), told(0.1, data="/data/b"),
             told(0.4, "kd", data="/data/b", ceiling=0.7)]  # fmt: skip
    lines = gap(*pages, to=tmp_path).splitlines()
    assert lines == [
        "Gap from ERM to the teacher closed on art of a: kd-0.7 +0.50.",
        "Gap from ERM to the teacher closed on art of b: kd-0.4 +0.50.",
    ]
    text = (tmp_path / "index.html").read_text()
    for ceiling, data in (("90.0", "a"), ("70.0", "b")):
        row = f"zero-shot</th><td>art of {data}</td><td>{ceiling}</td>"
        assert row in text
    assert gap(told(0.5), told(0.4, "kd", data="/data/b"), to=tmp_path) == ""


def test_a_run_that_measures_the_teacher_is_not_called_damaged(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs["erm"], run)
    summary = read_json(run / "summary.json") | {"method": "zero-shot", "steps": 0}
    del summary["images"], summary["cost"]
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "run measures the teacher (zero-shot), and trained no student" in said
    assert "Give a run of a method, or the comparison's folder" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/erm", "a/scmd"], ["erm", "scmd"]),
        (["a/erm", "a/run", "b/run"], ["erm", "a-run", "b-run"]),
        (["a/run", "b/run", "a-run"], ["a-run", "b-run", "a-run-2"]),
        (["a/run", "a/run", "c/a/run"], ["a-run", "a-run-2", "a-run-3"]),
    ],
)
def test_names_are_distinct(folders, names, tmp_path):
    assert distinct_names([tmp_path / folder for folder in folders]) == names


def test_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not (tmp_path / "out" / "index.html").exists()


def test_reliability_is_the_mean_of_each_bin():
    confidence = np.array([0.51, 0.52, 0.9, 1.0])
    found = reliability(confidence, np.array([True, False, True, True]), bins=10)
    assert found.n == [2, 2]
    assert found.confidence == pytest.approx([0.515, 0.95])
    assert found.accuracy == [0.5, 1.0]


def test_thumbnails_are_small_and_bad_images_are_none(tmp_path, write_image):
    text = thumbnail(write_image(tmp_path / "a.png", 300))
    assert text.startswith("data:image/jpeg;base64,")
    assert len(text) < 20_000
    (tmp_path / "b.png").write_bytes(b"no image")
    assert thumbnail(tmp_path / "b.png") == ""
    assert read_image(tmp_path / "a.png").size == (300, 300)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("SCMD_CHROMIUM") or shutil.which("chromium")
    if not found:
        pytest.skip("there is no chromium: install Debian's, or set SCMD_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(browser, page, width):
    tab = browser.new_page(viewport={"width": width, "height": 800})
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    explorer = tab.locator("[data-explorer]")
    summary = explorer.locator('[data-part="summary"]')
    data = json.loads(explorer.locator("script").text_content() or "")
    drawn = sum(cell[3] for cell in data["cells"])
    assert f"of {drawn:,} draws" in (summary.text_content() or "")

    explorer.locator('select[data-part="domain"]').select_option(label="art")
    own = sum(cell[3] for cell in data["cells"] if cell[1] == data["domains"].index("art"))
    assert f"of {own:,} draws" in (summary.text_content() or "")
    pictures = explorer.locator('[data-part="pictures"] li')
    assert all("art" in text for text in pictures.all_text_contents())
    assert pictures.count() > 0

    # By keyboard: a bar is a button, and so is a picture.
    bar = explorer.locator('[data-part="classes"] button').first
    bar.focus()
    tab.keyboard.press("Enter")
    assert explorer.locator('select[data-part="class"]').input_value() != "-1"
    pictures.locator("button").first.click()
    assert tab.locator("dialog").is_visible()
    assert "art" in (tab.locator("dialog p").text_content() or "")
    tab.keyboard.press("Escape")
    assert not tab.locator("dialog").is_visible()
    overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    tab.close()
