from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import CheckpointError, OutputError, TrainingError
from sr_deploy.run_folder import AVERAGE_NAME, GENERATOR_NAME, STATE_NAME, checkpoint_folder, list_checkpoints
from sr_deploy.train import checkpoint
from sr_deploy.train.checkpoint import delete_leftovers, delete_old_checkpoints, read_checkpoint_into, write_checkpoint
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.state import TrainingState


def build_state(recipe, seed: int) -> TrainingState:
    torch.manual_seed(seed)
    network = build_network(recipe.arch_spec())
    return TrainingState(
        network=network,
        average=MovingAverage(network, recipe.ema),
        optimizer=torch.optim.Adam(network.parameters(), fused=True),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )


def make_steps(state: TrainingState, count: int) -> None:
    for _ in range(count):
        state.optimizer.zero_grad()
        state.network(torch.full((1, 3, 8, 8), 0.5)).square().mean().backward()
        state.optimizer.step()
        state.average.update(state.network, state.step)
        state.step += 1
        state.metrics.setdefault("loss", []).append(float(state.step))


def test_everything_comes_back(tmp_path, make_recipe):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 3)
    folder = write_checkpoint(tmp_path, state, recipe.arch_spec())
    assert folder == tmp_path / "checkpoints" / "step-000003"
    assert sorted(path.name for path in folder.iterdir()) == [GENERATOR_NAME, AVERAGE_NAME, STATE_NAME]
    other = build_state(recipe, 2)
    read_checkpoint_into(folder, other)
    assert (other.step, other.metrics) == (3, {"loss": [1.0, 2.0, 3.0]})
    make_steps(state, 2)
    make_steps(other, 2)
    for mine, theirs in ((state.network, other.network), (state.average.network, other.average.network)):
        for key, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[key])


def test_state_holds_tensors_and_plain_containers_only(tmp_path, make_recipe):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 1)
    folder = write_checkpoint(tmp_path, state, recipe.arch_spec())
    packed = torch.load(folder / STATE_NAME, weights_only=True)
    assert packed["step"] == 1
    assert packed["optimizer"]["state"][0]["exp_avg"].shape == state.network.state_dict()["body.0.weight"].shape


def test_generators_say_what_they_are(tmp_path, make_recipe):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 2)
    folder = write_checkpoint(tmp_path, state, recipe.arch_spec())
    for name, network in ((GENERATOR_NAME, state.network), (AVERAGE_NAME, state.average.network)):
        read = read_checkpoint(folder / name)
        assert read.spec == recipe.arch_spec()
        assert all(torch.equal(tensor, read.state[key]) for key, tensor in network.state_dict().items())


def test_equal_states_are_equal_files(tmp_path, make_recipe):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    folders = [write_checkpoint(tmp_path / str(number), state, recipe.arch_spec()) for number in range(8)]
    for name in (GENERATOR_NAME, AVERAGE_NAME, STATE_NAME):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint_folder(tmp_path, step).mkdir(parents=True)
    delete_old_checkpoints(tmp_path, 2, "checkpoints/step-000002")
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 4, 5]
    delete_old_checkpoints(tmp_path, 2, None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000005"]


def test_a_failing_write_leaves_the_older_checkpoint_and_nothing_else(tmp_path, make_recipe, monkeypatch):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 1)
    write_checkpoint(tmp_path, state, recipe.arch_spec())
    make_steps(state, 1)

    def full_disk(state: TrainingState, pools: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_pack", full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        write_checkpoint(tmp_path, state, recipe.arch_spec())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


@pytest.mark.parametrize("name", [GENERATOR_NAME, STATE_NAME])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_checkpoints_are_named_with_the_way_out(tmp_path, make_recipe, name, damage):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 1)
    folder = write_checkpoint(tmp_path, state, recipe.arch_spec())
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "missing":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(CheckpointError, match=r"cannot be resumed from .* delete this folder to go on from"):
        read_checkpoint_into(folder, build_state(recipe, 1))


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / "checkpoints" / ".partial-abc").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000001").mkdir()
    (tmp_path / ".partial-run.json").write_text("{")
    delete_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "step-000001"]


def test_weights_that_are_no_numbers_are_never_written(tmp_path, make_recipe):
    recipe = make_recipe()
    state = build_state(recipe, 1)
    make_steps(state, 1)
    write_checkpoint(tmp_path, state, recipe.arch_spec())
    make_steps(state, 1)
    with torch.no_grad():
        next(iter(state.average.network.parameters()))[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"NaN or infinite after step 2 \(body\.0\.weight\)"):
        write_checkpoint(tmp_path, state, recipe.arch_spec())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
