"""Image files in, classes and probabilities out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scmd.data.images import read_image
from scmd.data.transforms import Transform, evaluation_transform
from scmd.deploy.classifier import load
from scmd.deploy.inputs import find_images
from scmd.deploy.onnx import is_onnx, load_onnx
from scmd.deploy.outputs import Prediction
from scmd.deploy.promptable import load_promptable
from scmd.errors import BadImageError, ScmdError, ScmdWarning
from scmd.evaluate import EVALUATION_BATCH
from scmd.models.images import as_float
from scmd.stopping import workers_deaf


class Deployed(Protocol):
    """What a model in use has, whatever runs it."""

    @property
    def classes(self) -> Sequence[str]:
        """In the order of the logits."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        ...

    @property
    def description(self) -> Mapping[str, Any]:
        """What ``model.json`` says."""
        ...

    def __call__(self, images: Tensor, /) -> Any:
        """Float images in [0, 1], [B, 3, H, W], to logits [B, C]."""
        ...


def predict_files(
    run: str | Path,
    images: Sequence[Path],
    top: int = 1,
    workers: int = 2,
    calibrated: bool = True,
    min_confidence: float = 0.0,
    classes: Sequence[str] | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction]:
    """Classify files, and the image files in folders, in order.

    Args:
        run: The folder of a finished run, or an exported model; see ``load_any``.
        images: What ``find_images`` understands.
        top: How many classes to give.
        workers: Processes that decode images.
        calibrated: Divide the logits by the temperature that was fitted on the sources' holdout.
            The order of the classes is the same without. Warns where there is none.
        min_confidence: Abstain where the best class is less probable.
        classes: Texts to classify against, or the name of saved ones; see ``load_promptable``.
            Their probabilities are not calibrated.
        progress: Called with how many files are done, and of how many.

    Raises:
        ScmdError: No model there, a path that does not exist, or a bad setting.
    """
    if top < 1:
        raise ScmdError(f"top = {top}: give a whole number from 1")
    if not 0 <= min_confidence <= 1:
        raise ScmdError(f"min_confidence = {min_confidence}: give a probability, from 0 to 1")
    files = list(find_images(images))
    model = load_any(run) if classes is None else load_promptable(run, classes)
    temperature = 1.0
    if calibrated and classes is None:
        if "temperature" not in model.description:
            warnings.warn(
                f"{run} has no temperature: its probabilities are not calibrated",
                ScmdWarning,
                stacklevel=2,
            )
        temperature = float(model.description.get("temperature", 1.0))
    return _predict(model, files, top, workers, temperature, min_confidence, progress)


def load_any(path: str | Path) -> Deployed:
    """Load a student to be used: from a run's folder, or as it was exported.

    Args:
        path: A folder with ``model.safetensors``; else one with ``model.onnx``; or an ONNX file.

    Raises:
        ScmdError: It is none of them, or damaged.
    """
    path = Path(path)
    if is_onnx(path):
        return load_onnx(path)
    return load(path)


def device_for(model: Deployed) -> torch.device:
    """Move a torch model to the accelerator, if there is one, and tell where images have to go."""
    if not isinstance(model, nn.Module):
        return torch.device("cpu")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    return device


def _predict(
    model: Deployed,
    files: list[Path],
    top: int,
    workers: int,
    temperature: float,
    min_confidence: float,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Prediction]:
    device = device_for(model)
    loader = DataLoader(
        _Files(files, evaluation_transform(model.image_size)),
        batch_size=EVALUATION_BATCH,
        num_workers=min(workers, len(files)),
        collate_fn=_collate,
    )
    done = 0
    with workers_deaf():
        batches = iter(loader)
    for images, errors in batches:
        ranked = iter(_rank(model, images, top, temperature, device) if len(images) else [])
        for file, error in zip(files[done : done + len(errors)], errors, strict=True):
            if error is None:
                best = next(ranked)
                yield Prediction(file, best, abstained=best[0][1] < min_confidence)
            else:
                yield Prediction(file, (), error)
        done += len(errors)
        if progress:
            progress(done, len(files))


@torch.inference_mode()
def _rank(
    model: Deployed, images: Tensor, top: int, temperature: float, device: torch.device
) -> list[tuple[tuple[str, float], ...]]:
    """Per image the best classes. The logits rank them: probabilities of 0 would be ties."""
    logits = torch.as_tensor(model(as_float(images.to(device)))).float().cpu()
    best = logits.topk(min(top, len(model.classes))).indices
    probabilities = (logits / temperature).softmax(1).gather(1, best)
    chosen: list[list[int]] = best.tolist()
    values: list[list[float]] = probabilities.tolist()
    return [
        tuple((model.classes[c], p) for c, p in zip(*pair, strict=True))
        for pair in zip(chosen, values, strict=True)
    ]


class _Files(Dataset):
    def __init__(self, files: Sequence[Path], transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | BadImageError:
        try:
            return self.transform(read_image(self.files[index]))
        except BadImageError as error:
            return error


def _collate(items: list[Tensor | BadImageError]) -> tuple[Tensor, list[str | None]]:
    """The images of a batch that could be read, and what is wrong with each, or None.

    One tensor: each that comes from a worker is an open file, of which there may not be many.
    """
    images = [item for item in items if isinstance(item, Tensor)]
    errors = [None if isinstance(item, Tensor) else str(item) for item in items]
    return torch.stack(images) if images else torch.empty(0), errors
