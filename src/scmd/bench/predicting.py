"""How many pictures a second ``scmd predict`` classifies, from files to classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scmd.bench.ours import Ours
from scmd.bench.work import Work
from scmd.deploy.classifier import save_classifier, save_temperature
from scmd.deploy.predict import predict_files


class Predictor:
    """A saved student with random weights, and picture files to classify.

    Args:
        work: The student, and the pictures.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        runner = Ours(work).runner
        self.folder = Path(tempfile.mkdtemp(prefix="scmd-bench-student-", dir=work.data.parent))
        weights = runner.method.state_dict()
        student = runner.config.student
        save_classifier(self.folder, runner.method, weights, student, runner.roles.data.classes, {})
        save_temperature(self.folder, 1.0)

    def predict(self) -> int:
        """Classify every picture of the work; returns their number."""
        files = [self.work.data]
        return sum(1 for _ in predict_files(self.folder, files, workers=self.work.workers))
