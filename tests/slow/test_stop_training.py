"""A real training process that is asked to stop goes on to the bits of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.run_folder import find_last_checkpoint
from sr_deploy.train.run import read_manifest

pytestmark = pytest.mark.slow

STEPS = 400
SMALL = ("network.features=8", "network.blocks=1", "data.patch_size=32", "data.batch=2", f"run.steps={STEPS}",
         "run.checkpoint_every=7", "run.preview_every=50", "run.validate_every=150", "precision.autocast=bf16",
         "precision.channels_last=true")  # fmt: skip


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [word for change in SMALL for word in ("--set", change)]
    command = [sys.executable, "-m", "sr_deploy", "train", *words, "--out", "run", *more]
    return subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for_checkpoint(run: Path, after: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        last = find_last_checkpoint(run)
        if last is not None and last[0] > after:
            return
        time.sleep(0.01)
    pytest.fail(f"no checkpoint after step {after}: {process.communicate()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    assert process.wait(timeout=300) == 0, process.communicate()
    return folder / "run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_twice_and_resumed_gives_the_same_bits(tmp_path, whole, number):
    run, after = tmp_path / "run", 0
    for attempt in range(2):
        process = start(tmp_path, *(("--resume",) if attempt else ()))
        wait_for_checkpoint(run, after + 40, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        after = find_last_checkpoint(run)[0]
        assert after < STEPS
        assert process.returncode == 130
        assert f"stopped at step {after} of {STEPS}; go on with: sr-deploy train --resume --out run" in errors
        assert read_manifest(run).status == "stopped"
    process = start(tmp_path, "--resume")
    assert process.wait(timeout=300) == 0, process.communicate()
    for name in ("generator.safetensors", "generator_ema.safetensors"):
        expected = load_file(whole / "checkpoints" / f"step-{STEPS:06d}" / name)
        seen = load_file(run / "checkpoints" / f"step-{STEPS:06d}" / name)
        assert all(torch.equal(tensor, seen[key]) for key, tensor in expected.items())
    assert not list(run.rglob(".partial-*"))
