from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from scmd.data.augment import Augmentation, AugmentationName
from scmd.data.folder import load_domains
from scmd.data.loader import (
    Batch,
    DomainBatches,
    Stream,
    check_divisible,
    colours_on,
    evaluation_batches,
    load_batches,
    training_batches,
)
from scmd.errors import BadImageError, ScmdError

SIZE = 8


@pytest.fixture
def data(image_folder):
    """Domains of 10, 4 and 7 images, with classes of unequal size."""
    count = {
        ("a", "cat"): 7,
        ("a", "dog"): 3,
        ("b", "cat"): 2,
        ("b", "dog"): 2,
        ("c", "cat"): 1,
        ("c", "dog"): 6,
    }
    return load_domains(image_folder(("a", "b", "c"), count=count, size=12))


def plan(data, per_domain=3, seed=0, start=0, stop=12, **options) -> DomainBatches:
    rows = [data.rows(domain) for domain in data.domains]
    return DomainBatches(data, rows, per_domain, seed, start, stop, **options)


def batches(
    data, workers=0, seed=0, augmentation: AugmentationName = "tensor", **options
) -> list[Batch]:
    steps = plan(data, seed=seed, **options)
    return list(
        training_batches(steps, data, SIZE, seed, workers, False, augmentation=augmentation)
    )


def drawn(batches: DomainBatches, domain: int) -> list[int]:
    """The rows that one domain's stream yields, in order."""
    return [row for step in batches for _, _, row, of in step if of == domain]


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        for part, same in zip(one, other, strict=True):
            assert torch.equal(part, same)


def whole_passes(rows: list[int], n: int) -> list[list[int]]:
    return [rows[first : first + n] for first in range(0, len(rows) - n + 1, n)]


@pytest.mark.parametrize("n", [1, 2, 13])
def test_stream_yields_every_item_once_per_pass(n):
    stream = Stream(n, (0, 1))
    for first in range(0, 4 * n, n):
        assert sorted(stream[first + place] for place in range(n)) == list(range(n))


def test_stream_shuffles_each_pass_anew():
    stream = Stream(50, (0,))
    passes = {tuple(stream[50 * index + place] for place in range(50)) for index in range(5)}
    assert len(passes) == 5


def test_stream_can_be_entered_anywhere():
    straight = Stream(7, (3,))
    forward = [straight[position] for position in range(60)]
    assert [Stream(7, (3,))[position] for position in reversed(range(60))] == forward[::-1]


def test_every_sample_once_before_any_twice(data):
    batches = plan(data, stop=40)
    for domain, name in enumerate(data.domains):
        rows = data.rows(name)
        passes = whole_passes(drawn(batches, domain), len(rows))
        assert len(passes) > 3
        assert all(sorted(one) == rows.tolist() for one in passes)


def test_class_balanced_draws_every_class_equally_and_every_sample_of_it_once(data):
    batches = plan(data, stop=40, class_balanced=True)
    for domain in range(3):
        rows = np.array(drawn(batches, domain))
        labels = data.labels[rows]
        for pair in whole_passes(labels.tolist(), 2):
            assert sorted(pair) == [0, 1]
        for label in range(2):
            members = np.flatnonzero((data.labels == label) & (data.domain_index == domain))
            passes = whole_passes(rows[labels == label].tolist(), len(members))
            assert len(passes) > 3
            assert all(sorted(one) == members.tolist() for one in passes)


def test_class_balanced_passes_over_a_class_that_a_domain_lacks(image_folder):
    root = image_folder(("a", "b"), ("cat", "dog", "fox"), {("a", "fox"): 0})
    data = load_domains(root, "union")
    batches = plan(data, per_domain=2, stop=30, class_balanced=True)
    counts = np.bincount(data.labels[drawn(batches, 0)], minlength=3)
    assert counts.tolist() == [30, 30, 0]


@pytest.mark.parametrize("class_balanced", [False, True])
def test_every_domain_has_its_share_of_every_batch(data, class_balanced):
    for batch in batches(data, stop=5, class_balanced=class_balanced):
        assert batch.domains.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_batch_holds_what_the_data_set_says(data):
    row_of = {int(sample): row for row, sample in enumerate(data.ids)}
    for batch in batches(data, stop=4):
        assert batch.images.shape == (9, 3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == batch.domains.dtype == batch.sample_ids.dtype == torch.int64
        rows = [row_of[sample] for sample in batch.sample_ids.tolist()]
        assert batch.labels.tolist() == data.labels[rows].tolist()
        assert batch.domains.tolist() == data.domain_index[rows].tolist()


def test_domains_are_counted_among_the_sources(data):
    sources = [data.rows("b"), data.rows("c")]
    for step in DomainBatches(data, sources, 2, seed=0, start=0, stop=3):
        for _, _, row, domain in step:
            assert data.domain_index[row] == domain + 1


@pytest.mark.parametrize("augmentation", ["tensor", "torchvision"])
def test_number_of_workers_changes_nothing(data, augmentation):
    expected = batches(data, augmentation=augmentation)
    assert_equal(batches(data, workers=1, augmentation=augmentation), expected)
    assert_equal(batches(data, workers=2, augmentation=augmentation), expected)


def test_number_of_threads_changes_nothing(data):
    expected, threads = batches(data, stop=3), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_equal(batches(data, stop=3), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_augmentations_see_other_views_of_the_same_images(data):
    ours, theirs = batches(data), batches(data, augmentation="torchvision")
    assert_equal(
        [b._replace(images=b.labels) for b in ours], [b._replace(images=b.labels) for b in theirs]
    )
    assert not any(torch.equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_colours_may_be_changed_later(data, workers):
    """As on a GPU: the same images, to rounding."""
    how = Augmentation(SIZE)
    loaded = load_batches(plan(data), data, how, 0, workers, False, None, True)
    expected = batches(data)
    for one, other in zip(loaded, expected, strict=True):
        assert one.colours is not None
        before = one.batch.images.clone()
        finished = one.finished(torch.device("cpu"))
        assert_equal([finished], [other])
        assert torch.equal(one.batch.images, before)
        assert not torch.equal(before, other.images)
    assert not colours_on(torch.device("cpu"), how)
    assert not colours_on(None, how)
    assert colours_on(torch.device("cuda"), how)
    assert not colours_on(torch.device("cuda"), Augmentation(SIZE, True, "torchvision"))


@pytest.mark.parametrize("start", [1, 5, 11])
def test_start_in_the_middle_changes_nothing(data, start):
    assert_equal(batches(data, start=start), batches(data)[start:])


def test_start_in_the_middle_changes_nothing_with_workers_and_balance(data):
    expected = batches(data, class_balanced=True)[7:]
    assert_equal(batches(data, start=7, workers=2, class_balanced=True), expected)


def test_state_of_the_global_generators_changes_nothing(data):
    expected = batches(data, stop=3)
    torch.manual_seed(1234)
    np.random.seed(1234)
    random.seed(1234)
    assert_equal(batches(data, stop=3), expected)


def test_seed_changes_order_and_views(data):
    one, other = batches(data, stop=3), batches(data, stop=3, seed=1)
    assert any(not torch.equal(a.sample_ids, b.sample_ids) for a, b in zip(one, other, strict=True))
    rows = [data.rows("a")[:1]]
    fixed = DomainBatches(data, rows, 1, seed=0, start=0, stop=8)  # the same image in every step
    views = [b.images for b in training_batches(fixed, data, SIZE, 0, 0, False)]
    other_views = [b.images for b in training_batches(fixed, data, SIZE, 1, 0, False)]
    assert len({view.numpy().tobytes() for view in views + other_views}) == 16


def test_same_image_twice_in_a_batch_is_seen_in_two_views(data):
    once = DomainBatches(data, [data.rows("a")[:1]], 6, seed=0, start=0, stop=1)
    (batch,) = training_batches(once, data, SIZE, 0, 0, False)
    assert len(set(batch.sample_ids.tolist())) == 1
    assert len({view.numpy().tobytes() for view in batch.images}) == 6


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("class_balanced", [False, True])
def test_shares_of_the_processes_make_up_the_batch(data, number, class_balanced):
    options = {"per_domain": 6, "stop": 6, "class_balanced": class_balanced}
    whole = plan(data, **options)
    shares = [plan(data, process=(index, number), **options) for index in range(number)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {len(step) // number}
        assert sorted(slot for part in parts for slot in part) == step


def test_process_sees_the_same_views(data):
    whole = batches(data, per_domain=2, stop=4)
    for index in range(2):
        share = batches(data, per_domain=2, stop=4, process=(index, 2))
        assert_equal(share, [Batch(*(part[index::2] for part in batch)) for batch in whole])


def test_batch_that_cannot_be_shared():
    check_divisible(32, 4)
    with pytest.raises(ScmdError, match=r"--batch-per-domain 32 .* 3 processes.*multiple of 3"):
        check_divisible(32, 3)


def test_length_is_the_number_of_steps(data):
    assert len(plan(data, start=3, stop=9)) == len(list(plan(data, start=3, stop=9))) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_ends_training_with_its_name(data, workers):
    bad = data.root / "b" / "cat" / "001.png"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(BadImageError) as error:
        batches(data, workers=workers)
    message = str(error.value)
    assert str(bad) in message
    assert "truncated" in message
    assert "--skip-bad" in message
    assert "Traceback" not in message
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_ends_evaluation_with_its_name(data, workers):
    bad = data.root / "b" / "cat" / "001.png"
    bad.write_text("no image")
    with pytest.raises(BadImageError, match="Repair or remove it") as error:
        list(evaluation_batches(data, np.arange(len(data)), SIZE, 4, workers))
    assert str(bad) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_order_and_never_augments(data, workers):
    rows = np.array([5, 0, 17, 3, 3])
    parts = list(evaluation_batches(data, rows, SIZE, 2, workers))
    assert [len(part) for part in parts] == [2, 2, 1]
    for image, row in zip(torch.cat(parts), rows, strict=True):
        with Image.open(data[row].path) as file:
            expected = np.asarray(file.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_left_alone(data, workers):
    torch.manual_seed(1234)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    batches(data, stop=2, workers=workers)
    list(evaluation_batches(data, np.arange(4), SIZE, 2, workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
    assert random.getstate() == before[2]
