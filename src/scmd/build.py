"""From a configuration to its parts: which image plays which role, and the method in training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.config import RunConfig, method_class
from scmd.data.folder import DomainImages, load_domains, resolve_domain
from scmd.data.listing import named
from scmd.data.skipping import rows_to_skip
from scmd.data.splits import holdout_mask
from scmd.data.views import FixedViews
from scmd.errors import ScmdError, ScmdWarning
from scmd.methods import SCMD, Method
from scmd.models.remembered import RememberingTeacher, remember
from scmd.models.student import create_backbone
from scmd.models.teacher import CLIPTeacher, Teacher, TeacherConfig, load_teacher, seen_domains
from scmd.selection import even_share, phase


@dataclass(frozen=True, eq=False)
class Roles:
    """A data set and what each of its samples is for."""

    data: DomainImages
    sources: tuple[str, ...]
    """The domains trained on, sorted."""
    target: str | None
    """The domain measured on and never trained on."""
    split: np.ndarray
    """Per sample: train, holdout, target, target-holdout, left-out or bad. str [N]."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Further domains that are only measured."""
        return tuple(
            domain
            for domain in self.data.domains
            if domain not in self.sources and domain != self.target
        )

    def rows(self, domain: str, *splits: str) -> np.ndarray:
        """The rows of a domain that are in any of the splits: int64 [n]."""
        rows = self.data.rows(domain)
        return rows[np.isin(self.split[rows], splits)]

    def train_rows(self) -> list[np.ndarray]:
        """Per source, the rows to train on."""
        return [self.rows(domain, "train") for domain in self.sources]


def assign_roles(config: RunConfig, console: Console | None = None) -> Roles:
    """Load the data and split it as DomainBed does; bad images leave after the split.

    Images that are only scored (the holdout, the target) are decoded here, once, so that a bad
    one does not end a run that has been trained. With ``skip_bad`` all are.

    Raises:
        ScmdError: As ``load_domains``; an unknown target; fewer than two classes; a source with
            nothing left to train on or nothing held out; an undecodable image among the scored.
    """
    console = console or Console(quiet=True)
    if not config.data.path:
        raise ScmdError("no data given. Name a folder domain/class/image, or a CSV manifest")
    all_held_out = config.data.target is not None  # of a single domain: an error, said below
    data = load_domains(config.data.path, config.data.classes, one_is_enough=all_held_out)
    if len(data.classes) < 2:
        raise ScmdError(
            f"{data.source} has the single class {', '.join(data.classes)!r}: there is nothing to "
            "tell apart. Add a class"
        )
    target = resolve_domain(data, config.data.target) if config.data.target else None
    left_out = [resolve_domain(data, name) for name in config.data.also_held_out]
    sources = tuple(d for d in data.domains if d != target and d not in left_out)
    if not sources:
        raise ScmdError(
            f"{data.source} has no domain but what is held out "
            f"({', '.join(filter(None, [target, *left_out]))}), so there is nothing to train on. "
            "Hold out fewer, or add domains"
        )
    held_out = holdout_mask(data, config.data.holdout, config.training.seed)
    split = np.where(held_out, "holdout", "train").astype("<U14")
    if target:
        rows = data.rows(target)
        split[rows] = np.where(held_out[rows], "target-holdout", "target")
    for domain in left_out:
        if domain != target:
            split[data.rows(domain)] = "left-out"
    decoded = np.flatnonzero((split != "train") | config.data.skip_bad)
    split[rows_to_skip(data, decoded, config.data.skip_bad, console)] = "bad"
    roles = Roles(data, sources, target, split)
    for domain in sources:
        for name, use in (("train", "train on"), ("holdout", "hold out")):
            if not len(roles.rows(domain, name)):
                lost = len(roles.rows(domain, "bad"))
                undecodable = f", of which {lost} cannot be decoded" if lost else ""
                raise ScmdError(
                    f"domain {domain!r} has too few images to {use} any with --holdout "
                    f"{config.data.holdout}: {len(data.rows(domain))}{undecodable}. Add images, or "
                    "change --holdout"
                )
    for domain in filter(None, (target, *left_out)):
        if not len(roles.rows(domain, "target", "target-holdout", "left-out")):
            raise ScmdError(
                f"no image of the held-out domain {domain!r} can be decoded, so there is nothing "
                "to measure on. Repair some, or hold out another"
            )
    return roles


def teacher_in_training(
    config: RunConfig,
    roles: Roles,
    load: Callable[[TeacherConfig, tuple[str, ...]], CLIPTeacher],
    device: torch.device,
    console: Console,
    ask: bool = True,
) -> Teacher:
    """The teacher from ``load``, or, with a clean or fixed view, what it remembers.

    Then it is asked about every training image now, unless an earlier run has. See ``remember``.
    """
    teacher = load(config.teacher, roles.data.classes)
    if config.teacher.view == "augmented":
        return teacher
    return remember(
        teacher,
        config.teacher,
        roles.data,
        np.concatenate(roles.train_rows()),
        max(config.data.image_size, teacher.image_size),
        config.data.flip,
        config.training.workers,
        device,
        console,
        ask,
        config.data.augmentation,
    )


def build_method(
    config: RunConfig,
    classes: tuple[str, ...],
    num_domains: int,
    load: Callable[[TeacherConfig, tuple[str, ...]], Teacher] = load_teacher,
) -> Method:
    """The method with its student, and its teacher, if it needs one, from ``load``.

    Weights that are not loaded are drawn from a generator seeded by the run's seed, so that all
    methods of a comparison start from the same ones.

    Raises:
        ScmdError: As ``create_backbone``; batch norm is not frozen, and what is kept of a batch is
            too little for it.
    """
    method = method_class(config.method)
    teacher = None
    if method.needs_teacher:
        teacher = load(config.teacher, classes)
        held_out = {config.data.target, *config.data.also_held_out}
        if seen := held_out.intersection(seen_domains(config.teacher.name)):
            warnings.warn(
                f"the teacher {config.teacher.name} was fitted on images of {named(sorted(seen))}, "
                "held out here, as its card says: its students' accuracy there is not that on a "
                "domain which nobody has seen",
                ScmdWarning,
                stacklevel=2,
            )
    torch.manual_seed(config.training.seed)
    backbone = create_backbone(config.student, config.data.image_size)
    built = method(backbone, teacher, config.hparams, len(classes), num_domains)
    if isinstance(built, SCMD):
        _check_kept(config, built, num_domains)
    return built


def _check_kept(config: RunConfig, method: SCMD, num_domains: int) -> None:
    """Now, since a warm-up would be trained before the first step that selects fails."""
    settings, selection = config.training, method.config.selection
    first = math.ceil(selection.warmup * settings.steps - 1e-9)  # of the steps that may select
    if (
        even_share(settings.batch_per_domain, num_domains, selection) > 1
        or not any(isinstance(part, _BatchNorm) and part.training for part in method.modules())
        or phase(first / settings.steps, selection) == "whole"
    ):
        return
    # Only the network itself tells how large its maps are where it has batch norm.
    side = config.data.image_size
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        copy.deepcopy(method).trained_features(torch.zeros(1, 3, side, side))


def batch_size_in_pixels(config: RunConfig, method: Method) -> int:
    """The side of a batch's images: the larger of what the two networks see of them."""
    size = config.data.image_size
    teacher = method.teacher if method.needs_teacher else None
    if not isinstance(teacher, CLIPTeacher | RememberingTeacher):
        return size
    return max(size, teacher.image_size)


def views_of(method: Method) -> FixedViews | None:
    """The fixed views that the method's teacher was asked about, where it was asked about such."""
    teacher = method.teacher if method.needs_teacher else None
    return teacher.views if isinstance(teacher, RememberingTeacher) else None
