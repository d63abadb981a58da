"""Workers fill shared memory; what is yielded is whole, in order and nobody else's."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from scmd.data.workers import AHEAD, filled
from scmd.errors import BadImageError, ScmdError

SIZE = 6


def fill(items: list[int], images: Tensor) -> list[int]:
    for place, item in enumerate(items):
        images[place] = item
    return [2 * item for item in items]


def fill_slowly(items: list[int], images: Tensor) -> list[int]:
    if items[0] % 3 == 0:
        time.sleep(0.02)
    return fill(items, images)


def refuse(items: list[int], images: Tensor) -> list[int]:
    if items[0] == 4:
        raise BadImageError("no image 4")
    return fill(items, images)


def check(images: Tensor, said: list[int], items: list[int]) -> None:
    assert images.shape == (len(items), 3, SIZE, SIZE)
    assert images.dtype == torch.uint8
    assert said == [2 * item for item in items]
    assert images.flatten(1).unique(dim=1).flatten().tolist() == items


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_batches_come_in_order_and_are_not_overwritten(workers, pause):
    plans = [[step, step + 100] for step in range(6 * AHEAD * max(workers, 1))]
    kept = []
    for images, said in filled(fill_slowly, plans, SIZE, workers):
        time.sleep(pause / max(workers, 1))  # the workers come as far ahead as they may
        kept.append((images, said))
    for (images, said), items in zip(kept, plans, strict=True):
        check(images, said, items)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_need_not_be_of_a_size(workers):
    plans = [[1, 2], [3], [4, 5, 6], [], [7, 8], [9]]
    for (images, said), items in zip(filled(fill, plans, SIZE, workers), plans, strict=True):
        assert len(images) == len(items)
        if items:
            check(images, said, items)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_to_make(workers):
    assert list(filled(fill, [], SIZE, workers)) == []


def test_too_little_shared_memory_is_said_with_a_way_out(monkeypatch):
    def full(_: Tensor) -> Tensor:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_7>: "
            "No space left on device (28)"
        )

    monkeypatch.setattr(Tensor, "share_memory_", full)
    plans = [[1, 2], [3, 4]]
    with pytest.raises(ScmdError) as refused:
        next(filled(fill, plans, 1000, 2))
    said = str(refused.value)
    assert f"{(2 * AHEAD + 1) * 2 * 3 * 1000**2 / 1e6:.0f} MB" in said
    for part in ("No space left on device (28)", "--workers 0", "docker run --shm-size 1g"):
        assert part in said
    assert len(said.splitlines()) == 1
    assert len(list(filled(fill, plans, SIZE, 0))) == len(plans)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_comes_in_its_turn(workers):
    made = filled(refuse, [[step] for step in range(9)], SIZE, workers)
    for step in range(4):
        check(*next(made), [step])
    with pytest.raises(BadImageError, match=r"^no image 4$"):
        next(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_plans_are_asked_for_no_further_than_the_workers_are(workers):
    asked = []

    def plans() -> Iterator[list[int]]:
        for step in range(100):
            asked.append(step)
            yield [step]

    made = filled(fill, plans(), SIZE, workers)
    for step in range(5):
        next(made)
        assert len(asked) <= step + 2 + AHEAD * workers


def test_workers_end_where_the_error_is_kept():
    """With its traceback, and so with the frames that had the loader."""
    others = set(multiprocessing.active_children())
    made = filled(refuse, [[step] for step in range(9)], SIZE, 2)
    next(made)
    assert len(set(multiprocessing.active_children()) - others) == 2
    with pytest.raises(BadImageError) as kept:
        list(made)
    assert set(multiprocessing.active_children()) <= others
    assert kept.value.__traceback__ is not None


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit(0)", "ValueError"])
def test_program_that_ends_by_itself_takes_its_workers_along(raised):
    """Though they hear no signal, and though Python keeps the last traceback."""
    program = f"""
from scmd.data.workers import filled
made = filled(lambda items, images: None, ([n] for n in range(99)), 4, 2)
next(made)
raise {raised}
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode == 0) == (raised == "SystemExit(0)")
    assert "killed" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
