"""The card of an exported student: what it is, what it was measured on, and how to use it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scmd.deploy.description import public_name
from scmd.deploy.measured import accuracy_rows, limits
from scmd.deploy.onnx import INT8_FILE, PREPROCESSING
from scmd.files import writing_aside

CARD = "README.md"

_ONNX_USE = """\
```python
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

about = json.load(open("{preprocessing}", encoding="utf-8"))
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
picture = picture.resize([about["image_size"]] * 2, Image.Resampling.BILINEAR)
pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
model = onnxruntime.InferenceSession("{model}")
(logits,) = model.run(None, {{"images": pixels[None]}})
odds = np.exp((logits[0] - logits[0].max()) / about["temperature"])
print(about["classes"][odds.argmax()], odds.max() / odds.sum())
```"""

_TORCH_USE = """\
```python
import torch

model = torch.export.load("{model}").module()
logits = model(images)  # float32 [B, 3, {size}, {size}], RGB from 0 to 1
```

PyTorch does not promise that later versions read this file; it was written by torch {torch}."""


def write_card(folder: Path, about: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write ``README.md``.

    Args:
        folder: The exported folder.
        about: What its ``preprocessing.json`` says.
        summary: The run's ``summary.json``.

    Raises:
        ScmdError: The file cannot be written.
    """
    sections = (
        _what(about, summary),
        _results(summary),
        _use(about),
        _checks(about),
        _limits(summary),
    )
    text = "\n\n".join("\n".join(section) for section in sections) + "\n"
    with writing_aside(folder / CARD) as file:
        file.write(text.encode())


def _what(about: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    student, classes = about["student"], about["classes"]
    yield f"# {student['architecture']}: {len(classes)} classes"
    yield ""
    yield (
        f"An image classifier, trained by scmd with the method `{summary['method']}` (seed "
        f"{summary['seed']}, {summary['steps']:,} steps) on the domains "
        f"{', '.join(summary['sources'])}; {_number(summary, 'train')} training images."
    )
    if teacher := summary.get("teacher"):
        seen = teacher.get("fitted_on_domains")
        told = f", which was fitted on images of {', '.join(seen)}" if seen else ""
        yield f"Its teacher was `{public_name(teacher['name'])}`{told}; it is not needed any more."
    yield ""
    yield f"Classes, in the order of the logits: {', '.join(classes)}."


def _results(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Accuracy"
    yield ""
    yield from accuracy_rows(summary)
    yield ""
    yield (
        "Of the student in PyTorch. A source's holdout was not trained on, but chose the step: its "
        "numbers are a little too high. Intervals are of the drawing of images, not of seeds or "
        "domains."
    )


def _use(about: Mapping[str, Any]) -> Iterator[str]:
    size = about["image_size"]
    yield "## Use"
    yield ""
    yield (
        f"Input: float32 [B, 3, {size}, {size}], RGB from 0 to 1, any B. "
        f"Resize {about['resize']}. Normalisation is inside. Output: logits "
        f"[B, {len(about['classes'])}]; for probabilities, softmax(logits / "
        f"{about['temperature']:.4g}). {PREPROCESSING} has all this for programs."
    )
    yield ""
    form = _ONNX_USE if "opset" in about else _TORCH_USE
    yield form.format(
        preprocessing=PREPROCESSING,
        model=about["model"],
        size=size,
        torch=about["versions"]["torch"],
    )


def _checks(about: Mapping[str, Any]) -> Iterator[str]:
    checked = about["check"]
    yield "## Checked"
    yield ""
    yield (
        f"`{about['model']}` against PyTorch, on {checked['images']:,} held-out images of the "
        f"sources: a logit differs by at most {checked['largest_difference']:.2g} (tolerance "
        f"{checked['tolerance']:.2g}); {checked['agreement']:,} of the predictions agree."
    )
    if int8 := about.get("int8"):
        yield ""
        yield (
            f"`{INT8_FILE}` (static quantisation, weights per channel, calibrated on "
            f"{int8['calibration_images']:,} training images) on the same images: accuracy "
            f"{int8['accuracy']:.3f}, in fp32 {int8['accuracy_fp32']:.3f}; {int8['lost']:,} became "
            f"wrong, {int8['won']:,} right, {int8['agreement']:,} predictions agree. Measured on "
            f"{platform.machine()}; a CPU without 8-bit dot products may lose more."
        )
    if benchmark := about.get("benchmark"):
        yield ""
        yield "| | MB | ms an image (median) | fastest – slowest |"
        yield "|---|--:|--:|--:|"
        for name, row in benchmark.items():
            low, high = row["latency_ms_range"]
            yield (
                f"| {name} | {row['megabytes']:.2f} | {row['latency_ms']:.2f} | "
                f"{low:.2f} – {high:.2f} |"
            )
        yield ""
        yield f"One image at a time, one thread of the CPU ({platform.machine()}) that exported it."
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    yield ""
    yield f"Written with {versions}{_opset(about)}."


def _limits(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield from limits(summary)


def _number(summary: Mapping[str, Any], split: str) -> str:
    return f"{summary['images'][split]:,}"


def _opset(about: Mapping[str, Any]) -> str:
    return f"; ONNX opset {about['opset']}" if "opset" in about else ""
