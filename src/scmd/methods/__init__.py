"""Training methods, one file each. To add one: write the file, add its line here."""

from scmd.methods.arm import ARM
from scmd.methods.base import Method, MethodConfig
from scmd.methods.causirl import CausIRL
from scmd.methods.coral import CORAL
from scmd.methods.dann import DANN
from scmd.methods.eqrm import EQRM
from scmd.methods.erm import ERM
from scmd.methods.fishr import Fishr
from scmd.methods.fitnet import FitNet
from scmd.methods.groupdro import GroupDRO
from scmd.methods.irm import IRM
from scmd.methods.kd import KD
from scmd.methods.miro import MIRO
from scmd.methods.mixstyle import MixStyle
from scmd.methods.mixup import Mixup
from scmd.methods.mldg import MLDG
from scmd.methods.mmd import MMD
from scmd.methods.rise import RISE
from scmd.methods.rkd import RKD
from scmd.methods.rsc import RSC
from scmd.methods.sagnet import SagNet
from scmd.methods.scmd import SCMD
from scmd.methods.sd import SD
from scmd.methods.vrex import VREx

METHODS: dict[str, type[Method]] = {
    "erm": ERM,
    "arm": ARM,
    "causirl": CausIRL,
    "coral": CORAL,
    "dann": DANN,
    "eqrm": EQRM,
    "fishr": Fishr,
    "groupdro": GroupDRO,
    "irm": IRM,
    "miro": MIRO,
    "mixstyle": MixStyle,
    "mixup": Mixup,
    "mldg": MLDG,
    "mmd": MMD,
    "rsc": RSC,
    "sagnet": SagNet,
    "sd": SD,
    "vrex": VREx,
    "fitnet": FitNet,
    "kd": KD,
    "rise": RISE,
    "rkd": RKD,
    "scmd": SCMD,
}

__all__ = ["ERM", "KD", "METHODS", "SCMD", "Method", "MethodConfig"]
