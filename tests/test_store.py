"""The place of caches, and that one process builds while another waits."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scmd.errors import ScmdError
from scmd.run_folder import HeldError, held
from scmd.store import cache_root, exclusive

HOLD = """
import sys, time
from pathlib import Path
from scmd.store import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    (Path(sys.argv[1]) / "built").touch()
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("SCMD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "scmd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "scmd"


def test_second_waits_until_the_first_has_built(tmp_path: Path) -> None:
    waited = []
    with hold(tmp_path / "cache", 0.5), exclusive(tmp_path / "cache", lambda: waited.append(1)):
        assert (tmp_path / "cache" / "built").exists()
    assert waited == [1]


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    process.kill()
    process.wait()
    began = time.perf_counter()
    with exclusive(tmp_path):
        assert time.perf_counter() - began < 5
    assert not (tmp_path / "built").exists()


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ScmdError, match="SCMD_CACHE to another folder"),
        exclusive(tmp_path / "file" / "cache"),
    ):
        pass


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And is not taken for another process that has it."""

    def refuse(*rest: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ScmdError, match="No locks available"),
        exclusive(tmp_path / "cache"),
    ):
        pass
    with pytest.raises(ScmdError, match="No locks available") as error, held(tmp_path / "run"):
        pass
    assert not isinstance(error.value, HeldError)
