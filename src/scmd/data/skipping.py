"""Images that cannot be decoded: left out, or said before anything is trained."""

from __future__ import annotations

import logging

import numpy as np
from rich.console import Console

from scmd.data.check import check_images
from scmd.data.folder import DomainImages
from scmd.errors import LEAVE_OUT, BadImageError
from scmd.progress import counting

logger = logging.getLogger(__name__)


def rows_to_skip(
    data: DomainImages, rows: np.ndarray, skip_bad: bool, console: Console
) -> np.ndarray:
    """Those of some samples that cannot be decoded and are to be left out: int64 [n].

    Args:
        data: The data set.
        rows: The samples to decode, int64 [m].
        skip_bad: Leave them out; otherwise the first is an error.
        console: Where progress goes.

    Raises:
        BadImageError: There is one, and no ``skip_bad``.
    """
    with counting(console, "decoding") as progress:
        bad = check_images(data, progress, rows).bad_rows
    if len(bad) and not skip_bad:
        raise BadImageError(
            f"{data.root / data.paths[int(bad[0])]} cannot be decoded. Repair or remove it, or "
            f"{LEAVE_OUT}"
        )
    if len(bad):
        logger.warning("%d of %d images cannot be decoded and are left out", len(bad), len(data))
    return bad
