"""What this machine can do at best: the rates that a step's are compared with."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

REPEATS = 5


def best_rates(side: int = 2048) -> dict[str, float]:
    """FLOPs per second of a large matrix product and of a large convolution, best of five.

    Args:
        side: Of the matrices.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    images = torch.rand(32, 256, 28, 28, device=device, dtype=dtype)
    kernels = torch.rand(256, 256, 3, 3, device=device, dtype=dtype)
    images, kernels = (t.contiguous(memory_format=torch.channels_last) for t in (images, kernels))
    return {
        "matrix product": 2 * side**3 / _seconds(lambda: a @ b),
        "convolution": 2 * 32 * 28 * 28 * 256 * 256 * 9
        / _seconds(lambda: torch.nn.functional.conv2d(images, kernels, padding=1)),
    }  # fmt: skip


def description() -> str:
    """The machine in a line: processor, cores, memory, GPU, and torch's version."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
    processor = names[0] if names else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{memory:.0f} GiB{gpu}, torch {torch.__version__}"
    )


def _seconds(call) -> float:
    def once() -> float:
        began = time.perf_counter()
        done: Tensor = call()
        if done.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.inference_mode():
        return min(once() for _ in range(REPEATS))
