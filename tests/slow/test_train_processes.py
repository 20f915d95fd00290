"""Two processes that torchrun started: stopped, resumed, with a discriminator and a pool of training pairs."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = [
    "network.features=8", "network.blocks=1", "data.patch_size=32", "data.batch=4", 'data.training=["astronaut"]',
    'data.held_out=["chelsea"]', "precision.autocast=off", "precision.channels_last=false", "run.log_every=1",
    "run.validate_every=100", "run.preview_every=100", "run.steps=12", "run.keep_checkpoints=99",
]  # fmt: skip
GAME = [
    "degradation.canvas=48", "degradation.pool=8", "loss.adversarial.kind=vanilla", "loss.adversarial.weight=0.1",
    "discriminator.architecture=unet", "discriminator.features=4", "network.architecture=compact",
]  # fmt: skip
RECIPES = {"demo": [], "compact": GAME}

pytestmark = pytest.mark.slow


def start(recipe, out, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "sr_deploy", "train", recipe, "--device", "cpu", "--out", str(out), *words]
    for setting in (*SETTINGS, *RECIPES[recipe]):
        command += ["--set", setting]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finish(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed_together_ends_with_the_bits_of_an_unbroken_run(tmp_path, recipe, number):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(start(recipe, unbroken, "--set", "run.checkpoint_every=12"))
    process = start(recipe, broken, "--set", "run.checkpoint_every=1")
    while process.poll() is None and not (broken / "checkpoints" / "step-000003").exists():
        time.sleep(0.01)
    if number == signal.SIGKILL:  # torchrun cannot pass it on: the workers are killed by name of their run
        subprocess.run(["pkill", "-KILL", "-f", str(broken)], check=False)
    process.send_signal(number)
    process.communicate(timeout=120)
    finish(start(recipe, broken, "--resume", "--set", "run.checkpoint_every=12"))
    names = [path.name for path in (unbroken / "checkpoints" / "step-000012").glob("*.safetensors")]
    assert len(names) == (3 if RECIPES[recipe] else 2)
    for name in names:
        ours, theirs = (load_file(run / "checkpoints" / "step-000012" / name) for run in (broken, unbroken))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
