"""A finished run's folder as bytes, to be sent from one machine to another."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from scmd.errors import ScmdError
from scmd.files import ASIDE
from scmd.protocol.runner import DONE
from scmd.run_folder import CHECKPOINTS, held, is_content


def pack_run(folder: Path) -> bytes:
    """A finished run as a tar archive, without its checkpoints, which nothing reads any more."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name != CHECKPOINTS and is_content(path):
                archive.add(path, path.name)
    return packed.getvalue()


def unpack_run(packed: bytes, folder: Path) -> bool:
    """Put a run that was packed into its place; unpacked beside it and renamed.

    Only plain files and folders are taken, and only into that folder (tarfile's filter "data").

    Returns:
        Whether it was put there; False: another process had done the run meanwhile.

    Raises:
        ScmdError: The archive is damaged or holds no finished run, the folder cannot be written,
            or another process is at the run.
    """
    with held(folder):
        if (folder / DONE).exists():
            return False
        aside = Path(tempfile.mkdtemp(ASIDE, f".{folder.name}.", folder.parent))
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                strange = [m.name for m in archive if not (m.isreg() or m.isdir())]
                if strange:
                    raise ScmdError(f"{folder}: what was sent holds a link: {strange[0]}")
                archive.extractall(aside, filter="data")
            if not (aside / DONE).is_file():
                raise ScmdError(f"{folder}: what was sent is no finished run")
            aside.chmod(folder.stat().st_mode)
            shutil.rmtree(folder)  # an attempt that was begun here
            aside.rename(folder)
        except tarfile.TarError as error:
            raise ScmdError(f"{folder}: what was sent is damaged: {error}") from error
        except OSError as error:
            raise ScmdError(f"{folder} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return True
