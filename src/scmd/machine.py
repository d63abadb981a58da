"""The machine: its allocator, its devices and processes."""

from __future__ import annotations

import ctypes
import os
import platform
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from scmd.errors import ScmdError

PATIENCE = timedelta(hours=6)
"""How long processes wait for each other: the first one scores alone, and that may take long."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Let glibc's allocator keep freed memory; elsewhere nothing happens.

    By default it maps every large tensor anew and gives it back to the system at once; on virtual
    machines, where page faults are dear, that can take as long as the computation.

    Returns:
        Whether the allocator took the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    taken = [mallopt(option, value) == 1 for option, value in settings]
    return all(taken)


Tracker = Literal["none", "tensorboard", "mlflow", "wandb", "trackio"]


Precision = Literal["auto", "fp32", "bf16", "fp16"]
SMALL_IMAGES = 112
"""Pixels below which a CPU spends its time on other things than multiplying."""


def chosen_precision(
    precision: Precision, device: torch.device, image_size: int
) -> Literal["fp32", "bf16", "fp16"]:
    """What ``auto`` comes to: bf16 where the hardware multiplies in it, fp32 elsewhere.

    That is a GPU with bf16, and a CPU with AVX-512 BF16 or AMX where images are not small.

    Args:
        precision: What was asked for; all but ``auto`` is returned as it is.
        device: Where it is computed.
        image_size: Side of the images in pixels.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities()
    fast = device.type == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if fast and image_size >= SMALL_IMAGES else "fp32"


def open_accelerator(
    precision: Precision,
    device: Literal["auto", "cpu"],
    tracker: Tracker = "none",
    folder: Path | None = None,
    image_size: int = SMALL_IMAGES,
) -> Accelerator:
    """Devices, processes, precision and tracker of a run.

    Args:
        precision: Of the forward passes; see ``chosen_precision``.
        device: ``auto`` is a GPU where there is one.
        tracker: Where numbers go besides the run's own log.
        folder: Where trackers that write files put them.
        image_size: Side of the images in pixels.

    Raises:
        ScmdError: The device cannot compute in that precision, there are fewer GPUs here than
            processes, or the tracker is not installed.
    """
    if tracker != "none" and tracker not in map(str, get_available_trackers()):
        raise ScmdError(
            f"--tracker {tracker}: its package is not installed. pip install {tracker}, or leave "
            "the option out"
        )
    # Accelerate keeps its state for the life of the process and refuses a second run that wants
    # another precision or device.
    AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    where = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
    assert where is not None
    if not on_cpu:
        _require_a_gpu_for_each_process()
    precision = chosen_precision(precision, where, image_size)
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=on_cpu,
            log_with=None if tracker == "none" else tracker,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        if precision == "fp16" and accelerator.device.type == "cpu":
            raise ValueError("fp16 needs a GPU")
    except ValueError as error:
        raise ScmdError(
            f"--precision {precision} cannot be had on this device: {error}. Pass --precision fp32"
        ) from error
    return accelerator


def _require_a_gpu_for_each_process() -> None:
    """Two processes on one GPU would end in NCCL, with a message about something else."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.accelerator.device_count()
    if processes > gpus:
        raise ScmdError(
            f"{processes} processes and {gpus} GPU{'s' if gpus > 1 else ''} on this machine: each "
            f"process needs one of its own. Start torchrun with --nproc-per-node {gpus}, or train "
            "with --device cpu"
        )
