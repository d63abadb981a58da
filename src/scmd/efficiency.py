"""What a network costs: parameters, FLOPs, bytes and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.inference_mode()
def cost(
    network: nn.Module, predict: Callable[[Tensor], Tensor], size: int, repeats: int = 20
) -> dict[str, Any]:
    """The cost of one image, on the device that the network is on.

    Args:
        network: Whose parameters count.
        predict: Maps float images [1, 3, size, size] to logits.
        size: Side of the input in pixels.
        repeats: Timed calls, after three that are not counted.

    Returns:
        ``parameters``; ``flops`` (of one image; a multiplication and an addition are two);
        ``megabytes`` (of the parameters as they are stored); ``latency_ms`` (median, batch of
        one) and ``latency_ms_range``.
    """
    device = next(network.parameters()).device
    image = torch.rand(1, 3, size, size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    with plain_attention(), FlopCounterMode(display=False) as counter:
        predict(image)
    parameters = list(network.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "flops": counter.get_total_flops(),
        "megabytes": sum(p.numel() * p.element_size() for p in parameters) / 1e6,
        **latency(predict, image, repeats),
    }


@torch.inference_mode()
def latency(
    predict: Callable[[Tensor], Tensor], image: Tensor, repeats: int = 20
) -> dict[str, Any]:
    """How long a call takes: ``latency_ms`` (median) and ``latency_ms_range``.

    Args:
        predict: What is called.
        image: Its argument; a GPU that it is on is waited for.
        repeats: Timed calls, after three that are not counted.
    """
    times = []
    for repeat in range(repeats + 3):
        _synchronize(image.device)
        start = time.perf_counter()
        predict(image)
        _synchronize(image.device)
        if repeat >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return {"latency_ms": statistics.median(times), "latency_ms_range": [min(times), max(times)]}


@contextmanager
def plain_attention() -> Iterator[None]:
    """The counter of FLOPs knows matrix products, and not every fused kernel of attention."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
