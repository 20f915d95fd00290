"""Two CPU processes over gloo, started by torchrun, against one process: the same command, the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.errors import RecipeError
from sr_deploy.train.processes import Processes
from sr_deploy.train.session import _check_share

SETTINGS = [
    "network.features=8", "network.blocks=1", "data.patch_size=32", "data.batch=4", 'data.training=["astronaut"]',
    'data.held_out=["chelsea"]', "precision.autocast=off", "precision.channels_last=false", "run.log_every=1",
    "run.checkpoint_every=6", "run.validate_every=100", "run.preview_every=100",
]  # fmt: skip


def run(processes: int, out: Path, *words: str, settings: list[str], code: int = 0) -> tuple[str, str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "sr_deploy", "train", "--device", "cpu"]
    for setting in (*SETTINGS, *settings):
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--out", str(out), *words], capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "training"}


def last_weights(out: Path, step: int, name: str = "generator_ema") -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}" / f"{name}.safetensors")


@pytest.mark.slow
def test_two_processes_with_half_a_batch_each_train_like_one_with_all_of_it(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(1, one, settings=["run.steps=12"])
    stdout, _ = run(2, two, "--json", settings=["run.steps=12"])
    manifest = json.loads(stdout)  # one document: the first process speaks for both
    assert (manifest["processes"], manifest["status"], manifest["step"]) == (2, "finished", 12)
    assert losses(two).keys() == losses(one).keys() == set(range(1, 13))
    for step, loss in losses(one).items():
        assert losses(two)[step] == pytest.approx(loss, rel=1e-4), step
    for key, weight in last_weights(one, 12).items():
        torch.testing.assert_close(last_weights(two, 12)[key], weight, rtol=0, atol=1e-4)


def test_a_batch_has_to_divide_among_the_processes(make_recipe):
    _check_share(make_recipe(data={"batch": 4}), Processes(world_size=2))
    with pytest.raises(RecipeError, match=r"data\.batch = 3 .* among 2 processes with optimizer\.accumulate = 1"):
        _check_share(make_recipe(data={"batch": 3}), Processes(world_size=2))


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_in_one_line(tmp_path):
    _, stderr = run(2, tmp_path / "run", settings=["run.steps=1", "data.batch=3"], code=1)
    assert "error: data.batch = 3 does not divide among 2 processes with optimizer.accumulate = 1" in stderr
    assert not (tmp_path / "run").exists()
