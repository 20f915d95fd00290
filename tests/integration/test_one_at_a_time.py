"""Two processes that are started at once on one thing: each has its own, or the second is told who is at it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_deploy.config import read_toml
from sr_deploy.train.run import read_manifest

TINY = ("network.features=8", "network.blocks=1", "data.batch=2", "data.patch_size=32", 'data.training=["astronaut"]',
        'data.held_out=["chelsea"]', "precision.autocast=off", "precision.channels_last=false",
        "run.log_every=1", "run.preview_every=100000", "run.validate_every=100000")  # fmt: skip


def start(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    changes = [word for change in (*TINY, *settings) for word in ("--set", change)]
    command = [sys.executable, "-m", "sr_deploy", "train", *changes, *words]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_trainings_started_at_once_have_a_run_each(tmp_path):
    processes = [start(tmp_path, settings=(f"seed={seed}", "run.steps=5")) for seed in (11, 22, 33)]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    runs = sorted((tmp_path / "runs").iterdir())
    assert [run.name for run in runs] == ["demo", "demo-2", "demo-3"]
    assert sorted(read_toml(run / "recipe.toml")["seed"] for run in runs) == [11, 22, 33]
    for run, (out, _) in zip(sorted(runs, key=lambda run: read_toml(run / "recipe.toml")["seed"]), said, strict=True):
        assert f"{run.relative_to(tmp_path)}: 5 steps in" in out
        assert read_manifest(run).name == run.name
        assert read_steps(run)[:5] == [1, 2, 3, 4, 5]
        assert not list(run.glob(".*"))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_run_is_resumed_by_one_process_at_a_time(tmp_path, number):
    long = ("run.steps=100000", "run.checkpoint_every=10")
    first = start(tmp_path, settings=long)
    run = tmp_path / "runs" / "demo"
    while first.poll() is None and not list(run.glob("checkpoints/step-*")):
        time.sleep(0.05)
    second = start(tmp_path, "demo", "--resume", settings=long)
    _, said = second.communicate(timeout=240)
    assert second.returncode == 1, said
    assert f"error: runs/demo is being written by another sr-deploy (process {first.pid} on " in said
    first.send_signal(number)
    _, said = first.communicate(timeout=60)
    assert first.returncode == (130 if number == signal.SIGTERM else -number), said
    last = max(int(path.name.partition("-")[2]) for path in run.glob("checkpoints/step-*"))
    third = start(tmp_path, "demo", "--resume", settings=(f"run.steps={last + 5}", "run.checkpoint_every=10"))
    assert third.wait(timeout=240) == 0, third.communicate()
    assert read_steps(run)[: last + 5] == list(range(1, last + 6))
    assert not list(run.rglob(".*"))
