"""A run that is killed again and again ends with the bits of one that was not."""

import random
import signal
import subprocess
import sys
import time

import pytest

STEPS = 300
KILLS = 10
SETTINGS = [
    f"run.steps={STEPS}",
    "run.checkpoint_every=10",
    "run.validate_every=150",
    "run.preview_every=150",
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


def list_checkpoints(run):
    return set((run / "checkpoints").glob("step-*"))


def test_killed_and_resumed_equals_unbroken(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    process = start_training(unbroken)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text

    chance = random.Random(0)
    process = start_training(killed)
    kills = 0
    while kills < KILLS:
        seen = list_checkpoints(killed)
        while process.poll() is None and list_checkpoints(killed) <= seen:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert list_checkpoints(killed)
        process = start_training(killed, "--resume")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert kills >= 3
    assert final_weights(killed) == final_weights(unbroken)
    lines = [len((run / "metrics.jsonl").read_text().splitlines()) for run in (unbroken, killed)]
    assert lines[0] == lines[1]
