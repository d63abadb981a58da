"""Where a run's result comes from: command, code, data and machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scmd.data.folder import DomainImages
from scmd.redact import redacted_arguments

PACKAGES = ("scmd", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow")
_HERE = Path(__file__).parent


def provenance(data: DomainImages, device: torch.device) -> dict[str, Any]:
    """What ``summary.json`` says about where a run's numbers come from.

    Returns:
        ``command``: as it was given to this process, without secrets. ``revision``: see
        ``revision``. ``data``: see ``fingerprint``. ``device`` and ``machine``: what computed it.
    """
    return {
        "command": shlex.join(command_line(sys.argv)),
        "revision": revision(_HERE),
        "data": {
            "fingerprint": fingerprint(data),
            "of": "path, domain, class and size of every image",
            "images": len(data),
        },
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Of the packages that a result depends on, and of Python."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from its source, say
        return "not installed"


def command_line(argv: list[str]) -> list[str]:
    """A command without secrets, and without the folder that the program lies in."""
    program = Path(argv[0]).name if argv else ""
    return redacted_arguments(["scmd" if program == "cli.py" else program, *argv[1:]])


def fingerprint(data: DomainImages) -> str:
    """A digest of the path, domain, class and size of every image, in order: 32 hex digits.

    Files are not read, so that it takes seconds for a million of them: a file that is replaced by
    another of the same size does not change it.
    """
    digest = hashlib.blake2b(repr((data.domains, data.classes)).encode(), digest_size=16)
    for numbers in (data.domain_index, data.labels):
        digest.update(numbers.astype("<i4").tobytes())
    for path in data.paths:
        try:
            size = os.stat(os.path.join(data.root, path)).st_size
        except OSError:
            size = -1
        digest.update(f"{path}\0{size}\0".encode())
    return digest.hexdigest()


@cache
def revision(folder: Path) -> dict[str, Any] | None:
    """The git commit of the package, where it runs from a checkout, and whether it was changed.

    None where it is installed, even into a folder within somebody's repository.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, without locks; None where it is not there or refuses."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """The kind of machine; not its name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
