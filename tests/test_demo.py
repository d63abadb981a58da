"""The embedded default: a teacher that comes with the package, and a comparison that runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from rich.console import Console

from scmd.cli import main
from scmd.data.digit_styles import write_digits
from scmd.data.digits import NAMES
from scmd.data.folder import load_domains
from scmd.demo import DemoConfig, demo_config, run_demo
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.models.pretrained import EMBEDDED, parse_name
from scmd.models.teacher import TeacherConfig, load_teacher

ROOT = Path(__file__).parents[1]


def test_embedded_teacher_is_small_and_an_ordinary_open_clip_model():
    name, _ = parse_name(EMBEDDED)
    folder = Path(name.removeprefix("local-dir:"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    teacher = load_teacher(TeacherConfig(EMBEDDED), NAMES)
    assert teacher.text_embeddings.shape[0] == 10
    norms = teacher.text_embeddings.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(10))


def test_card_says_what_the_teacher_scores(tmp_path):
    """Recomputed on one domain, and on one style that nobody trains on."""
    styles = ("photo", "halftone")
    write_digits(tmp_path / "digits", styles)
    results = evaluate_teacher(TeacherConfig(EMBEDDED), load_domains(tmp_path / "digits"), 0)
    name, _ = parse_name(EMBEDDED)
    card = read_json(Path(name.removeprefix("local-dir:")) / "teacher.json")
    scores = card["zero_shot_on_the_embedded_digits"]
    for style in styles:
        measured = results["results"][style]["accuracy"]
        assert measured == pytest.approx(scores[style]["accuracy"], abs=0.006)
    assert set(scores) == {"chalk", "ink", "outline", "photo", "halftone", "neon"}
    assert not set(card["seen"]["domains"]) & set(scores)


def test_the_script_that_made_the_teacher_cannot_see_the_set():
    """No renderer of the set, no photograph, and of the handwriting only what is kept out."""
    source = (ROOT / "scripts" / "embedded_teacher.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    assert not [name for name in imported if "digit_styles" in name or "sklearn" in name]
    ours = {name for name in imported if name.startswith("scmd.data")}
    assert ours == {f"scmd.data.digits.{name}" for name in ("NAMES", "digit", "kept_out", "label")}
    # Every digit that is drawn comes out of the list that is passed down from kept_out().
    calls = [
        ast.unparse(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "digit"
    ]
    assert calls == ["int(rng.choice(handwriting))"]
    assert "[i for i in kept_out() if" in source


def test_demo_gives_every_method_the_same_but_its_hyper_parameters(tmp_path):
    first, *others = (
        demo_config(method, tmp_path, "photo", 0, 10) for method in ("erm", "kd", "scmd")
    )
    for other in others:
        for section in ("data", "student", "training", "average"):
            assert getattr(other, section) == getattr(first, section)


def test_demo_runs_and_goes_on_where_it_was(tmp_path, capsys):
    config = DemoConfig(tmp_path / "demo", steps=2)
    rows = run_demo(config, Console(quiet=True))
    assert [row["name"] for row in rows] == ["teacher", "erm", "kd", "scmd"]
    assert rows[1]["gap_closed"] in (0, None)
    assert rows[0]["parameters"] > rows[1]["parameters"]
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    for row in rows:
        assert row["name"] in printed
        assert f"{row['accuracy']:.3f}" in printed
    said = r"holds a demo of other settings \(training\.steps: 2 -> 3\)\. Choose another --out"
    with pytest.raises(ScmdError, match=said):
        run_demo(DemoConfig(tmp_path / "demo", steps=3), Console(quiet=True))
