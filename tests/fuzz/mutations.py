"""How fuzzing spoils the bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st


@dataclass(frozen=True)
class Edit:
    """One thing that goes wrong with a file."""

    kind: Literal["flip", "set", "delete", "truncate", "repeat", "splice", "insert"]
    place: float
    """Where, as a share of the file, or of its first bytes, where headers are."""
    at_the_front: bool
    length: int
    value: int
    other: float
    """Where a splice comes from, as a share of the other file."""


FRONT = 600


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """One edit or several."""
    share = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["flip", "set", "delete", "truncate", "repeat", "splice", "insert"])
    values = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))
    one = st.builds(Edit, kinds, share, st.booleans(), st.integers(1, 64), values, share)
    return st.lists(one, min_size=1, max_size=most)


def spoil(whole: bytes, changes: list[Edit], donor: bytes = b"") -> bytes:
    """A file with the edits made to it, one after the other; ``donor`` is what is spliced in."""
    content = bytearray(whole)
    for edit in changes:
        reach = min(FRONT, len(content)) if edit.at_the_front else len(content)
        at = int(edit.place * reach)
        after = at + edit.length
        if edit.kind == "flip" and content:
            content[at] ^= 1 << edit.value % 8
        elif edit.kind == "set":
            content[at:after] = bytes([edit.value]) * len(content[at:after])
        elif edit.kind == "delete":
            del content[at:after]
        elif edit.kind == "truncate":
            del content[at:]
        elif edit.kind == "repeat":
            content[at:at] = content[at:after]
        elif edit.kind == "splice":
            start = int(edit.other * len(donor))
            piece = donor[start : start + edit.length * 8]
            content[at : at + len(piece)] = piece
        elif edit.kind == "insert":
            content[at:at] = bytes([edit.value]) * edit.length
    return bytes(content)
