"""Which images a teacher is fitted to, and which only score it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from scmd.data.folder import DomainImages, load_domains, resolve_domain
from scmd.data.skipping import rows_to_skip
from scmd.data.splits import holdout_mask
from scmd.errors import ScmdError
from scmd.models.fit_config import FitConfig


@dataclass(frozen=True, eq=False)
class FitRoles:
    """A data set, and what each of its images is for."""

    data: DomainImages
    domains: tuple[str, ...]
    """Those that the teacher is fitted to."""
    split: np.ndarray
    """Per sample ``train``, ``holdout``, ``bad`` or ``left-out``: str [N]."""

    def rows(self, domain: str, use: str) -> np.ndarray:
        """The rows of a domain that are for something: int64 [n]."""
        rows = self.data.rows(domain)
        return rows[self.split[rows] == use]

    def train_rows(self) -> list[np.ndarray]:
        """Per domain, the rows to train on."""
        return [self.rows(domain, "train") for domain in self.domains]


def assign_fit_roles(config: FitConfig, console: Console) -> FitRoles:
    """Load the data, and hold a part of every domain out as DomainBed does.

    Images that are only scored are decoded here, so that a bad one does not end a fit that is
    done. With ``skip_bad`` all that are used are.

    Raises:
        ScmdError: As ``load_domains``; an unknown domain; fewer than two classes; a domain with
            nothing to fit to or nothing held out; an undecodable image among the scored.
    """
    if not config.data:
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    data = load_domains(config.data, config.classes, one_is_enough=True)
    if len(data.classes) < 2:
        raise ScmdError(
            f"{data.source} has the single class {', '.join(data.classes)!r}: there is nothing to "
            "tell apart. Add a class"
        )
    domains = tuple(resolve_domain(data, name) for name in config.domains) or data.domains
    held_out = holdout_mask(data, config.holdout, config.seed)
    used = np.isin(data.domain_index, [data.domains.index(domain) for domain in domains])
    split = np.where(used, np.where(held_out, "holdout", "train"), "left-out")
    decoded = np.flatnonzero(used & (held_out | config.skip_bad))
    split[rows_to_skip(data, decoded, config.skip_bad, console)] = "bad"
    roles = FitRoles(data, domains, split)
    for domain in domains:
        for name, use in (("train", "fit to"), ("holdout", "hold out")):
            if not len(roles.rows(domain, name)):
                raise ScmdError(
                    f"domain {domain!r} has too few images to {use} any with --holdout "
                    f"{config.holdout}: {len(data.rows(domain))}, of which "
                    f"{len(roles.rows(domain, 'bad'))} cannot be decoded. Add images, or change "
                    "--holdout"
                )
    return roles
