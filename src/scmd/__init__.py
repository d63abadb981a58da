"""scmd: small image classifiers that hold up on domains they never saw.

Selective cross-modality distillation (Leng, Li and Wang, TMLR 2024, arXiv:2311.15145) and its
baselines. The names below are the public API; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scmd.averaging import AverageConfig as AverageConfig
    from scmd.config import DataConfig as DataConfig
    from scmd.config import RunConfig as RunConfig
    from scmd.config import TrainingConfig as TrainingConfig
    from scmd.config import build_config as build_config
    from scmd.config import load_config as load_config
    from scmd.data.check import check_images as check_images
    from scmd.data.folder import DomainImages as DomainImages
    from scmd.data.folder import load_domains as load_domains
    from scmd.data.loader import Batch as Batch
    from scmd.deploy.classifier import Classifier as Classifier
    from scmd.deploy.classifier import load as load
    from scmd.deploy.evaluate import evaluate_run as evaluate_run
    from scmd.deploy.evaluate import evaluate_teacher as evaluate_teacher
    from scmd.deploy.predict import predict_files as predict_files
    from scmd.errors import ScmdError as ScmdError
    from scmd.fit import fit_teacher as fit_teacher
    from scmd.loop import train as train
    from scmd.methods import ERM as ERM
    from scmd.methods import KD as KD
    from scmd.methods import METHODS as METHODS
    from scmd.methods import SCMD as SCMD
    from scmd.methods import Method as Method
    from scmd.methods.scmd import SCMDConfig as SCMDConfig
    from scmd.models.fit_config import FitConfig as FitConfig
    from scmd.models.student import StudentConfig as StudentConfig
    from scmd.models.teacher import Teacher as Teacher
    from scmd.models.teacher import TeacherConfig as TeacherConfig
    from scmd.models.teacher import load_teacher as load_teacher
    from scmd.selection import SelectionConfig as SelectionConfig

_HOME = {
    "AverageConfig": "scmd.averaging",
    "Batch": "scmd.data.loader",
    "Classifier": "scmd.deploy.classifier",
    "DataConfig": "scmd.config",
    "DomainImages": "scmd.data.folder",
    "ERM": "scmd.methods",
    "FitConfig": "scmd.models.fit_config",
    "KD": "scmd.methods",
    "METHODS": "scmd.methods",
    "Method": "scmd.methods",
    "RunConfig": "scmd.config",
    "SCMD": "scmd.methods",
    "SCMDConfig": "scmd.methods.scmd",
    "ScmdError": "scmd.errors",
    "SelectionConfig": "scmd.selection",
    "StudentConfig": "scmd.models.student",
    "Teacher": "scmd.models.teacher",
    "TeacherConfig": "scmd.models.teacher",
    "TrainingConfig": "scmd.config",
    "build_config": "scmd.config",
    "check_images": "scmd.data.check",
    "evaluate_run": "scmd.deploy.evaluate",
    "evaluate_teacher": "scmd.deploy.evaluate",
    "fit_teacher": "scmd.fit",
    "load": "scmd.deploy.classifier",
    "load_config": "scmd.config",
    "load_domains": "scmd.data.folder",
    "load_teacher": "scmd.models.teacher",
    "predict_files": "scmd.deploy.predict",
    "train": "scmd.loop",
}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("scmd")
    if name not in _HOME:
        raise AttributeError(f"module 'scmd' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
