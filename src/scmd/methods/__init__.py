"""Training methods, one file each. To add one: write the file, add its line here."""

from scmd.methods.base import Method, MethodConfig
from scmd.methods.erm import ERM
from scmd.methods.kd import KD
from scmd.methods.scmd import SCMD

METHODS: dict[str, type[Method]] = {
    "erm": ERM,
    "kd": KD,
    "scmd": SCMD,
}

__all__ = ["ERM", "KD", "METHODS", "SCMD", "Method", "MethodConfig"]
