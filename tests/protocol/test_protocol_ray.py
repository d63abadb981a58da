"""Runs on a Ray cluster: nodes may be lost, and folders that are not shared come back."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hand_made import DOMAINS, tiny
from rich.console import Console

from scmd.cli import main
from scmd.errors import ScmdError
from scmd.protocol import ray_cluster
from scmd.protocol.plan import PlannedRun, plan
from scmd.protocol.ray_cluster import COMPARISON, RayCrew, Resources, _comparison, check_address
from scmd.protocol.ray_worker import Place, RunWorker, scratch, sees
from scmd.protocol.runner import DONE, run_plan
from scmd.protocol.sent import unpack_run
from scmd.protocol.sweep import sweep

FILES = ("model.safetensors", "metrics.jsonl", "model.json", "config.toml")


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(DOMAINS, count=10)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each, both of them on this machine."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short
    (Path(folder) / "ray").mkdir()  # where Ray looks for it by default
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMD_CACHE", f"{folder}/cache")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
        head = {**node, "include_dashboard": False, "temp_dir": f"{folder}/ray"} | {
            "_system_config": {
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 1000,
                "health_check_failure_threshold": 3,
            }
        }
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(True, **node)
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def same_bits(runs: list[PlannedRun], one: Path, other: Path) -> None:
    for run in runs:
        assert (one / run.name / DONE).exists()
        for name in FILES:
            assert (one / run.name / name).read_bytes() == (other / run.name / name).read_bytes()


def ended(said: str) -> list[str]:
    """What the lines of runs that ended begin with, their numbers left out."""
    return sorted(re.findall(r"^\[\d+/\d+\] (.*?): ", said, re.MULTILINE))


@pytest.mark.soak
def test_a_folder_that_is_not_shared_comes_back(
    cluster, images, clip_folder, tmp_path, monkeypatch
):
    """The workers look for a probe file, and here they are told another name than it has."""
    runs = plan(tiny(images, clip_folder, methods="zero-shot,erm", targets="art", trials=1))
    out, said = tmp_path / "out", io.StringIO()
    monkeypatch.chdir(images.parent)
    with RayCrew(runs, out, cluster.address, Resources()) as crew:
        crew._probe = out / ".another"
        assert sweep(runs, out, crew, Console(file=said, width=200), 0) == []
    assert len(ended(said.getvalue())) == 2
    assert run_plan(runs, tmp_path / "here", Console(quiet=True)) == []
    same_bits(runs[1:], out, tmp_path / "here")
    assert not (out / runs[1].name / "checkpoints").exists()
    assert (tmp_path / "here" / runs[1].name / "checkpoints").exists()
    folder = Path(os.environ["SCMD_CACHE"])
    assert not list(folder.glob("sweeps/*/*/done"))
    assert not [path for path in out.iterdir() if path.name.startswith(".art")]


def test_a_node_that_is_killed_loses_no_run_and_repeats_none(
    cluster, images, clip_folder, tmp_path
):
    more = ("training.steps=24", "training.evaluate_every=24", "training.checkpoint_every=4")
    config = tiny(images, clip_folder, methods="erm,kd", targets="art,photo", trials=1, set=more)
    runs, out, said = plan(config), tmp_path / "out", io.StringIO()
    killed = threading.Event()

    def kill() -> None:
        """When two runs are in the middle, which are on both nodes."""
        while not killed.is_set():
            begun = {p.parent.parent for p in out.glob("*/checkpoints/*.pt")}
            if sum(not (run / DONE).exists() for run in begun) == 2:
                cluster.remove_node(max(cluster.worker_nodes, key=str), allow_graceful=False)
                killed.set()
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    with RayCrew(runs, out, cluster.address, Resources()) as crew:
        assert crew.size() == 2
        thread.start()
        try:
            assert sweep(runs, out, crew, Console(file=said, width=200), 3) == []
        finally:
            done_in_time = killed.is_set()
            killed.set()
            thread.join()
    print(said.getvalue())
    assert done_in_time
    assert "its worker was lost" in said.getvalue()
    assert len(ended(said.getvalue())) == len(set(ended(said.getvalue()))) == len(runs) == 4
    assert "another process" not in said.getvalue()
    assert run_plan(runs, tmp_path / "here", Console(quiet=True)) == []
    same_bits(runs, out, tmp_path / "here")
    for run in runs:
        steps = re.findall(
            r'^{"step": (\d+), "loss"', (out / run.name / "metrics.jsonl").read_text(), re.MULTILINE
        )
        assert [int(step) for step in steps] == list(range(24))


def test_a_worker_that_does_not_see_the_folder_sends_its_runs(
    images, clip_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("scmd.protocol.ray_worker.METHODS", {})
    runs = plan(tiny(images, clip_folder, methods="erm", targets="art", trials=1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".probe").write_text(".probe")
    at = {"cwd": str(tmp_path), "version": version("scmd"), "cpus": 1}
    place = Place(str(tmp_path / "out"), "a1b2", ".probe", **at)
    assert sees(place)
    assert not sees(replace(place, out=str(tmp_path / "elsewhere")))
    (tmp_path / "out" / ".probe").write_text("of another machine")
    monkeypatch.chdir(tmp_path)
    worker = RunWorker(place)
    outcome, packed = worker.do(runs[0])
    assert outcome.kind == "done"
    assert packed is not None
    there, here = scratch(place.comparison) / runs[0].name, tmp_path / "out" / runs[0].name
    assert unpack_run(packed, here)
    same_bits(runs, here.parent, there.parent)
    worker.forget(runs[0].name)
    assert not there.exists()


def test_a_comparison_has_a_name_that_goes_with_its_folder(tmp_path):
    """So that what machines still have of the one before is not taken for this one's."""
    out = tmp_path / "out"
    out.mkdir()
    name = _comparison(out)
    assert _comparison(out) == name
    shutil.rmtree(out)
    out.mkdir()
    assert _comparison(out) != name
    (out / COMPARISON).write_text("../../elsewhere")
    with pytest.raises(ScmdError, match=r"\.comparison: '\.\./\.\./elsewhere' is no comparison's"):
        _comparison(out)


def test_a_worker_of_another_version_does_not_begin(tmp_path):
    with pytest.raises(ScmdError, match=r"has scmd .*, and the sweep was started by 0\.0\.7"):
        RunWorker(Place(str(tmp_path), "a1b2", ".probe", str(tmp_path), "0.0.7", 1))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ray_cluster, "ASKING", 1.0)
        with pytest.raises(ScmdError, match=rf"{port}: what answers there is no head of a Ray"):
            check_address(f"127.0.0.1:{port}")
    with pytest.raises(ScmdError, match=rf"{port}: nobody answers there \(.*\)\. Start a cluster"):
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["nonsense", "ray://host:1", ":6379", "host:port", ""])
def test_an_address_that_is_none(address):
    with pytest.raises(ScmdError, match="give HOST:PORT of the cluster's head"):
        check_address(address)


def test_without_ray_the_way_out_is_named(images, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    argv = ["protocol", str(images), "--methods", "erm", "--ray", "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert (
        capsys.readouterr().err == "error: --ray needs the package ray: pip install 'scmd[ray]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_rays_folder_has_a_short_name(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with ray_cluster._short_folder() as folder:
        assert len(os.fsencode(folder + ray_cluster.SOCKET)) <= ray_cluster.LONGEST_SOCKET
