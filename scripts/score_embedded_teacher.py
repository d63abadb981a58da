"""Write onto the embedded teacher's card what it scores on the embedded digits, and further styles.

python scripts/score_embedded_teacher.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import tyro

from scmd.data.digit_styles import FURTHER_STYLES, STYLES, write_digits
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.files import read_json, write_json
from scmd.models.teacher import EMBEDDED, TeacherConfig

CARD = Path(__file__).parents[1] / "src" / "scmd" / "embedded" / "teacher" / "teacher.json"


def main() -> None:
    """Score the teacher zero-shot, with the default prompt, and update its card."""
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder) / "digits", tuple(STYLES))
        data = load_domains(Path(folder) / "digits")
        results = evaluate_teacher(TeacherConfig(EMBEDDED), data)["results"]
    scores = {
        style: {key: result[key] for key in ("n", "accuracy", "interval", "ece")}
        for style, result in results.items()
    }
    domains = [
        result["accuracy"] for style, result in scores.items() if style not in FURTHER_STYLES
    ]
    card = read_json(CARD)
    card["zero_shot_on_the_embedded_digits"] = scores
    write_json(CARD, card)
    for style, result in scores.items():
        print(f"{style}: {result['accuracy']:.3f}")
    print(f"mean of the four domains: {sum(domains) / len(domains):.3f}")


if __name__ == "__main__":
    tyro.cli(main)
