"""The benchmark sets of the field, as DomainBed has them.

A size, a digest or a count stands in an entry only where somebody published it, and says who.
Digests that nobody published are computed after the download and printed. Addresses are those of
DomainBed's ``domainbed/scripts/download.py`` where nothing else is said.
"""

from __future__ import annotations

import difflib

from scmd.data.benchmarks.entries import Benchmark
from scmd.data.benchmarks.sets_large import CAMELYON17, DOMAIN_NET, SVIRO, TERRA_INCOGNITA
from scmd.data.benchmarks.sets_mnist import COLORED_MNIST, ROTATED_MNIST
from scmd.data.benchmarks.sets_small import OFFICE_HOME, PACS, VLCS
from scmd.errors import ScmdError

CATALOGUE = {
    benchmark.name: benchmark
    for benchmark in (
        PACS,
        VLCS,
        OFFICE_HOME,
        TERRA_INCOGNITA,
        DOMAIN_NET,
        SVIRO,
        CAMELYON17,
        ROTATED_MNIST,
        COLORED_MNIST,
    )
}


def find(name: str) -> Benchmark:
    """The data set of a name; capitals, blanks and dashes do not matter.

    Raises:
        ScmdError: There is none; the message suggests the nearest.
    """

    def plain(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    by_plain = {plain(known): known for known in CATALOGUE}
    found = by_plain.get(plain(name))
    if found:
        return CATALOGUE[found]
    near = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.5)
    hint = f"Did you mean {by_plain[near[0]]!r}?" if near else "Choose one of them"
    raise ScmdError(
        f"there is no benchmark set {name!r} (there are {', '.join(CATALOGUE)}). {hint}"
    )
