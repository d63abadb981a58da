"""The paths of a data set's samples, in a third of the memory that as many texts take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_AT_ONCE = 65536


class Paths(Sequence[str]):
    """Texts in one piece of memory; like a tuple of them, which it equals.

    That is less than a list of texts, and processes that are forked share it: to look at a text
    changes nothing in memory, while every look at a Python object counts its references.

    Args:
        text: All texts, one after the other, in UTF-8.
        ends: Where each ends, in bytes: int64 [N].
    """

    def __init__(self, text: bytes, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, paths: Iterable[str]) -> Paths:
        """Pack texts. Raises a UnicodeEncodeError where one holds what is no text."""
        return cls.packed([path.encode() for path in paths])

    @classmethod
    def packed(cls, paths: Sequence[bytes]) -> Paths:
        """Pack texts that are UTF-8 already."""
        return cls(b"".join(paths), np.cumsum([len(path) for path in paths], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """One after the other."""
        starts = np.cumsum([0, *(len(part.text) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        text = b"".join(part.text for part in parts)
        return cls(text, np.concatenate(ends) if ends else np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start = self.ends[place - 1] if place else 0
        return self.text[start : self.ends[place]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _AT_ONCE):
            for end in self.ends[first : first + _AT_ONCE].tolist():
                yield self.text[start:end].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Paths):
            return self.text == other.text and np.array_equal(self.ends, other.ends)
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Paths({len(self):,})"

    def where(self, mask: np.ndarray) -> Paths:
        """Those of the places that are true in ``mask``, bool [N]."""
        return self.packed([path.encode() for path, kept in zip(self, mask, strict=True) if kept])

    def ids(self) -> np.ndarray:
        """``sample_id`` of each: int64 [N]."""
        return np.fromiter((sample_id(path) for path in self), np.int64, len(self))


def sample_id(path: str) -> int:
    """A stable id, from 0 to 2**63 - 1, of a path relative to the data set's root."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big") >> 1
