"""A folder on a Ray cluster of two nodes: one process's files and record, whatever happens to a worker."""

import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path, PosixPath

import pytest

from sr_deploy.cli import main
from sr_deploy.errors import InputError
from sr_deploy.measure.machine import usable_cores
from sr_deploy.upscale import fleet as fleets
from sr_deploy.upscale.fleet import open_fleet, upscale_folder_on_fleet
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.folder_journal import JOURNAL_NAME
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.ray_worker import WorkerConfig

pytestmark = pytest.mark.slow

PICTURES = 24
TILE = 64


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_gentle_network, write_pictures):
    """A network near bicubic, so that no guard objects, and a folder of pictures and one broken file."""
    folder = tmp_path_factory.mktemp("job")
    write_gentle_network(folder / "net.safetensors")
    write_pictures(folder / "in", PICTURES, 250, 300)
    (folder / "in" / "1" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def alone(prepared):
    """What one process makes of it."""
    with Upscaler(prepared / "net.safetensors", backend="torch", tile=TILE, threads=1) as upscaler:
        result = upscale_folder(upscaler, prepared / "in", prepared / "alone", tile=TILE)
    assert len(result.done) == PICTURES
    return result


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one processor each, as two machines would be."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sr-deploy[ray]'")
    from ray.cluster_utils import Cluster

    store = 80 * 2**20
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False}
    )
    nodes.add_node(num_cpus=1, object_store_memory=store)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def fleet(cluster, prepared):
    with open_fleet(cluster, WorkerConfig(prepared / "net.safetensors", backend="torch", tile=TILE)) as opened:
        yield opened


def read_results(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def read_record(folder):
    """What was finished: target, source, hash of the source, hash of the making."""
    entries = [json.loads(line) for line in (folder / JOURNAL_NAME).read_text().splitlines()[1:]]
    keys = ("target", "source", "source_sha256", "config_hash")
    return sorted(tuple(entry[key] for key in keys) for entry in entries if entry["source_sha256"])


def describe(result, out):
    """All of a report but the times."""
    done = [
        replace(
            file,
            target=file.target.relative_to(out),
            reports=tuple(replace(report, seconds=0) for report in file.reports),
            seconds=0,
        )
        for file in result.done
    ]
    return done, result.skipped, result.failures, result.left, result.faults, result.stopped


def find_workers():
    """Processes that hold a network, of the cluster that this process started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name = (entry / "cmdline").read_bytes()
                raylet = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                starter = Path(f"/proc/{raylet}/stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # it has ended meanwhile
            if name.startswith(b"ray::MapWorker") and int(starter) == os.getpid():
                found.append(int(entry.name))
    return found


def test_a_worker_killed_midway_changes_nothing(prepared, alone, fleet, tmp_path):
    assert (fleet.workers, fleet.on_gpus, str(fleet.spec)) == (2, False, "torch:fp32")
    killed, shown = [], []

    def kill_one(progress):
        shown.append(progress.done / progress.total)
        if len(shown) == PICTURES // 3:
            workers = find_workers()
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])

    out = tmp_path / "out"
    result = upscale_folder_on_fleet(fleet, prepared / "in", out, on_progress=kill_one)
    assert len(killed) == 1
    assert len(shown) == PICTURES + 1  # every file once
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(1)
    assert read_results(out) == read_results(prepared / "alone")
    assert describe(result, out) == describe(alone, prepared / "alone")
    assert [failure.source.name for failure in result.failures] == ["broken.png"]
    assert read_record(out) == read_record(prepared / "alone")
    assert not list(out.rglob(".partial-*"))
    again = upscale_folder_on_fleet(fleet, prepared / "in", out)
    assert (len(again.done), len(again.skipped), len(again.failures)) == (0, PICTURES, 1)
    with Upscaler(prepared / "net.safetensors", backend="torch", tile=TILE) as upscaler:  # the record is one process's
        assert len(upscale_folder(upscaler, prepared / "in", out, tile=TILE).skipped) == PICTURES


class DeadlyPath(PosixPath):
    """Ends every process but the test's that gets it, as a picture does that crashes a decoder."""

    def __reduce__(self):
        return _end, (os.getpid(), str(self))


def _end(harmless, path):
    if os.getpid() != harmless:
        os._exit(1)
    return PosixPath(path)


def test_a_file_that_kills_every_worker_is_reported_and_the_others_done(prepared, alone, fleet, tmp_path, monkeypatch):
    from ray import cloudpickle

    def make_deadly(item):
        return replace(item, source=DeadlyPath(item.source)) if item.name == "0/00.png" else item

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(fleets, "_make_absolute", make_deadly)
    result = upscale_folder_on_fleet(fleet, prepared / "in", tmp_path / "out")
    assert len(result.done) == PICTURES - 1
    assert {failure.source.name: failure.reason for failure in result.failures}["00.png"] == (
        "the worker that had it died, 4 times; see Ray's log"
    )
    expected = read_results(prepared / "alone")
    del expected["0/00.png"]
    assert read_results(tmp_path / "out") == expected


def test_a_stopped_job_goes_on_where_it_was(prepared, alone, fleet, tmp_path):
    stop, shown = threading.Event(), []

    def stop_later(progress):
        shown.append(progress.done / progress.total)
        if len(shown) == 5:
            stop.set()

    out = tmp_path / "out"
    result = upscale_folder_on_fleet(fleet, prepared / "in", out, on_progress=stop_later, stop=stop)
    assert result.stopped
    assert len(result.done) + len(result.failures) == 5
    assert len(result.left) == PICTURES + 1 - 5
    again = upscale_folder_on_fleet(fleet, prepared / "in", out)
    assert not again.stopped
    assert len(again.done) + len(again.skipped) == PICTURES
    assert len(again.skipped) == len(result.done)
    assert read_results(out) == read_results(prepared / "alone")


def test_what_a_worker_cannot_open_is_its_own_message(cluster, tmp_path):
    with (
        pytest.raises(InputError, match=r"nowhere\.onnx"),
        open_fleet(cluster, WorkerConfig(tmp_path / "nowhere.onnx")),
    ):
        pass


def test_the_command_on_a_local_cluster_gives_the_files_of_one_process(prepared, alone, monkeypatch, capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'sr-deploy[ray]'")
    monkeypatch.chdir(prepared)
    options = ["--model", "net.safetensors", "--backend", "torch", "--tile", str(TILE), "--ray", "local", "--json"]
    assert main(["upscale", "in", "by-command", *options]) == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["written"]) == PICTURES
    assert document["devices"] == ["cpu"] * usable_cores()
    assert [failure["source"] for failure in document["failed"]] == ["in/1/broken.png"]
    assert document["failed"][0]["reason"].startswith("in/1/broken.png is not a picture")
    assert read_results(prepared / "by-command") == read_results(prepared / "alone")


def test_a_local_cluster_asks_nobody_outside(run_without_network, newcomers_environment, prepared, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'sr-deploy[ray]'")
    (tmp_path / "in").mkdir()
    shutil.copy(prepared / "in" / "0" / "00.png", tmp_path / "in")
    options = ["--model", str(prepared / "net.safetensors"), "--backend", "torch", "--ray", "local"]
    words = [sys.executable, "-m", "sr_deploy", "upscale", "in", "out", *options]
    done = run_without_network(words, tmp_path, newcomers_environment(tmp_path))
    assert (done.code, done.packets) == (0, 0), done.output
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["00.png"]
