"""A student as a program that needs none of this package: ONNX, or PyTorch's exported program."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scmd.deploy.classifier import Classifier
from scmd.deploy.onnx import INPUT, ONNX_FILE, OUTPUT, open_session, require_onnx
from scmd.errors import ScmdError

Format = Literal["onnx", "torch"]
OPSET = 18
"""ONNX operators' version: what torch's exporter produces without converting."""
TORCH_FILE = "model.pt2"
FILES: dict[Format, str] = {"onnx": ONNX_FILE, "torch": TORCH_FILE}


def write_program(model: Classifier, form: Format, file: Path) -> None:
    """Write a student as a graph from images [B, 3, size, size] in [0, 1] to logits [B, C].

    Normalisation is inside; B is free. ONNX is written by ``torch.onnx.export`` (from
    ``torch.export``), in one file.

    Raises:
        ScmdError: The packages for ONNX are missing, or torch cannot export the architecture.
        OSError: The file cannot be written.
    """
    size = model.image_size
    # Two, as torch takes a size of one for a constant.
    example = torch.zeros(2, 3, size, size)
    plain = model.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = {INPUT: {0: torch.export.Dim("batch")}}
    if form == "onnx":
        require_onnx("onnx", "onnxscript", "onnxruntime")
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(plain, (example,), dynamic_shapes=batch)
            for node in program.graph.nodes:  # paths of this machine
                node.meta.pop("stack_trace", None)
            if form == "torch":
                # In memory first: where the disk is full, torch's own writer ends the process.
                content = io.BytesIO()
                torch.export.save(program, content)
                file.write_bytes(content.getbuffer())
                return
            exported = torch.onnx.export(
                program,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes=batch,
                dynamo=True,
                verbose=False,
            )
            assert exported is not None
            exported.save(file, external_data=False)
    except OSError:  # of the disk
        raise
    except Exception as error:  # whatever an architecture's forward makes of tracing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScmdError(
            f"torch cannot export {model.description['architecture']!r} to {form}: {reason}"
        ) from error


def open_program(file: Path, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """A written program as a function from images to logits, on the CPU.

    Raises:
        ScmdError: The file cannot be read.
    """
    if file.name != TORCH_FILE:
        session = open_session(file, threads)
        return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
    with _quiet():
        module = torch.export.load(file).module()
    return lambda images: module(images)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report steps and advise on parts of torch that are not ours."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
