"""What runs of one process share changes how long they take, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from toys import CLASSES, ToyBackbone, ToyTeacher, make_batch

import scmd.cache as cache
import scmd.data.loader as loader
import scmd.data.reading as reading
from scmd.cache import Shared
from scmd.data.augment import Augmentation, AugmentationName
from scmd.data.folder import DomainImages, load_domains
from scmd.data.loader import Batch, DomainBatches
from scmd.data.transforms import training_transform
from scmd.errors import ScmdError
from scmd.methods import METHODS
from scmd.models.teacher import TeacherConfig

STEPS, SIZE, PER_DOMAIN = 6, 16, 3
BATCH = 2 * PER_DOMAIN * 3 * SIZE * SIZE
"""Bytes of a batch's images."""


@pytest.fixture
def data(image_folder) -> DomainImages:
    return load_domains(image_folder(("art", "photo", "sketch"), count=4))


class Reads:
    """Counts how often an image file is decoded."""

    def __init__(self) -> None:
        self.count = 0

    def since(self) -> int:
        """Since the last time that it was asked."""
        found, self.count = self.count, 0
        return found


@pytest.fixture
def reads(monkeypatch) -> Reads:
    counter, read = Reads(), reading.read_image

    def counting(path: Path, shorter_side: int | None = None) -> Any:
        counter.count += 1
        return read(path, shorter_side)

    monkeypatch.setattr(reading, "read_image", counting)
    return counter


def asked(
    data: DomainImages,
    domains: tuple[str, ...] = ("art", "photo"),
    start: int = 0,
    stop: int = STEPS,
    seed: int = 0,
    size: int = SIZE,
    flip: bool = True,
    balanced: bool = False,
    per_domain: int = PER_DOMAIN,
    process: tuple[int, int] = (0, 1),
    augmentation: AugmentationName = "tensor",
) -> tuple:
    """The arguments of ``training_batches``."""
    rows = [data.rows(domain) for domain in domains]
    batches = DomainBatches(data, rows, per_domain, seed, start, stop, balanced, process)
    return batches, data, size, seed, 0, False, flip, None, augmentation


def same(found: Iterator[Batch], data: DomainImages, **changes: Any) -> bool:
    expected = list(loader.training_batches(*asked(data, **changes)))
    pairs = list(itertools.zip_longest(found, expected))
    return all(
        x.dtype == y.dtype and torch.equal(x, y)
        for a, b in pairs
        for x, y in zip(a, b, strict=True)
    )


def test_replayed_batches_are_the_loaders(data, reads):
    shared = Shared()
    for expected in (STEPS * 2 * PER_DOMAIN, 0, 0):
        found = list(shared.training_batches(*asked(data)))
        assert reads.since() == expected
        assert same(iter(found), data)
        reads.since()


OTHERS: list[dict[str, Any]] = [
    {"domains": ("art", "sketch")}, {"domains": ("photo", "art")}, {"seed": 1}, {"size": 24},
    {"flip": False}, {"balanced": True}, {"per_domain": 2}, {"process": (1, 3)},
    {"augmentation": "torchvision"},
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_batches_of_another_kind_are_not_mixed_up(data, other):
    shared = Shared()
    for changes in ({}, other, {}, other):
        assert same(shared.training_batches(*asked(data, **changes)), data, **changes)


def test_other_data_with_the_same_names_is_not_mixed_up(image_folder, write_image):
    domains = ("art", "photo")
    folders = [image_folder(domains, count=4, name=name) for name in ("a", "b")]
    for path in folders[1].rglob("*.png"):
        write_image(path, size=20)
    first, second = (load_domains(folder) for folder in folders)
    assert (first.ids == second.ids).all()
    relabelled = replace(first, labels=1 - first.labels)
    shared = Shared()
    for data in (first, second, relabelled, first):
        assert same(shared.training_batches(*asked(data)), data)
        found = list(shared.evaluation_batches(data, data.rows("art"), SIZE, 4, 0))
        expected = list(loader.evaluation_batches(data, data.rows("art"), SIZE, 4, 0))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("starts", itertools.product((0, 2, 5, STEPS), repeat=2))
def test_a_run_may_begin_at_any_step(data, starts):
    """Resumed in the middle, before or after another that began elsewhere."""
    shared = Shared()
    for start in (*starts, 0, 3):
        assert same(shared.training_batches(*asked(data, start=start)), data, start=start)


def test_batches_whose_colours_are_changed_later_are_kept_as_they_came(data, reads, monkeypatch):
    """As for a GPU, which gets the same images whether they were kept or not."""
    monkeypatch.setattr(cache, "colours_on", lambda *_: True)
    shared = Shared()
    first = list(shared.training_batches(*asked(data)))
    reads.since()
    again = list(shared.training_batches(*asked(data)))
    assert reads.since() == 0
    pairs = zip(first, again, strict=True)
    assert all(torch.equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True))
    assert same(iter(again), data)


def test_decoded_images_are_asked_for_once(data, monkeypatch):
    made: list[tuple] = []

    def decode_once(*given: Any) -> None:
        made.append(given[1:3])

    monkeypatch.setattr(cache, "decode_once", decode_once)
    shared, quiet = Shared(), Console(quiet=True)
    for side in (23, 23, None, None, 23):
        assert shared.decoded(data, side, SIZE, quiet) is None
    assert made == [(23, SIZE), (None, SIZE)]


def test_runs_of_different_length_share_what_both_have(data, reads):
    shared = Shared()
    list(shared.training_batches(*asked(data, stop=2)))
    assert reads.since() == 2 * 2 * PER_DOMAIN
    found = list(shared.training_batches(*asked(data)))
    assert reads.since() == (STEPS - 2) * 2 * PER_DOMAIN
    assert same(iter(found), data)
    assert same(shared.training_batches(*asked(data, stop=3)), data, stop=3)


def test_a_run_that_ends_early_leaves_what_it_had(data, reads):
    shared = Shared()
    broken = shared.training_batches(*asked(data))
    for _ in range(2):
        next(broken)
    broken.close()  # type: ignore[attr-defined]
    reads.since()
    found = list(shared.training_batches(*asked(data)))
    assert reads.since() <= (STEPS - 1) * 2 * PER_DOMAIN
    assert same(iter(found), data)


@pytest.mark.parametrize("fit", [0, 2, STEPS - 1])
def test_what_does_not_fit_is_made_anew(data, reads, fit):
    shared = Shared(fit * BATCH + BATCH // 2)
    for made in (STEPS, STEPS - fit, STEPS - fit):
        found = list(shared.training_batches(*asked(data)))
        assert reads.since() == made * 2 * PER_DOMAIN
        assert same(iter(found), data)
        reads.since()


def test_batches_wanted_longest_ago_make_room(data, reads):
    shared = Shared(2 * STEPS * BATCH)  # of two kinds of three

    def read(seed: int) -> int:
        list(shared.training_batches(*asked(data, seed=seed)))
        return reads.since()

    everything = STEPS * 2 * PER_DOMAIN
    assert (read(0), read(1)) == (everything, everything)
    assert read(0) == 0  # and now seed 1 is the longest unused
    assert read(2) == everything
    assert read(0) == 0
    assert read(1) == everything


def test_never_more_than_the_limit_is_kept(data):
    shared = Shared(3 * BATCH)
    for seed in (0, 1, 0, 2):
        for _ in shared.training_batches(*asked(data, seed=seed)):
            kept = [one for steps in shared._training.values() for one in steps.values()]
            assert sum(one.batch.images.nbytes for one in kept) <= 3 * BATCH


@pytest.mark.parametrize("name", METHODS)
def test_no_method_changes_a_batch(name):
    """Or the next run would be given another one."""
    torch.manual_seed(0)
    needs = METHODS[name].needs_teacher
    method = METHODS[name](ToyBackbone(), ToyTeacher() if needs else None, None, CLASSES, 2)
    batch, untouched = make_batch(), make_batch()
    for progress in (0.0, 0.3, 0.9):
        try:
            output = method(batch, progress)
        except ScmdError as error:  # it wants a network with layers
            pytest.skip(str(error))
        output["loss"].backward()  # type: ignore[union-attr]
        method.after_step()
    assert all(torch.equal(a, b) for a, b in zip(batch, untouched, strict=True))


def scored(shared: Shared, data: DomainImages, rows: np.ndarray, **changes: Any) -> bool:
    arguments = (data, rows, changes.get("size", SIZE), changes.get("batch_size", 5), 0)
    arguments = (*arguments, changes.get("transform"))
    found = list(shared.evaluation_batches(*arguments))
    expected = list(loader.evaluation_batches(*arguments))
    pairs = zip(found, expected, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_scored_images_are_decoded_once(data, reads):
    shared, rows = Shared(), data.rows("art")
    for expected in (len(rows), 0, 0):
        list(shared.evaluation_batches(data, rows, SIZE, 5, 0))
        assert reads.since() == expected
    assert scored(shared, data, rows)


def test_scored_images_of_another_kind_are_not_mixed_up(data):
    shared, rows = Shared(), data.rows("art")
    others: list[dict[str, Any]] = [
        {"size": 24}, {"batch_size": 3}, {"transform": training_transform(SIZE, True)},
        {"transform": Augmentation(SIZE)}, {"transform": Augmentation(SIZE, False)},
    ]  # fmt: skip
    for _ in range(2):
        assert scored(shared, data, rows)
        assert scored(shared, data, data.rows("photo"))
        assert scored(shared, data, rows[::-1].copy())
        assert all(scored(shared, data, rows, **other) for other in others)


def test_a_transform_is_applied_every_time(data, reads):
    """Its result is not kept: it may be large, and which one it was cannot be told."""
    shared, rows = Shared(), data.rows("art")
    transform = training_transform(SIZE, True)
    for _ in range(2):
        list(shared.evaluation_batches(data, rows, SIZE, 5, 0, transform))
        assert reads.since() == len(rows)
    assert scored(shared, data, rows, transform=transform)


def test_scored_images_that_do_not_fit_are_made_anew(data, reads):
    art, photo = data.rows("art"), data.rows("photo")
    size = len(art) * 3 * SIZE * SIZE
    shared = Shared(size + size // 2)  # of one domain
    for rows, counts in ((art, (8, 0)), (photo, (8, 8)), (art, (0, 0))):
        for count in counts:
            list(shared.evaluation_batches(data, rows, SIZE, 5, 0))
            assert reads.since() == count
        assert scored(shared, data, rows)
        reads.since()


def test_scoring_that_broke_leaves_nothing_incomplete(data):
    shared, rows = Shared(), data.rows("art")
    next(shared.evaluation_batches(data, rows, SIZE, 3, 0))
    assert scored(shared, data, rows, batch_size=3)
    assert scored(shared, data, rows, batch_size=3)


def test_a_teacher_is_loaded_once_for_its_classes(monkeypatch):
    loaded = []

    def load(config: TeacherConfig, classes: tuple[str, ...]) -> object:
        loaded.append((config.name, classes))
        return SimpleNamespace(answers=None)

    monkeypatch.setattr(cache, "load_teacher", load)
    shared = Shared()
    wanted = [("a", ("x", "y")), ("b", ("x", "y")), ("a", ("y", "x"))]
    first = [shared.teacher(TeacherConfig(name), classes) for name, classes in wanted]
    again = [shared.teacher(TeacherConfig(name), classes) for name, classes in wanted]
    assert loaded == wanted
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert len({id(teacher.answers) for teacher in first}) == len(wanted)


def test_a_run_by_itself_keeps_no_answers(monkeypatch):
    monkeypatch.setattr(cache, "load_teacher", lambda *_: SimpleNamespace(answers=None))
    assert Shared(0).teacher(TeacherConfig("a"), ("x",)).answers is None


def test_a_value_is_made_once_even_where_it_is_none():
    made: list[int] = []
    shared = Shared()
    for _ in range(3):
        assert shared.once("key", lambda: made.append(1)) is None
    assert len(made) == 1
