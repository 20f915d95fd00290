"""A training that runs out of a CPU's memory says what to do and what is kept, as it does on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_deploy.run_folder import find_last_checkpoint
from sr_deploy.train.run import read_manifest

resource = pytest.importorskip("resource", reason="limits of memory are POSIX's")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory, which Linux lets")

SETTINGS = ("network.features=32", "network.blocks=1", "data.patch_size=256", 'data.training=["astronaut"]',
            'data.held_out=["chelsea"]', "precision.autocast=off", "precision.channels_last=false",
            "run.steps=100000", "run.validate_every=100000", "run.preview_every=100000",
            "run.checkpoint_every=3")  # fmt: skip


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    words = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    # Large tensors then come from the system and go back to it, so that the limit is met at the next step.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sr_deploy", "train", *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip


def give_no_more_memory(process: subprocess.Popen[str]) -> None:
    """Let it take nothing more from the system: it has more already."""
    resource.prlimit(process.pid, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=120)
    finally:
        process.kill()


def wait_until(process: subprocess.Popen[str], ready) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_in_the_middle_the_last_checkpoint_is_named(tmp_path):
    process = start(tmp_path, "data.batch=32")
    run = tmp_path / "runs" / "demo"
    wait_until(process, (run / "checkpoints" / "step-000003").is_dir)
    give_no_more_memory(process)
    _, said = end(process)
    assert process.returncode == 1, said
    last = find_last_checkpoint(run)[1].relative_to(tmp_path)
    assert said.splitlines()[-1] == (
        "error: the memory is too small for 32 patches of 256 pixels; lower --set data.batch or --set data.patch_size "
        f"in a new run, or --set data.cache_gib (now 4); {last} is the last checkpoint: --from takes it"
    )
    assert read_manifest(run).status == "failed"
    assert not list(run.rglob(".*"))
    again = ["--from", str(last), "--set", "data.batch=2", "--set", "run.steps=1"]
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    done = subprocess.run([sys.executable, "-m", "sr_deploy", "train", *words, *again], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert read_manifest(tmp_path / "runs" / "demo-2").started_from.path == str(last)


def test_before_the_first_step_nothing_is_left_but_the_advice(tmp_path):
    process = start(tmp_path, "data.batch=4096")
    wait_until(process, lambda: b"torch" in Path(f"/proc/{process.pid}/maps").read_bytes())
    resource.prlimit(process.pid, resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
    _, said = end(process)
    assert process.returncode == 1, said
    assert said.splitlines()[-1].startswith(
        "error: the memory is too small for 4096 patches of 256 pixels; lower --set"
    )
    assert said.splitlines()[-1].endswith("; no checkpoint was written yet")
