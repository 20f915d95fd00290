"""A run that is killed again and again ends with the bits of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

KILLS = 10
# What makes of the recipe's stage a game with a discriminator, under the degradation with its pool of pairs.
GAME = [
    "degradation.canvas=80",
    "degradation.pool=16",
    "loss.adversarial.kind=vanilla",
    "loss.adversarial.weight=0.1",
    "discriminator.architecture=unet",
    "discriminator.features=4",
]
CASES = {"demo": (300, []), "compact": (120, GAME)}
SETTINGS = [
    "run.checkpoint_every=10",
    "run.validate_every=25",
    "run.preview_every=60",
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


def start_training(recipe, out, *more):
    steps, extra = CASES[recipe]
    words = [sys.executable, "-m", "sr_deploy", "train", recipe, "--out", str(out), *more]
    for setting in (*SETTINGS, *extra, f"run.steps={steps}"):
        words += ["--set", setting]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def final_weights(run, steps):
    return read_weights(run / "checkpoints" / f"step-{steps:06d}")


def read_weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def find_best(run):
    """The folder that the manifest names, which is there whenever a kill comes."""
    named = json.loads((run / "run.json").read_text()).get("best_checkpoint")
    assert named is None or (run / named / "generator.safetensors").is_file()
    return named


def list_checkpoints(run):
    return set((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("recipe", CASES)
def test_killed_and_resumed_equals_unbroken(tmp_path, recipe):
    steps, extra = CASES[recipe]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    process = start_training(recipe, unbroken)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text

    chance = random.Random(0)
    process = start_training(recipe, killed)
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
        find_best(killed)
        process = start_training(recipe, killed, "--resume")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert kills >= 3
    weights = final_weights(unbroken, steps)
    assert len(weights) == (3 if extra else 2)
    assert final_weights(killed, steps) == weights
    best = find_best(unbroken)
    assert find_best(killed) == best is not None
    assert read_weights(killed / best) == read_weights(unbroken / best)
    lines = [len((run / "metrics.jsonl").read_text().splitlines()) for run in (unbroken, killed)]
    assert lines[0] == lines[1]
