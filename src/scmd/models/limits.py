"""Networks that other people describe: no larger than the weights that come with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from scmd import limits
from scmd.errors import ScmdError

SLACK = 2**26
"""Elements beyond the weights: masks, tables of positions, an image to try the network with."""
LEAST = 2**14
"""What a tensor counts for at least, so that a network of a billion tiny parts ends as well."""
MOST_PIXELS = limits.MOST_PIXELS
"""Largest side of an input, in pixels, that a file of other people may ask for: a run's own."""


@contextmanager
def no_larger_than(elements: int, description: object) -> Iterator[None]:
    """Build a network inside, and stop before it takes more memory than its weights explain.

    Args:
        elements: How many numbers the weights have; of a file whose format is not known, its
            size in bytes.
        description: The file that the network is described in, for the message.

    Raises:
        ScmdError: Tensors of more than twice as many elements, and ``SLACK``, are asked for.
    """
    with _Counted(2 * elements + SLACK, description):
        yield


class _Counted(TorchFunctionMode):
    """Adds up what torch is asked to make, before it makes it."""

    def __init__(self, left: int, description: object) -> None:
        super().__init__()
        self.left, self.description = left, description

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ELEMENTS:
            self.left -= max(LEAST, _ELEMENTS[func](args, kwargs))
            if self.left < 0:
                raise ScmdError(
                    f"{self.description} describes a network that is larger than the weights "
                    "beside it. Restore both files"
                )
        return func(*args, **kwargs)


def _of_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    given = list(args) or [kwargs.get("size", [])]
    shape = given[0] if isinstance(given[0], Sequence) else given
    return math.prod(side for side in shape if isinstance(side, int))


def _of_full(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return _of_shape(args[:1], kwargs)


def _of_range(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    numbers = [x for x in (*args, *kwargs.values()) if isinstance(x, int | float)]
    return int(max(map(abs, numbers), default=0))


def _of_eye(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    sides = [side for side in (*args, *kwargs.values()) if type(side) is int]
    return sides[0] * sides[-1] if sides else 0


_ELEMENTS = {
    torch.empty: _of_shape,
    torch.zeros: _of_shape,
    torch.ones: _of_shape,
    torch.rand: _of_shape,
    torch.randn: _of_shape,
    torch.full: _of_full,
    torch.arange: _of_range,
    torch.linspace: _of_range,
    torch.eye: _of_eye,
}
