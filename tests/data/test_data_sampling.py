"""What a plan of batches promises, for any data set, batch and seed."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soaking import cases

from scmd.data.folder import load_domains
from scmd.data.loader import DomainBatches, training_batches

MORE = settings(max_examples=cases(60, 600), deadline=None)
Slots = list[tuple[int, int, int, int]]


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Sources of some classes each, of which any but one may be missing, in rows of any order."""
    sizes = st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any)
    domains = draw(st.lists(sizes, min_size=1, max_size=4))
    labels = np.concatenate([np.repeat(np.arange(len(s)), s) for s in domains]).astype(np.int32)
    owner = np.repeat(np.arange(len(domains)), [sum(s) for s in domains])
    order = draw(st.permutations(range(len(labels))))
    labels, owner = labels[order], owner[order]
    return {
        "labels": labels,
        "rows": [np.flatnonzero(owner == domain) for domain in range(len(domains))],
        "per_domain": draw(st.integers(1, 9)),
        "seed": draw(st.integers(0, 2**31)),
        "class_balanced": draw(st.booleans()),
    }


def batches(plan: dict[str, Any], start: int = 0, stop: int = 12, **changed: Any) -> DomainBatches:
    plan = {**plan, **changed}
    data = cast(Any, SimpleNamespace(labels=plan.pop("labels")))
    rows = plan.pop("rows")
    return DomainBatches(data, rows, start=start, stop=stop, **plan)


def drawn(steps: list[Slots], domain: int) -> list[int]:
    """The rows of one domain, in the order in which they are drawn."""
    return [row for step in steps for _, _, row, of in step if of == domain]


def assert_in_passes(rows: list[int], members: set[int]) -> None:
    """Every member once before any comes twice, pass after pass; the last may be cut short."""
    for first in range(0, len(rows), len(members)):
        one = rows[first : first + len(members)]
        assert len(set(one)) == len(one)
        assert set(one) <= members
        assert len(one) < len(members) or set(one) == members


@MORE
@given(plans())
def test_every_domain_has_the_same_share_of_every_batch(plan):
    for number, step in enumerate(batches(plan)):
        assert [slot for _, slot, _, _ in step] == list(range(len(step)))
        assert {s for s, _, _, _ in step} == {number}
        shares = Counter(domain for _, _, _, domain in step)
        assert shares == dict.fromkeys(range(len(plan["rows"])), plan["per_domain"])
        assert all(row in plan["rows"][domain] for _, _, row, domain in step)


@MORE
@given(plans())
def test_every_sample_is_seen_before_any_is_seen_twice(plan):
    steps = list(batches(plan, stop=30, class_balanced=False))
    for domain, rows in enumerate(plan["rows"]):
        assert_in_passes(drawn(steps, domain), set(rows.tolist()))


@MORE
@given(plans())
def test_balanced_over_classes_every_class_is_drawn_equally_often(plan):
    steps = list(batches(plan, stop=30, class_balanced=True))
    for domain, rows in enumerate(plan["rows"]):
        seen = drawn(steps, domain)
        labels = plan["labels"][seen].tolist()
        assert_in_passes(labels, set(plan["labels"][rows].tolist()))
        for label in set(labels):
            members = rows[plan["labels"][rows] == label]
            of_label = [row for row in seen if plan["labels"][row] == label]
            assert_in_passes(of_label, set(members.tolist()))


@MORE
@given(plans(), st.integers(0, 40), st.integers(0, 6))
def test_resumed_at_any_step_it_goes_on_as_it_was(plan, start, more):
    whole = list(batches(plan, stop=start + more))
    assert list(batches(plan, start=start, stop=start + more)) == whole[start:]
    assert list(batches(plan, stop=start + more).starting_at(start)) == whole[start:]


@MORE
@given(plans(), st.integers(1, 4), st.integers(1, 4))
def test_processes_share_what_one_would_see(plan, number, each):
    """Together, in the order of the slots, their shares are the batch; they are of one size."""
    plan["per_domain"] = number * each
    whole = list(batches(plan, stop=5))
    shares = [list(batches(plan, stop=5, process=(index, number))) for index in range(number)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {len(step) // number}
        assert sorted(slot for part in parts for slot in part) == step
        for part in parts:
            assert part == sorted(part)
            assert set(Counter(domain for *_, domain in part).values()) == {each}


@settings(max_examples=cases(20, 300), deadline=None)
@given(plans(), st.integers(0, 2**31))
def test_seed_alone_decides(plan, other):
    np.random.seed(other % 2**32)
    torch.manual_seed(other)
    first = list(batches(plan))
    np.random.seed(0)
    assert list(batches(plan)) == first
    rows = plan["rows"][0]
    if len(rows) > 5 and other != plan["seed"]:
        long = [drawn(list(batches(plan, stop=40, seed=s)), 0) for s in (plan["seed"], other)]
        assert long[0] != long[1]


@MORE
@given(plans())
def test_another_source_changes_nothing_in_those_before_it(plan):
    alone = {**plan, "rows": plan["rows"][:1]}
    assert drawn(list(batches(alone)), 0) == drawn(list(batches(plan)), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("sampling")
    pixels = np.random.default_rng(0)
    for domain, sizes in {"a": (3, 5), "b": (1, 2), "c": (4, 1)}.items():
        for label, n in zip(("cat", "dog"), sizes, strict=True):
            (root / domain / label).mkdir(parents=True)
            for index in range(n):
                noise = pixels.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / domain / label / f"{index}.png")
    return load_domains(root)


@settings(max_examples=cases(4, 30), deadline=None)
@given(
    seed=st.integers(0, 2**31),
    start=st.integers(0, 5),
    each=st.integers(1, 2),
    processes=st.integers(1, 3),
    workers=st.integers(1, 3),
    balanced=st.booleans(),
)
def test_loaded_batches_are_the_same_with_any_workers_processes_and_start(
    folder, seed, start, each, processes, workers, balanced
):
    rows = [folder.rows(domain) for domain in folder.domains]

    def load(start: int, workers: int, process: tuple[int, int]) -> list:
        steps = DomainBatches(
            folder, rows, each * processes, seed, start, 6, balanced, process=process
        )
        return list(training_batches(steps, folder, 8, seed, workers, False))

    whole = load(0, 0, (0, 1))[start:]
    for index in range(processes):
        share = load(start, workers, (index, processes))
        assert len(share) == len(whole)
        for one, other in zip(share, whole, strict=True):
            for part, same in zip(one, other, strict=True):
                assert torch.equal(part, same[index::processes])
