"""The embedded digits: each where it belongs, and the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from scmd.data.digit_styles import FURTHER_STYLES, STYLES, render, write_digits
from scmd.data.digits import DOMAINS, NAMES, PER_DOMAIN, digit, kept_out, label, members
from scmd.data.folder import load_domains
from scmd.errors import ScmdError


def test_no_digit_is_in_two_places():
    parts = [members(domain) for domain in DOMAINS] + [kept_out()]
    together = np.concatenate(parts)
    assert sorted(together.tolist()) == list(range(1797))
    assert [len(part) for part in parts] == [PER_DOMAIN] * 4 + [297]
    pixels = np.asarray(load_digits(return_X_y=True)[0])[together]
    owner = [place for place, part in enumerate(parts) for _ in part]
    seen: dict[bytes, int] = {}
    for image, place in zip(pixels, owner, strict=True):  # nor is its twin
        assert seen.setdefault(image.tobytes(), place) == place


def test_every_part_has_every_class_about_equally():
    for part in [members(domain) for domain in DOMAINS] + [kept_out()]:
        counts = np.bincount([label(int(index)) for index in part], minlength=10)
        assert counts.max() - counts.min() <= 4


def test_written_folder_is_an_ordinary_data_set(tmp_path):
    write_digits(tmp_path / "digits")
    data = load_domains(tmp_path / "digits")
    assert data.domains == DOMAINS
    assert data.classes == tuple(sorted(NAMES))
    assert data.counts().sum(1).tolist() == [PER_DOMAIN] * 4
    for row in (0, 500, 1499):
        sample = data[row]
        assert sample.class_name == NAMES[label(int(sample.path.stem))]
    with pytest.raises(ScmdError, match="is not empty"):
        write_digits(tmp_path / "digits")
    with pytest.raises(ScmdError, match="no style 'oil'"):
        write_digits(tmp_path / "other", ["oil"])
    assert not (tmp_path / "other").exists()


def test_further_styles_draw_digits_of_the_set(tmp_path):
    write_digits(tmp_path / "further", FURTHER_STYLES)
    used = set(np.concatenate([members(domain) for domain in DOMAINS]).tolist())
    for path in (tmp_path / "further").rglob("*.png"):
        assert int(path.stem) in used


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_depends_on_style_and_digit_alone(style):
    first = np.asarray(render(7, style))
    assert first.shape == (32, 32, 3)
    np.random.seed(1)
    assert np.array_equal(first, np.asarray(render(7, style)))
    assert not np.array_equal(first, np.asarray(render(8, style)))
    # Strokes and paper differ: the picture is not empty.
    strokes = np.kron(digit(7), np.ones((3, 3)))[4:-4, 4:-4] > 0.8
    assert strokes.any()
    assert first.std() > 8
