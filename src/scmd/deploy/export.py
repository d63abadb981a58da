"""A finished run's student as a folder that can be deployed without this package."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scmd.deploy.card import write_card
from scmd.deploy.classifier import Classifier, load
from scmd.deploy.description import public_description, refuse_soup
from scmd.deploy.onnx import FORMAT, INPUT, INT8_FILE, OUTPUT, PREPROCESSING, require_onnx
from scmd.deploy.programs import FILES, OPSET, Format, open_program, write_program
from scmd.deploy.quantize import quantize
from scmd.deploy.source_images import SourceImages, read_source_images
from scmd.efficiency import latency
from scmd.errors import ScmdError
from scmd.files import write_json
from scmd.finished import read_summary
from scmd.machine import keep_memory

TOLERANCE = 1e-4
"""How far an exported logit may be from PyTorch's, as a part of the largest logit (at least 1)."""
CHECKED, CALIBRATED = 512, 256
"""Images to check on (of the sources' holdout), and to calibrate int8 on (of their training)."""
_BATCH, _REPEATS = 32, 30


def export_run(
    run: str | Path,
    out: str | Path,
    to: Format = "onnx",
    int8: bool = False,
    benchmark: bool = False,
    data: str | Path | None = None,
) -> dict[str, Any]:
    """Write a student, its preprocessing and its card to a new folder, and check it.

    The folder appears when everything in it has been written and checked.

    Args:
        run: The folder of a finished run.
        out: The folder to make.
        to: ``onnx`` (opset 18), or ``torch``: a program of ``torch.export``.
        int8: Write an int8 model, too, and measure what it loses. ONNX only.
        benchmark: Measure sizes and latencies.
        data: The run's data set, where it is no longer where ``config.toml`` says.

    Returns:
        What ``preprocessing.json`` says.

    Raises:
        ScmdError: No finished run there, or a soup of several; a package or the data are missing,
            the student cannot be exported, or its logits are not PyTorch's. ``out`` is not made
            then.
    """
    run, out = Path(run), Path(out)
    if int8 and to != "onnx":
        raise ScmdError(f"int8 is made for onnx, not for {to}. Pass --to onnx, or leave --int8 out")
    if to == "onnx":
        require_onnx("onnx", "onnxscript", "onnxruntime")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ScmdError(f"{out} exists already. Remove it, or choose another --out")
    keep_memory()
    model = load(run)
    refuse_soup(model.description, run)
    summary = read_summary(run, "pages")

    def images(split: str, count: int) -> SourceImages:
        return read_source_images(run, model.classes, model.image_size, split, count, data)

    held_out = images("holdout", CHECKED)
    with _made_aside(out) as folder:
        file = folder / FILES[to]
        # Asked before it is exported: the exporter may leave another memory layout behind.
        expected = _logits(model, held_out.images)
        write_program(model, to, file)
        found = _logits(open_program(file), held_out.images)
        about = _describe(model, to)
        about["check"] = check(expected, found)
        if int8:
            calibration = images("train", CALIBRATED)
            quantize(file, folder / INT8_FILE, calibration.images)
            quantized = _logits(open_program(folder / INT8_FILE), held_out.images)
            about["int8"] = {
                "model": INT8_FILE,
                "calibration_images": len(calibration),
                **compare(found, quantized, held_out.labels),
            }
        if benchmark:
            about["benchmark"] = _benchmark(model, folder)
        write_json(folder / PREPROCESSING, about)
        write_card(folder, about, summary)
    return about


def check(expected: Tensor, found: Tensor) -> dict[str, Any]:
    """Compare an exported student's logits with PyTorch's; both [N, C].

    Returns:
        ``images``, ``largest_difference`` of a logit, ``tolerance``, and ``agreement``: the number
        of images on which both predict the same class.

    Raises:
        ScmdError: The difference is above the tolerance.
    """
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    difference = float((expected - found).abs().max())
    if not difference <= tolerance:  # not a number is not within it either
        raise ScmdError(
            f"the exported model is not the student: a logit differs by {difference:.3g} on the "
            f"sources' held-out images, and {tolerance:.3g} is allowed. Nothing was written. "
            "Export to another format, or with another version of torch"
        )
    return {
        "images": len(expected),
        "largest_difference": difference,
        "tolerance": tolerance,
        "agreement": int((expected.argmax(1) == found.argmax(1)).sum()),
    }


def compare(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Any]:
    """What quantisation does to the predictions on labelled images.

    Args:
        before: Logits in float32, [N, C].
        after: Logits in int8, [N, C].
        labels: int64 [N].

    Returns:
        ``images``; ``accuracy`` and ``accuracy_fp32``; ``agreement``: the number of images with the
        same prediction; ``lost`` and ``won``: how many became wrong, and right.
    """
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    return {
        "images": len(labels),
        "accuracy_fp32": float(was.float().mean()),
        "accuracy": float(now.float().mean()),
        "agreement": int((before.argmax(1) == after.argmax(1)).sum()),
        "lost": int((was & ~now).sum()),
        "won": int((now & ~was).sum()),
    }


@torch.inference_mode()
def _logits(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([predict(part.float() / 255) for part in images.split(_BATCH)])


def _describe(model: Classifier, to: Format) -> dict[str, Any]:
    size = model.image_size
    packages = ("torch", "timm", *(("onnx", "onnxruntime") if to == "onnx" else ()))
    return {
        "format": FORMAT,
        "model": FILES[to],
        "input": {
            "name": INPUT,
            "type": "float32",
            "shape": ["batch", 3, size, size],
            "values": "RGB, from 0 to 1 (pixel / 255), not normalised",
        },
        "output": {"name": OUTPUT, "type": "float32", "shape": ["batch", len(model.classes)]},
        "image_size": size,
        "resize": "to a square, without keeping the aspect, bilinear with antialiasing on 8-bit "
        "pixels (Pillow's resize with Resampling.BILINEAR)",
        "normalisation": "inside the model",
        "temperature": model.temperature,
        "classes": list(model.classes),
        "student": public_description(model.description),
        **({"opset": OPSET} if to == "onnx" else {}),
        "versions": {name: version(name) for name in packages},
    }


def _benchmark(model: Classifier, folder: Path) -> dict[str, Any]:
    """Per file, megabytes and milliseconds an image; PyTorch itself for comparison. One thread."""
    image = torch.rand(1, 3, model.image_size, model.image_size)
    files = [folder / name for name in (*FILES.values(), INT8_FILE) if (folder / name).exists()]
    megabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = {"PyTorch": {"megabytes": megabytes, **latency(model, image, _REPEATS)}}
        for file in files:
            size = file.stat().st_size / 1e6
            program = open_program(file, threads=1)
            results[file.name] = {"megabytes": size, **latency(program, image, _REPEATS)}
    finally:
        torch.set_num_threads(threads)
    return results


@contextmanager
def _made_aside(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, renamed to it in the end; whatever fails, nothing is left."""
    aside: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        folder = aside / "export"  # made as any folder is: a temporary one is for its owner alone
        folder.mkdir()
        yield folder
        os.replace(folder, out)
    except OSError as error:
        raise ScmdError(
            f"{out} cannot be written: {error.strerror or error}. Choose another --out"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def print_export(about: dict[str, Any], out: Path, console: Console) -> None:
    """What was written, and how it compares, for a person."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    checked = about["check"]
    n = checked["images"]
    opset = f" (opset {about['opset']})" if "opset" in about else ""
    say(
        f"{about['model']}{opset}: on {n:,} held-out images of the sources, a logit differs from "
        f"PyTorch's by at most {checked['largest_difference']:.2g} (tolerance "
        f"{checked['tolerance']:.2g}); {checked['agreement']:,} of {n:,} predictions agree"
    )
    if int8 := about.get("int8"):
        loss = 100 * (int8["accuracy_fp32"] - int8["accuracy"])
        say(
            f"{INT8_FILE}: calibrated on {int8['calibration_images']:,} training images; accuracy "
            f"on the {n:,}: {int8['accuracy_fp32']:.3f} in fp32, {int8['accuracy']:.3f} in int8 "
            f"(a loss of {loss:.1f} points: {int8['lost']} became wrong, {int8['won']} right); "
            f"{int8['agreement']:,} of {n:,} predictions agree"
        )
    if "benchmark" in about:
        table = Table(title="one image at a time, one thread", box=SIMPLE)
        for name in ("", "MB", "ms an image", "fastest – slowest"):
            table.add_column(name, justify="right" if name else "left")
        for name, row in about["benchmark"].items():
            low, high = row["latency_ms_range"]
            table.add_row(
                name,
                f"{row['megabytes']:.2f}",
                f"{row['latency_ms']:.2f}",
                f"{low:.2f} – {high:.2f}",
            )
        console.print(table)
    names = ", ".join(sorted(path.name for path in out.iterdir()))
    say(f"{out}: {names}")
