"""SCMD without one of its parts, or with another in its place, as settings of the method.

Each is a name in ``METHODS`` and what is changed in its ``Config``; nested settings have dots, as
in a ``search_space``. SCMD without selection *and* without L_CM is the method ``kd``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "scmd-no-cm": ("scmd", {"lambda2": 0.0}),
    "scmd-no-logits": ("scmd", {"lambda1": 0.0}),
    "scmd-no-selection": ("scmd", {"selection.rule": "all"}),
    "scmd-focal": ("scmd", {"selection.rule": "all", "focal_gamma": 2.0}),
    "scmd-random": ("scmd", {"selection.rule": "random"}),
    "scmd-kd-loss": ("scmd", {"selection.rule": "kd-loss"}),
}
"""What a row of a comparison is called, to the method and what is changed."""
