"""The methods of the experiments, beside the package's own."""

from __future__ import annotations

from experiments.flips import (
    Agreed,
    Capped,
    FlippedERM,
    FlippedKD,
    FlippedSCMD,
    Trusting,
)
from scmd.methods import METHODS, Method

OWN: dict[str, type[Method]] = {
    "flipped-erm": FlippedERM,
    "flipped-kd": FlippedKD,
    "flipped-scmd": FlippedSCMD,
    "flipped-scmd-capped": Capped,
    "flipped-scmd-agreed": Agreed,
    "flipped-scmd-trusting": Trusting,
}


def register() -> None:
    """Let configurations name them."""
    METHODS.update(OWN)
