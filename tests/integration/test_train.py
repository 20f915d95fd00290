"""The trainer as a whole: tiny networks on drawn pictures and on bundled photographs, on the CPU."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import InputError, TrainingError
from sr_deploy.imaging.codec import read_image
from sr_deploy.model import open_model
from sr_deploy.run_folder import AVERAGE_NAME, GENERATOR_NAME, STATE_NAME, find_last_checkpoint, list_checkpoints
from sr_deploy.train.loop import StepReport, train
from sr_deploy.train.metrics import read_metrics
from sr_deploy.train.recipe import read_run_recipe
from sr_deploy.train.run import read_manifest


def test_a_measured_run_says_at_its_start_how_long_it_takes_at_least(tmp_path, make_recipe, said):
    recipe = make_recipe(precision={"channels_last": "auto"}, run={"steps": 10_000_000})
    stop = threading.Event()
    stop.set()
    train(recipe, tmp_path / "auto", stop=stop)
    found = re.search(r"measured: .*; at least ([0-9]+) (min|h)$", said[-1])
    assert found is not None
    assert int(found[1]) > 0
    gan: dict[str, dict[str, object]] = {
        "loss": {"adversarial": {"kind": "vanilla", "weight": 0.1}},
        "discriminator": {"architecture": "unet", "features": 4},
    }
    judged = make_recipe(precision={"channels_last": "auto"}, run={"steps": 10_000_000}, **gan)
    train(judged, tmp_path / "judged", stop=stop)
    assert re.search(r"; at least [0-9]+ (min|h), and what the discriminator takes$", said[-1])
    train(make_recipe(run={"steps": 1}), tmp_path / "off")
    assert "at least" not in said[-1]  # nothing was measured


def stop_at(step: int) -> dict[str, object]:
    """Arguments of `train` that end it after `step` updates, as Ctrl-C does."""
    wish = threading.Event()

    def watch(report: StepReport) -> None:
        if report.step == step - 1:  # the wish comes before the step; the step is made whole
            wish.set()

    return {"stop": wish, "on_step": watch}


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, averages and optimizer of the last checkpoints are equal to the bit."""
    (step, first), (other_step, second) = find_last_checkpoint(one), find_last_checkpoint(other)
    assert step == other_step
    for name in (GENERATOR_NAME, AVERAGE_NAME):
        tensors, others = load_file(first / name), load_file(second / name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items()), name
    state, other_state = (torch.load(folder / STATE_NAME, weights_only=True) for folder in (first, second))
    assert state["metrics"] == other_state["metrics"]
    assert state["scaler"] == other_state["scaler"]
    for index, moments in state["optimizer"]["state"].items():
        assert all(
            torch.equal(tensor, other_state["optimizer"]["state"][index][key]) for key, tensor in moments.items()
        )


def logged_losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "training"]


def test_norms_of_gradient_and_weights_are_logged(tmp_path, make_recipe):
    run = tmp_path / "run"
    train(make_recipe(optimizer={"clip_norm": 1e-3}), run)
    lines = [line for line in read_metrics(run) if line["kind"] == "training"]
    weights = torch.cat([one.flatten() for one in load_file(find_last_checkpoint(run)[1] / GENERATOR_NAME).values()])
    assert lines[-1]["step"] == 12
    assert lines[-1]["weight_norm"] == pytest.approx(float(weights.norm()), rel=1e-6)
    assert len({line["weight_norm"] for line in lines}) == 4
    assert all(line["gradient_norm"] > 1e-2 for line in lines)  # before it was clipped
    assert not any("discriminator_gradient_norm" in line for line in lines)


def test_tensorboard_shows_the_previews_that_lie_in_the_runs_folder(tmp_path, make_recipe):
    pytest.importorskip("tensorboard", reason="needs the train extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_recipe(run={"preview_every": 5}), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    shown = events.Images("preview")
    assert [one.step for one in shown] == [5, 10, 12]
    for one in shown:
        (tmp_path / "shown.png").write_bytes(one.encoded_image_string)
        written = read_image(tmp_path / "run" / "previews" / f"step-{one.step:06d}.png")
        assert np.array_equal(read_image(tmp_path / "shown.png"), written)


SRRESNET = {"architecture": "srresnet", "features": 8, "blocks": 1}
VARIANTS = {
    "compact fp32": {},
    "batch normalization, channels last": {"network": SRRESNET, "precision": {"channels_last": True}},
    "bf16": {"precision": {"autocast": "bf16", "channels_last": True}, "data": {"workers": 2}},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_stopped_and_resumed_ends_with_the_bits_of_one_that_was_not(tmp_path, make_recipe, variant):
    recipe = make_recipe(**variant)
    whole = train(recipe, tmp_path / "whole")
    assert whole.status == "finished"
    stopped = train(recipe, tmp_path / "parts", **stop_at(5))  # between two checkpoints and two lines of metrics
    assert (stopped.status, stopped.step) == ("stopped", 5)
    assert find_last_checkpoint(tmp_path / "parts")[0] == 5
    resumed = train(recipe, tmp_path / "parts", resume=True)
    assert (resumed.status, resumed.step) == ("finished", 12)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert logged_losses(tmp_path / "parts") == logged_losses(tmp_path / "whole")
    assert resumed.last_validation == whole.last_validation
    assert resumed.created_at == stopped.created_at


class Killed(BaseException):
    """What no handler expects."""


def test_killed_and_resumed_goes_on_from_the_last_checkpoint(tmp_path, make_recipe):
    recipe = make_recipe()
    train(recipe, tmp_path / "whole")

    def kill(report: StepReport) -> None:
        if report.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, tmp_path / "parts", on_step=kill)
    run = tmp_path / "parts"
    # What a kill also leaves behind: a folder half-written, a line cut short, a status that is not true.
    (run / "checkpoints" / ".partial-x").mkdir()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "ki')
    assert [step for step, _ in logged_losses_until_cut(run)] == [3, 6]
    assert find_last_checkpoint(run)[0] == 6  # that of the best validation
    train(recipe, run, resume=True)
    assert_same_end(tmp_path / "whole", run)
    assert logged_losses(run) == logged_losses(tmp_path / "whole")
    assert not list(run.rglob(".partial-*"))


def logged_losses_until_cut(run: Path) -> list[tuple[int, float]]:
    whole_lines = (run / "metrics.jsonl").read_text().splitlines()[:-1]
    return [(line["step"], line["loss"]) for line in map(json.loads, whole_lines) if line["kind"] == "training"]


def test_killed_before_the_first_checkpoint_begins_again(tmp_path, make_recipe):
    recipe = make_recipe(run={"steps": 5})
    train(recipe, tmp_path / "whole")

    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, tmp_path / "parts", on_step=kill)
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_run_folder_holds_what_the_design_says(tmp_path, make_recipe):
    recipe = make_recipe(
        run={"keep_checkpoints": 2, "keep_best": False, "preview_every": 6}, precision={"channels_last": "auto"}
    )
    manifest = train(recipe, tmp_path / "run")
    run = tmp_path / "run"
    assert read_manifest(run) == manifest
    assert (manifest.name, manifest.recipe, manifest.step, manifest.steps) == ("run", "tiny", 12, 12)
    assert manifest.checkpoints == ("checkpoints/step-000008", "checkpoints/step-000012")
    assert [step for step, _ in list_checkpoints(run)] == [8, 12]
    assert sorted(path.name for path in (run / "previews").iterdir()) == ["step-000006.png", "step-000012.png"]
    assert manifest.best_validation is not None
    assert manifest.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"][0]) for line in lines] == [
        (3, "t"), (6, "t"), (6, "v"), (9, "t"), (12, "t"), (12, "v")
    ]  # fmt: skip
    stored = read_run_recipe(run / "recipe.toml")
    assert stored.precision.channels_last == manifest.precision.channels_last  # "auto" is resolved
    assert stored == recipe.model_copy(update={"precision": stored.precision})
    assert open_model(run).arch == recipe.arch_spec()
    averaged = load_file(run / "checkpoints" / "step-000012" / AVERAGE_NAME)
    loaded = open_model(run).load_network().state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in averaged.items())


def test_stored_recipe_trains_the_same_bits(tmp_path, make_recipe):
    train(make_recipe(precision={"autocast": "auto", "channels_last": "auto"}), tmp_path / "a")
    train(read_run_recipe(tmp_path / "a" / "recipe.toml"), tmp_path / "b")
    assert_same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("pixel", ["l1", "mse", "charbonnier"])
def test_training_lowers_the_loss_and_beats_its_own_start(tmp_path, make_recipe, pixel):
    recipe = make_recipe(
        loss={"pixel": pixel},
        data={"batch": 4, "workers": 0},
        optimizer={"learning_rate": 5e-3},
        run={"steps": 120, "log_every": 20, "checkpoint_every": 200, "validate_every": 200, "preview_every": 200},
    )
    start = train(recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": 1})}), tmp_path / "start")
    end = train(recipe, tmp_path / "end")
    losses = [loss for _, loss in logged_losses(tmp_path / "end")]
    assert losses[-1] < 0.7 * losses[0]
    assert end.last_validation.model.psnr_y > start.last_validation.model.psnr_y + 2
    assert end.last_validation.bicubic == start.last_validation.bicubic


def test_resume_refuses_another_recipe_that_was_not_asked_for(tmp_path, make_recipe):
    train(make_recipe(), tmp_path / "run", **stop_at(5))
    with pytest.raises(
        TrainingError, match=r"optimizer\.learning_rate: 0\.002 -> 0\.1; leave .* --set optimizer\.learning_rate="
    ):
        train(make_recipe(optimizer={"learning_rate": 0.1}), tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match=r"run\.steps = 3: its last checkpoint is of step 5 already"):
        train(make_recipe(run={"steps": 3}), tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="there is no run"):
        train(make_recipe(), tmp_path / "nowhere", resume=True)
    wider = make_recipe(network={"features": 12})
    with pytest.raises(TrainingError, match=r"network\.features: 8 -> 12: a run keeps its network .* --from"):
        train(wider, tmp_path / "run", resume=True, changes=["network.features"])


def test_a_finished_run_says_so_and_can_be_trained_on(tmp_path, make_recipe, said):
    finished = train(make_recipe(), tmp_path / "run")
    said.clear()
    assert train(make_recipe(), tmp_path / "run", resume=True) == finished
    assert said == [f"{tmp_path / 'run'} is finished: 12 steps; to train on: --resume --set run.steps=MORE"]
    longer = train(make_recipe(run={"steps": 14}), tmp_path / "run", resume=True)
    assert (longer.status, longer.step, longer.steps) == ("finished", 14, 14)
    assert [step for step, _ in logged_losses(tmp_path / "run")] == [3, 6, 9, 12]


def test_starting_from_weights(tmp_path, make_recipe):
    train(make_recipe(), tmp_path / "first")
    recipe = make_recipe(seed=99, optimizer={"learning_rate": 1e-12}, run={"steps": 1})
    manifest = train(recipe, tmp_path / "second", start_from=tmp_path / "first")
    before = load_file(tmp_path / "first" / "checkpoints" / "step-000012" / AVERAGE_NAME)
    after = read_checkpoint(tmp_path / "second" / "checkpoints" / "step-000001" / GENERATOR_NAME).state
    assert all(torch.allclose(tensor, after[key], atol=1e-9) for key, tensor in before.items())
    assert manifest.started_from.path == str(tmp_path / "first")
    assert len(manifest.started_from.sha256) == 64
    wider = make_recipe(network={"features": 12})
    with pytest.raises(TrainingError, match=r"holds compact x2, 1 blocks, 8 features, RGB, .* tiny trains"):
        train(wider, tmp_path / "third", start_from=tmp_path / "first")
    with pytest.raises(TrainingError, match="starts from a generator of recipe psnr; train that first"):
        train(make_recipe(init_from="psnr"), tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_starting_from_weights_of_another_size_says_what_was_taken(tmp_path, make_recipe, said):
    train(make_recipe(), tmp_path / "first")
    said.clear()
    recipe = make_recipe(scale=4, network={"blocks": 2}, optimizer={"learning_rate": 1e-12}, run={"steps": 1})
    manifest = train(recipe, tmp_path / "second", start_from=tmp_path / "first")
    transfer = "6 tensors taken, initialized: body.4 to body.6, unused: body.4"
    assert manifest.started_from.transfer == transfer
    assert said[0].startswith("of 3 pictures to validate on 3 are trained on too")  # they have one folder
    assert said[1] == f"starts from {tmp_path / 'first'}, compact x2, 1 blocks, 8 features, RGB: {transfer}"
    before = load_file(tmp_path / "first" / "checkpoints" / "step-000012" / AVERAGE_NAME)
    after = read_checkpoint(tmp_path / "second" / "checkpoints" / "step-000001" / GENERATOR_NAME).state
    taken = [f"body.{number}.{name}" for number in (0, 2) for name in ("weight", "bias")]
    assert all(torch.allclose(before[key], after[key], atol=1e-9) for key in [*taken, "body.1.weight", "body.3.weight"])
    with pytest.raises(TrainingError, match=r"no weights fit \(architecture compact instead of srresnet\)"):
        train(make_recipe(network=SRRESNET), tmp_path / "third", start_from=tmp_path / "first")
    assert not (tmp_path / "third").exists()


def test_fp16_scales_its_gradients(tmp_path, make_recipe):
    recipe = make_recipe(precision={"autocast": "fp16"}, run={"steps": 2})
    manifest = train(recipe, tmp_path / "run")
    assert manifest.precision.autocast == "fp16"
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-000002" / STATE_NAME, weights_only=True)
    assert state["scaler"]["scale"] == 65536.0
    assert state["scaler"]["_growth_tracker"] == 2


def test_bad_data_leaves_no_run_behind(tmp_path, make_recipe):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "holds no images"), ("missing", "does not exist")):
        with pytest.raises(InputError, match=message):
            train(make_recipe(data={"folder": str(tmp_path / folder)}), tmp_path / "run")
    with pytest.raises(InputError, match="unknown architecture 'unet'; known: compact"):
        train(make_recipe(network={"architecture": "unet"}), tmp_path / "run")
    with pytest.raises(InputError, match=r"no device 'tpu' here; available: .*cpu"):
        train(make_recipe(), tmp_path / "run", device="tpu")
    assert not (tmp_path / "run").exists()
