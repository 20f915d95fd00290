from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sr_deploy.errors import TrainingError
from sr_deploy.train.degradation import TrainingPair
from sr_deploy.train.metric_buffer import MetricBuffer
from sr_deploy.train.networks import (
    build_criteria,
    build_discriminator_state,
    build_generator,
    build_state,
    build_updater,
)
from sr_deploy.train.precision import PrecisionChoice
from sr_deploy.train.processes import SINGLE_PROCESS
from sr_deploy.train.update import Criteria

CPU = torch.device("cpu")
GAN = {
    "loss": {"adversarial": {"kind": "relativistic_average", "weight": 0.1}},
    "discriminator": {"architecture": "vgg128", "features": 4},
    "data": {"patch_size": 32},
}


def make_updater(recipe):
    precision = PrecisionChoice(autocast="off", channels_last=False)
    network, _ = build_generator(recipe, None, resume=False)
    discriminator = build_discriminator_state(recipe, CPU, resume=False)
    state = build_state(recipe, network, discriminator, precision, CPU)
    return build_updater(
        recipe, state, build_criteria(recipe, CPU), precision=precision, device=CPU, processes=SINGLE_PROCESS
    )


def make_pair(recipe, seed: int = 0) -> TrainingPair:
    random = torch.Generator().manual_seed(seed)
    side = recipe.data.patch_size
    hr = torch.rand(recipe.data.batch, 3, side, side, generator=random)
    return TrainingPair(nn.functional.avg_pool2d(hr, recipe.scale), hr, hr)


def everything(updater) -> dict[str, torch.Tensor]:
    """Weights, buffers and moments of both networks, copied."""
    state = updater.state
    found = {f"generator.{key}": tensor for key, tensor in state.network.state_dict().items()}
    optimizers = {"generator": state.optimizer}
    if state.discriminator is not None:
        found |= {f"discriminator.{key}": tensor for key, tensor in state.discriminator.network.state_dict().items()}
        optimizers["discriminator"] = state.discriminator.optimizer
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            found |= {f"{name}.moments.{index}.{key}": tensor for key, tensor in moments.items()}
    return {key: tensor.clone() for key, tensor in found.items()}


@pytest.mark.parametrize("sections", [{"network": {"architecture": "srresnet"}}, GAN], ids=["batch norm", "GAN"])
@pytest.mark.parametrize("autocast", ["off", "fp16"])
def test_a_non_finite_batch_changes_nothing_but_the_count(make_recipe, sections, autocast):
    recipe = make_recipe(**sections)
    updater = make_updater(recipe)
    if autocast == "fp16":
        updater.state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert updater.update(make_pair(recipe), 1e-3)["healthy"] == 1
    before = everything(updater)
    spoiled = make_pair(recipe, 1)
    spoiled.lr_NCHW[0, 0, 3, 3] = float("nan")
    assert updater.update(spoiled, 1e-3)["healthy"] == 0
    after = everything(updater)
    floating = [key for key in before if before[key].is_floating_point()]
    assert [key for key in floating if not torch.equal(before[key], after[key])] == []
    assert updater.update(make_pair(recipe, 2), 1e-3)["healthy"] == 1
    later = everything(updater)
    assert all(bool(torch.isfinite(later[key]).all()) for key in floating)
    assert not torch.equal(before[floating[0]], later[floating[0]])


def test_parts_of_a_batch_make_the_step_of_the_whole(make_recipe):
    recipe = make_recipe()
    whole = make_updater(recipe)
    parts = make_updater(make_recipe(optimizer={"accumulate": 4}))
    for seed in range(3):
        one, other = (updater.update(make_pair(recipe, seed), 1e-3) for updater in (whole, parts))
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)
    for key, weight in whole.state.network.state_dict().items():
        torch.testing.assert_close(weight, parts.state.network.state_dict()[key], rtol=0, atol=2e-5)


def test_clipping_shortens_the_gradient_to_the_norm(make_recipe):
    recipe = make_recipe(optimizer={"clip_norm": 1e-3})
    updater = make_updater(recipe)
    figures = updater.update(make_pair(recipe), 1e-3)
    gradients = [parameter.grad for parameter in updater.state.network.parameters()]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-2)
    free = make_updater(make_recipe())
    free.update(make_pair(recipe), 1e-3)
    before = float(torch.nn.utils.get_total_norm([one.grad for one in free.state.network.parameters()]))
    assert before > 1e-2
    assert float(figures["gradient_norm"]) == pytest.approx(before, rel=1e-6)


def test_both_networks_learn_and_the_figures_add_up(make_recipe):
    recipe = make_recipe(**GAN)
    updater = make_updater(recipe)
    before = everything(updater)
    figures = updater.update(make_pair(recipe), 1e-3)
    after = everything(updater)
    assert set(figures) == {
        "healthy", "loss", "pixel", "adversarial", "gradient_norm", "discriminator", "d_real", "d_fake",
        "discriminator_gradient_norm",
    }  # fmt: skip
    for name, network in (("", updater.state.network), ("discriminator_", updater.state.discriminator.network)):
        norm = torch.cat([one.grad.flatten() for one in network.parameters()]).norm()  # nothing clips it here
        assert float(figures[f"{name}gradient_norm"]) == pytest.approx(float(norm), rel=1e-5)
    assert float(figures["loss"]) == pytest.approx(float(figures["pixel"] + figures["adversarial"]), rel=1e-6)
    for name in ("generator.body.0.weight", "discriminator.conv0_0.weight"):
        assert not torch.equal(before[name], after[name])


def test_the_generators_pass_leaves_no_gradient_in_the_discriminator(make_recipe):
    recipe = make_recipe(**GAN)
    updater, alone = make_updater(recipe), make_updater(recipe)
    pair = make_pair(recipe)
    discriminator = copy.deepcopy(alone.state.discriminator.network)
    with torch.no_grad():
        sr = alone.state.network(pair.lr_NCHW)
    alone.criteria.discriminator_loss(discriminator(pair.hr_NCHW), discriminator(sr)).backward()
    updater.update(pair, 1e-3)
    mine = {name: one.grad for name, one in updater.state.discriminator.network.named_parameters()}
    for name, one in discriminator.named_parameters():
        torch.testing.assert_close(one.grad, mine[name], rtol=1e-4, atol=1e-6)


def test_the_error_budget_leaves_bad_steps_out_of_the_means_and_counts_them(make_recipe):
    state = make_updater(make_recipe()).state
    buffer = MetricBuffer(state, SINGLE_PROCESS, bad_steps=2)
    for loss in (1.0, float("nan"), 3.0):
        state.step += 1
        buffer.add({"healthy": torch.tensor(float(math.isfinite(loss))), "loss": torch.tensor(loss)})
    buffer.collect()
    assert (state.skipped, state.bad_in_row) == (1, 0)
    assert buffer.take_means() == {"loss": 2.0, "skipped_steps": 1}
    assert buffer.take_means() == {}


def test_a_loss_that_does_not_say_what_it_needs_is_refused(make_recipe):
    recipe = make_recipe()
    updater = make_updater(recipe)
    for asked in ("discriminator", "teacher"):
        terms = {"toy": lambda inputs, asked=asked: getattr(inputs, asked)(inputs.lr_NCHW).mean()}
        with pytest.raises(TrainingError, match=f"asks for the {asked}"):
            replace(updater, criteria=Criteria(terms)).update(make_pair(recipe), 1e-3)
