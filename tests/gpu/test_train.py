from __future__ import annotations

import json
import threading

import pytest
import torch

from sr_deploy.config import validate_config
from sr_deploy.train.loop import StepReport, train
from sr_deploy.train.recipe import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]


@pytest.fixture
def recipe() -> Recipe:
    document = {
        "name": "tiny",
        "scale": 4,
        "network": {"architecture": "compact", "features": 16, "blocks": 2},
        "data": {"training": ["astronaut"], "held_out": ["coffee"], "patch_size": 64, "batch": 8},
        "optimizer": {"learning_rate": 2e-3},
        "run": {"steps": 60, "log_every": 10, "checkpoint_every": 20, "validate_every": 60, "preview_every": 60},
    }
    return validate_config(document, Recipe, "test")


@pytest.mark.parametrize("autocast", ["off", "bf16", "fp16", "auto"])
def test_training_on_the_gpu_lowers_the_loss(tmp_path, recipe, autocast):
    recipe = recipe.model_copy(update={"precision": recipe.precision.model_copy(update={"autocast": autocast})})
    manifest = train(recipe, tmp_path / "run")
    assert (manifest.status, manifest.device) == ("finished", "cuda")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "training"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_a_run_stopped_on_the_gpu_is_resumed_on_either_device(tmp_path, recipe):
    for device in ("cuda", "cpu"):
        stop = threading.Event()

        def watch(report: StepReport, stop: threading.Event = stop) -> None:
            if report.step == 24:
                stop.set()

        run = tmp_path / device
        assert train(recipe, run, stop=stop, on_step=watch).step == 25
        manifest = train(recipe, run, resume=True, device=device)
        assert (manifest.status, manifest.step, manifest.device) == ("finished", 60, device)
