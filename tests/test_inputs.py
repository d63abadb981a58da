"""Which image files are meant."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scmd.deploy.inputs import find_images
from scmd.errors import ScmdError


@pytest.fixture
def pictures(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Six images, one of them unreadable, and a text."""
    folder = tmp_path / "pictures"
    for name in ("b.png", "a.jpg", "deep/er/c.PNG", "deep/d.webp", "z.png"):
        write_image(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image, and not meant as one")
    return folder


def names(folder: Path, *paths: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(paths)]


def test_folders_are_searched_in_order(pictures: Path):
    everything = ["a.jpg", "b.png", "broken.png", "deep/d.webp", "deep/er/c.PNG", "z.png"]
    assert names(pictures, pictures) == everything
    both = names(pictures, pictures / "z.png", pictures / "deep")
    assert both == ["z.png", "deep/d.webp", "deep/er/c.PNG"]


def test_links_are_followed_as_in_training_and_nothing_hidden_is_taken(pictures, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    (both / "linked").symlink_to(pictures / "deep")
    (both / "a.jpg").symlink_to(pictures / "a.jpg")
    (both / "._a.jpg").write_bytes(b"what macOS leaves beside a file")
    (both / ".thumbnails").symlink_to(pictures)
    assert names(both, both) == ["a.jpg", "linked/d.webp", "linked/er/c.PNG"]


def test_a_link_without_end_is_told(pictures):
    (pictures / "deep" / "again").symlink_to(pictures)
    with pytest.raises(ScmdError, match=r"deep/again: .*it lies in\. Name the images"):
        list(find_images([pictures]))


def test_patterns_are_what_a_shell_makes_of_them(pictures: Path):
    assert names(pictures, pictures / "*.png") == ["b.png", "broken.png", "z.png"]
    assert names(pictures, pictures / "**" / "*.[pP][nN]*") == [
        "b.png", "broken.png", "deep/er/c.PNG", "z.png",
    ]  # fmt: skip
    assert names(pictures, pictures / "de*") == ["deep/d.webp", "deep/er/c.PNG"]
    found = names(pictures, pictures / "**")
    assert sorted(set(found) - {"notes.txt"}) == names(pictures, pictures)
    assert len(found) == len(set(found))


def test_a_file_that_looks_like_a_pattern_is_a_file(pictures: Path, write_image):
    odd = write_image(pictures / "[b].png")
    assert list(find_images([odd])) == [odd]


def test_a_list_is_passed_on_as_it_is(pictures: Path):
    """An old list, with a folder, a name that is too long, and one that is no UTF-8."""
    lines = [b"nowhere.png", b"x" * 5000, os.fsencode(pictures), b"gr\xe9.png", b"a\x00b"]
    found = list(find_images([Path("-")], io.BytesIO(b"\r\n\n".join(lines))))
    assert found == [Path(os.fsdecode(line)) for line in lines]


def test_lists_come_from_the_standard_input(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    given = f"{pictures / 'b.png'}\n{pictures / 'a.jpg'}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert names(pictures, Path("-"), pictures / "z.png") == ["b.png", "a.jpg", "z.png"]


def test_what_leads_to_no_image_is_an_error(pictures: Path):
    (pictures / "empty").mkdir()
    with pytest.raises(ScmdError, match=r"no image in .*empty"):
        list(find_images([pictures / "empty"]))
    with pytest.raises(ScmdError, match=r"no image in .*\*\.gif"):
        list(find_images([pictures / "*.gif"]))
    with pytest.raises(ScmdError, match=r"no such image: .*nowhere\.png"):
        list(find_images([pictures / "nowhere.png"]))
    with pytest.raises(ScmdError, match="the standard input names no image"):
        list(find_images([Path("-")], io.BytesIO(b"\n\n")))


def test_a_standard_input_that_is_closed_names_no_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ScmdError, match="the standard input names no image"):
        list(find_images([Path("-")]))
