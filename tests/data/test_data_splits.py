from __future__ import annotations

import hashlib

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from scmd.data.folder import load_domains
from scmd.data.splits import holdout_mask


def domainbed_split(n: int, fraction: float, trial_seed: int, domain_index: int):
    """DomainBed's rule, written out: positions held out and positions trained on."""
    digest = hashlib.md5(str((trial_seed, domain_index)).encode("utf-8")).hexdigest()
    keys = list(range(n))
    np.random.RandomState(int(digest, 16) % 2**31).shuffle(keys)
    first = int(n * fraction)
    return keys[:first], keys[first:]


def assert_is_domainbeds(root, fraction, trial_seed):
    """The same files are held out as by DomainBed's rule over torchvision's ImageFolder."""
    data = load_domains(root)
    mask = holdout_mask(data, fraction, trial_seed)
    for index, domain in enumerate(data.domains):
        reference = ImageFolder(str(root / domain))
        rows = data.rows(domain)
        ours = [(str(data[row].path), int(data.labels[row])) for row in rows]
        assert ours == reference.samples
        held, trained = domainbed_split(len(reference), fraction, trial_seed, index)
        assert set(np.flatnonzero(mask[rows])) == set(held)
        assert set(np.flatnonzero(~mask[rows])) == set(trained)


@pytest.mark.parametrize("trial_seed", [0, 1, 17])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.35])
def test_split_is_domainbeds(image_folder, write_image, trial_seed, fraction):
    root = image_folder(("photo", "art", "sketch"), ("cat", "dog"), {("photo", "dog"): 11})
    cats = root / "art" / "cat"
    # Names whose order differs with the folder they are in, their case and their extension.
    for name in ("b/1.jpg", "a/2.JPG", "a-b/3.jpeg", "a b/4.bmp", "a/c/5.webp", "Z.png", "10.jpg"):
        write_image(cats / name)
    assert_is_domainbeds(root, fraction, trial_seed)


def test_manifest_is_split_as_its_folder(image_folder, write_image):
    root = image_folder()
    for name in ("b/1.jpg", "a/2.jpg", "a-b/3.jpg", "Z.png"):
        write_image(root / "photo" / "cat" / name)
    folder = load_domains(root)
    lines = [f"{path},{path.split('/')[0]},{path.split('/')[1]}" for path in folder.paths[::-1]]
    manifest = root / "samples.csv"
    manifest.write_text("path,domain,class\n" + "\n".join(lines))
    assert load_domains(manifest).paths == folder.paths


def test_a_domains_split_counts_all_domains(image_folder):
    """The seed is that of the domain's place among all, so that a target changes nothing."""
    data = load_domains(image_folder(("a", "b", "c"), count=10))
    mask = holdout_mask(data, 0.2, 0)
    splits = {tuple(np.flatnonzero(mask[data.rows(domain)])) for domain in data.domains}
    assert len(splits) == 3
    assert mask.sum() == 3 * 4


def test_split_leaves_the_global_generator_alone(image_folder):
    data = load_domains(image_folder())
    np.random.seed(3)
    before = str(np.random.get_state())
    holdout_mask(data, 0.2, 0)
    assert str(np.random.get_state()) == before


@pytest.mark.parametrize("trial_seed", [0, 2])
def test_split_of_pacs(test_data, trial_seed):
    root = test_data / "data" / "PACS"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    assert_is_domainbeds(root, 0.2, trial_seed)
    held = holdout_mask(load_domains(root), 0.2, trial_seed)
    assert held.sum() == sum(int(n * 0.2) for n in (2048, 2344, 1670, 3929))
