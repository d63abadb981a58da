"""Image files in, classes and probabilities out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scmd.data.images import IMAGE_EXTENSIONS, read_image
from scmd.data.transforms import Transform, evaluation_transform
from scmd.deploy.classifier import Classifier, load
from scmd.errors import BadImageError, ScmdError
from scmd.evaluate import EVALUATION_BATCH
from scmd.files import writing_aside


class Prediction(NamedTuple):
    """What a student says about one file."""

    file: Path
    ranked: tuple[tuple[str, float], ...]
    """The most probable classes with their probabilities, best first; empty on an error."""
    error: str | None = None
    """Why the file was not classified."""


def predict_files(
    run: str | Path, images: Sequence[Path], top: int = 1, workers: int = 2
) -> Iterator[Prediction]:
    """Classify files, and the image files in folders, in order.

    Args:
        run: The folder of a finished run.
        images: Files, or folders that are searched in full.
        top: How many classes to give.
        workers: Processes that decode images.

    Raises:
        ScmdError: No model there, or a path that does not exist.
    """
    files = list(find_images(images))
    return _predict(load(run), files, top, workers)


def _predict(model: Classifier, files: list[Path], top: int, workers: int) -> Iterator[Prediction]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    loader = DataLoader(
        _Files(files, evaluation_transform(model.image_size)),
        batch_size=EVALUATION_BATCH,
        num_workers=min(workers, len(files)),
        collate_fn=list,
    )
    names = iter(files)
    for batch in loader:
        decoded = [item for item in batch if isinstance(item, Tensor)]
        ranked = iter(())
        if decoded:
            with torch.inference_mode():
                images = torch.stack(decoded).to(device)
                best = model(images).softmax(1).topk(min(top, len(model.classes)))
            ranked = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        for item in batch:
            file = next(names)
            if isinstance(item, Tensor):
                pairs = zip(*next(ranked), strict=True)
                yield Prediction(file, tuple((model.classes[c], p) for c, p in pairs))
            else:
                yield Prediction(file, (), str(item))


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of folders, all files with an image's extension, sorted.

    Raises:
        ScmdError: A path that does not exist, or a folder without an image.
    """
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS)
            if not inside:
                raise ScmdError(f"no image in {path}. Give image files or folders of them")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise ScmdError(f"no such image: {path}")


def write_predictions(
    predictions: Iterable[Prediction], form: Literal["csv", "jsonl"], out: Path | None = None
) -> bool:
    """Write predictions as CSV (a line per image and rank) or JSON lines (a line per image).

    A file appears when it is complete.

    Returns:
        Whether any image could be classified.

    Raises:
        ScmdError: The file cannot be written.
    """
    any_classified = False
    with ExitStack() as stack:
        file: TextIO = sys.stdout
        if out:
            binary = stack.enter_context(writing_aside(out))
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
            stack.callback(file.detach)
        write = _csv_writer(file) if form == "csv" else _json_writer(file)
        for prediction in predictions:
            write(prediction)
            any_classified |= prediction.error is None
    return any_classified


def _csv_writer(file: TextIO):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("file", "rank", "class", "probability", "error"))

    def write(prediction: Prediction) -> None:
        for rank, (name, probability) in enumerate(prediction.ranked, 1):
            writer.writerow((prediction.file, rank, name, f"{probability:.6f}", ""))
        if prediction.error:
            writer.writerow((prediction.file, "", "", "", prediction.error))

    return write


def _json_writer(file: TextIO):
    def write(prediction: Prediction) -> None:
        line: dict[str, object] = {"file": str(prediction.file)}
        if prediction.error:
            line["error"] = prediction.error
        else:
            name, probability = prediction.ranked[0]
            line |= {"class": name, "probability": round(probability, 6)}
            line["top"] = [{"class": n, "probability": round(p, 6)} for n, p in prediction.ranked]
        file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


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
