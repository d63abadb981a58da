"""One network from several runs: the mean of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scmd.errors import ScmdError


def soup(state_dicts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The uniform soup: the mean of every tensor, running statistics of batch norm included.

    Whole numbers, as batch norm's counters are, are the first run's. The mean of networks is a
    good network only where they are near each other: train them from the same initial weights,
    classifier included, at small learning rates.

    Source: Ramé et al., "Diverse Weight Averaging for Out-of-Distribution Generalization" (DiWA),
    NeurIPS 2022, arXiv:2205.09739, its uniform variant.

    Args:
        state_dicts: At least one; of runs with the same student and method. They stay as they are.

    Raises:
        ScmdError: There is none; or one lacks a tensor of the first, has one more, or has it in
            another shape or type.
    """
    if not state_dicts:
        raise ScmdError("there are no weights to average. Give those of at least one run")
    first, *others = state_dicts
    for number, other in enumerate(others, 2):
        _check(first, other, number)
    return {
        name: (
            torch.stack([state[name].to(value.device).double() for state in state_dicts])
            .mean(0)
            .to(value.dtype)
            if value.is_floating_point()
            else value.clone()
        )
        for name, value in first.items()
    }


def _check(first: Mapping[str, Tensor], other: Mapping[str, Tensor], number: int) -> None:
    way_out = "Average runs of the same student and method only"
    for name in (*first, *(name for name in other if name not in first)):
        if name not in first or name not in other:
            has, lacks = (1, number) if name in first else (number, 1)
            raise ScmdError(f"weights {has} have {name!r}, weights {lacks} do not. {way_out}")
        mine, its = (
            f"{list(state[name].shape)} {str(state[name].dtype).removeprefix('torch.')}"
            for state in (first, other)
        )
        if mine != its:
            raise ScmdError(
                f"{name!r} is {mine} in weights 1, {its} in weights {number}. {way_out}"
            )
