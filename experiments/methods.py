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
from experiments.tried.corrected import Corrected
from experiments.tried.curriculum import Curriculum
from experiments.tried.fitted import Fitted
from experiments.tried.image_space import ImageSpace
from experiments.tried.mixtures import Mixtures
from experiments.tried.textures import Textures
from experiments.tried.views import Views
from scmd.methods import METHODS, Method

OWN: dict[str, type[Method]] = {
    "flipped-erm": FlippedERM,
    "flipped-kd": FlippedKD,
    "flipped-scmd": FlippedSCMD,
    "flipped-scmd-capped": Capped,
    "flipped-scmd-agreed": Agreed,
    "flipped-scmd-trusting": Trusting,
    "tried-curriculum": Curriculum,
    "tried-views": Views,
    "tried-fitted": Fitted,
    "tried-corrected": Corrected,
    "tried-image-space": ImageSpace,
    "tried-mixtures": Mixtures,
    "tried-textures": Textures,
}


def register() -> None:
    """Let configurations name them."""
    METHODS.update(OWN)
