"""A run that is killed again and again ends with the bits of one that was not."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 60
SETTINGS = [
    f"run.steps={STEPS}",
    "run.checkpoint_every=7",
    "run.validate_every=30",
    "run.preview_every=30",
    "network.features=8",
    "network.blocks=2",
    "data.batch=4",
    "data.patch_size=64",
    'data.training=["astronaut"]',
    'data.held_out=["chelsea"]',
    'precision.autocast="off"',
    "precision.channels_last=false",
]

pytestmark = pytest.mark.slow


def start_training(out, *more):
    words = [sys.executable, "-m", "sr_deploy", "train", "--out", str(out), *more]
    for setting in SETTINGS:
        words += ["--set", setting]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def final_weights(run):
    return (run / "checkpoints" / f"step-{STEPS:06d}" / "generator_ema.safetensors").read_bytes()


def has_checkpoint(run):
    return any((run / "checkpoints").glob("step-*"))


def test_killed_and_resumed_equals_unbroken(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    process = start_training(unbroken)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text

    chance = random.Random(0)
    process = start_training(killed)
    kills = 0
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        seen = set(Path(killed).glob("checkpoints/step-*"))
        while process.poll() is None and set(killed.glob("checkpoints/step-*")) <= seen:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert has_checkpoint(killed)
        process = start_training(killed, "--resume")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert kills >= 3
    assert final_weights(killed) == final_weights(unbroken)
    lines = [len((run / "metrics.jsonl").read_text().splitlines()) for run in (unbroken, killed)]
    assert lines[0] == lines[1]
