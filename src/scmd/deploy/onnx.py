"""A student that was exported to ONNX, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scmd.data.images import to_rgb
from scmd.data.transforms import evaluation_transform
from scmd.deploy.classifier import WEIGHTS, require_numbers
from scmd.deploy.description import check_description
from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.models.images import as_float

FORMAT = 1
ONNX_FILE, INT8_FILE, PREPROCESSING = "model.onnx", "model-int8.onnx", "preprocessing.json"
INPUT, OUTPUT = "images", "logits"


class OnnxClassifier:
    """An exported student, used as a ``Classifier`` is.

    Maps float images in [0, 1] (or uint8), [B, 3, image_size, image_size], to class logits
    [B, C], float32. It computes on the CPU, wherever the images are, and does not resize.

    Args:
        file: The ONNX file.
        description: What ``model.json`` said of the student.
        threads: How many the runtime may use; 0 leaves it to the runtime.

    Raises:
        ScmdError: onnxruntime is missing, or the file is damaged or does not fit the description.
    """

    def __init__(self, file: Path, description: dict[str, Any], threads: int = 0) -> None:
        self._session = open_session(file, threads)
        self.description = description
        """What ``model.json`` said of the student."""
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.image_size = int(description["image_size"])
        """Side of the input in pixels."""
        self._file = file
        inputs = [(i.name, list(i.shape[1:])) for i in self._session.get_inputs()]
        outputs = [(o.name, list(o.shape[1:])) for o in self._session.get_outputs()]
        if inputs != [(INPUT, [3, self.image_size, self.image_size])] or outputs != [
            (OUTPUT, [len(self.classes)])
        ]:
            raise ScmdError(
                f"{file} does not fit the {PREPROCESSING} beside it: it maps {inputs} to "
                f"{outputs}. Export again"
            )
        require_numbers(self, file)

    @property
    def temperature(self) -> float:
        """What calibrated probabilities divide the logits by; 1 where none was fitted."""
        return float(self.description.get("temperature", 1.0))

    def __call__(self, images: Tensor, /) -> Tensor:
        """Images to logits, on the CPU.

        Raises:
            ScmdError: The images have another size, or the runtime cannot run the model.
        """
        if tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise ScmdError(
                f"images of shape {list(images.shape)}; the exported model takes "
                f"[B, 3, {self.image_size}, {self.image_size}]. Resize them"
            )
        array = as_float(images.detach().cpu()).contiguous().numpy()
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: array})
            return torch.from_numpy(np.asarray(logits, dtype=np.float32))
        except Exception as error:  # the runtime's exceptions are not public
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ScmdError(f"{self._file} cannot be run: {reason}. Export again") from error

    def predict(self, images: Sequence[Image.Image], calibrated: bool = True) -> Tensor:
        """Class probabilities [B, C] of pictures of any size, as ``Classifier.predict``."""
        if not images:
            return torch.zeros(0, len(self.classes))
        transform = evaluation_transform(self.image_size)
        logits = self(torch.stack([transform(to_rgb(image)) for image in images]))
        return (logits / self.temperature if calibrated else logits).softmax(1)


def is_onnx(path: Path) -> bool:
    """Whether it is an ONNX file, or a folder with one and without a run's weights."""
    return path.suffix == ".onnx" or ((path / ONNX_FILE).exists() and not (path / WEIGHTS).exists())


def load_onnx(path: str | Path) -> OnnxClassifier:
    """Load what ``scmd export --to onnx`` wrote.

    Args:
        path: The exported folder, or one of its ONNX files (for the int8 model, say);
            ``preprocessing.json`` has to lie beside it.

    Raises:
        ScmdError: A file is missing, damaged, or does not fit the other; or the extra is missing.
    """
    path = Path(path)
    file = path / ONNX_FILE if path.is_dir() else path
    if not file.is_file():
        raise ScmdError(f"no exported model: {file} is missing. Give a folder of scmd export")
    about = file.parent / PREPROCESSING
    description = read_json(about)
    try:
        if description["format"] != FORMAT:
            raise ScmdError(
                f"{about} has format {description['format']}, this version reads {FORMAT}. "
                "Use the version of scmd that wrote it"
            )
        student = check_description(description["student"], about)
    except (TypeError, KeyError) as error:
        raise ScmdError(f"{about} is damaged: {error}. Export again") from error
    return OnnxClassifier(file, student)


def require_onnx(*packages: str) -> None:
    """See that optional packages are there, before anything is done with them.

    Raises:
        ScmdError: One is missing.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ScmdError(
            f"ONNX needs {' and '.join(missing)}, not installed here. "
            "Run: pip install 'scmd[export]' (in a checkout: pip install -e '.[export]')"
        )


def open_session(file: Path, threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Raises:
        ScmdError: onnxruntime is missing or cannot read the file.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; its warnings are about how it might be faster
    try:
        return onnxruntime.InferenceSession(
            str(file), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions are not public
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScmdError(f"{file} cannot be read as an ONNX model: {reason}") from error
