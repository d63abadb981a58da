"""The teacher fitted on a comparison's sources, as ``scmd teacher fit`` would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from scmd.build import Roles
from scmd.errors import ScmdError
from scmd.files import read_json
from scmd.fit import SETTINGS, fit_teacher
from scmd.models.fit_config import FitConfig
from scmd.protocol.plan import PlannedRun

TEACHER = "teacher"
"""The folder, in a run's, that a teacher is fitted in; gone when the run is done."""
LR = FitConfig.lr


@contextmanager
def fine_tuned(run: PlannedRun, roles: Roles, out: Path) -> Iterator[Path]:
    """Fit the teacher on the training part of the sources, and remove it at the end.

    It goes on from where an earlier attempt was checkpointed.

    Args:
        run: Of the label ``fine-tuned``.
        roles: Its data, and which image is what.
        out: The run's folder.

    Returns:
        The teacher's folder, in open_clip's format, with its card.

    Raises:
        ScmdError: As ``fit_teacher``; an image of the sources cannot be decoded.
    """
    _check_images(roles)
    folder, config = out / TEACHER, fit_config(run, roles)
    begun = (folder / SETTINGS).exists()
    if begun:  # what a result does not depend on may have been another
        before = read_json(folder / SETTINGS)
        config = replace(config, **{name: before[name] for name in ("workers", "decode_once")})
    elif folder.exists():
        shutil.rmtree(folder)
    fit_teacher(config, folder, begun, Console(quiet=True))
    yield folder
    shutil.rmtree(folder)


def fit_config(run: PlannedRun, roles: Roles) -> FitConfig:
    """How it is fitted: in as many steps of as many images as the students have, from the same
    split and seed, with captions from the templates that it is asked with, and ``teacher fit``'s
    defaults for the rest. A draw changes the learning rate.
    """
    data, training, teacher = run.config.data, run.config.training, run.config.teacher
    templates = tuple(t.replace("{}", "{class}") for t in teacher.prompts.templates)
    return FitConfig(
        data=data.path,
        model=teacher.name,
        domains=roles.sources,
        classes=data.classes,
        captions=FitConfig.captions if teacher.prompts.file else templates,
        class_names=teacher.prompts.class_names,
        steps=training.steps,
        batch_per_domain=training.batch_per_domain,
        lr=run.drawn.get("lr", LR),
        flip=data.flip,
        augmentation=data.augmentation,
        decode_once=data.decode_once,
        holdout=data.holdout,
        seed=training.seed,
        checkpoint_every=training.checkpoint_every,
        workers=training.workers,
    )


def _check_images(roles: Roles) -> None:
    """Fitting has no list of images to leave out."""
    sources = [roles.data.domains.index(domain) for domain in roles.sources]
    bad = (roles.split == "bad") & np.isin(roles.data.domain_index, sources)
    if bad.any():
        first = roles.data.root / roles.data.paths[int(np.flatnonzero(bad)[0])]
        raise ScmdError(
            f"{int(bad.sum())} images of the sources cannot be decoded, and fitting a teacher "
            f"leaves none out: {first}. Repair or remove them, or leave fine-tuned out of --methods"
        )
