"""Steps with a non-finite loss: what they end, and what they must not leave behind."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.errors import TrainingError
from sr_deploy.run_folder import GENERATOR_NAME, list_checkpoints
from sr_deploy.train.degradation import TrainingPair
from sr_deploy.train.loop import train
from sr_deploy.train.run import read_manifest
from sr_deploy.train.update import Updater


def logged_steps(run: Path) -> list[dict[str, float]]:
    """Lines of kind training; none may hold what JSON does not have, as NaN."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    return [line for line in found if line["kind"] == "training"]


def test_a_training_that_diverges_ends_and_keeps_the_checkpoints(tmp_path, make_recipe):
    recipe = make_recipe(
        optimizer={"schedule": {"kind": "constant"}},
        run={"checkpoint_every": 1, "bad_steps": 2, "keep_checkpoints": 9, "log_every": 1},
    )
    # More than a recipe may ask for: it takes one step for the weights to grow beyond all numbers.
    far = recipe.optimizer.model_copy(update={"learning_rate": 1e30})
    recipe = recipe.model_copy(update={"optimizer": far})
    with pytest.raises(TrainingError, match=r"in 3 steps in a row, up to step 4 \(loss (nan|inf)\)"):
        train(recipe, tmp_path / "run")
    manifest = read_manifest(tmp_path / "run")
    assert manifest.status == "failed"
    # Step 1 was the last that had numbers; what came after waits for the next one, which never comes.
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [1]
    for _, folder in list_checkpoints(tmp_path / "run"):
        weights = load_file(folder / GENERATOR_NAME)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    first, *_ = logged_steps(tmp_path / "run")
    assert first["gradient_norm"] > 0
    assert "weight_norm" not in first  # the sum of their squares is beyond all numbers


def test_a_checkpoint_due_at_a_non_finite_step_waits_for_the_next_finite_one(tmp_path, make_recipe, monkeypatch):
    recipe = make_recipe()  # checkpoints at 4, 8 and 12
    update = Updater.update

    def spoil(updater: Updater, pair: TrainingPair, learning_rate: float, *rest: object) -> dict[str, torch.Tensor]:
        if updater.state.step in (3, 4, 7):  # the steps after them are 4, 5 and 8
            pair = TrainingPair(pair.lr_NCHW * math.nan, pair.hr_NCHW, pair.target_NCHW)
        return update(updater, pair, learning_rate, *rest)

    monkeypatch.setattr(Updater, "update", spoil)
    manifest = train(recipe, tmp_path / "run")
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [6, 9, 12]
    assert (manifest.status, manifest.step) == ("finished", 12)
    assert [line.get("skipped_steps", 0) for line in logged_steps(tmp_path / "run")] == [0, 2, 1, 0]
    assert all(line["gradient_norm"] > 0 and line["weight_norm"] > 0 for line in logged_steps(tmp_path / "run"))
    stop = threading.Event()
    train(recipe, tmp_path / "stopped", stop=stop, on_step=lambda report: stop.set() if report.step == 3 else None)
    # Whoever stops a run keeps what there is.
    assert [step for step, _ in list_checkpoints(tmp_path / "stopped")] == [4]
