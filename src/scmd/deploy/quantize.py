"""An ONNX model in int8: onnxruntime's static quantisation, calibrated on source images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scmd.deploy.onnx import INPUT, require_onnx
from scmd.errors import ScmdError
from scmd.models.images import as_float

_BATCH = 32


def quantize(model: Path, out: Path, images: Tensor) -> None:
    """Write a model whose weights and activations are 8-bit integers.

    The graph keeps its float input and output. Weights are int8 with a scale per output channel,
    activations uint8 with the range that they have on ``images`` (minimum and maximum), in the
    QDQ format: pairs of QuantizeLinear and DequantizeLinear that the runtime fuses.

    Source: onnxruntime's guide to quantisation for CPUs. On a CPU without 8-bit dot products
    (x86 before AVX-VNNI or AVX512-VNNI) sums of this form may saturate.

    Args:
        model: The ONNX file in float32.
        out: The file to write.
        images: What to calibrate on, uint8 or float in [0, 1]: [N, 3, H, W].

    Raises:
        ScmdError: A package is missing, or onnxruntime cannot quantise the model.
        OSError: The file cannot be written.
    """
    require_onnx("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(model), str(prepared))
            quantize_static(
                prepared,
                out,
                _reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except OSError:  # of the disk
            raise
        except Exception as error:  # whatever an operator of some architecture meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ScmdError(
                f"onnxruntime cannot quantise this student: {reason}. Export without --int8"
            ) from error


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Batches of the images, once."""

        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(images.split(_BATCH))

        def get_next(self) -> Any:
            """The next batch, or None."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: np.ascontiguousarray(as_float(batch))}

    return Reader()


@contextmanager
def _quiet():
    """The quantiser advises on the root logger what has been done already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
