from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from sr_deploy.measure import rounds
from sr_deploy.train import precision
from sr_deploy.train.precision import PrecisionChoice, choose_precision
from sr_deploy.train.recipe import PrecisionRecipe

pytestmark = pytest.mark.usefixtures("_clock")
BATCH = torch.rand(4, 3, 8, 8)


class Clock:
    """Time that passes when it is told to, and a little whenever it is read: what else runs here counts for nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        self.now += 1e-6
        return self.now


CLOCK = Clock()


@pytest.fixture
def _clock(monkeypatch):
    monkeypatch.setattr(precision, "_SECONDS", 0.2)
    clock = types.SimpleNamespace(monotonic=CLOCK.read, perf_counter=CLOCK.read, sleep=lambda _seconds: None)
    monkeypatch.setattr(precision, "time", clock)
    monkeypatch.setattr(rounds, "time", clock)


class Slow(nn.Module):
    """Takes as long as told by the format that it is called in."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[str, int]] = []

    def __deepcopy__(self, memo: object) -> Slow:
        copied = Slow(self.seconds)
        copied.calls = self.calls
        return copied

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        form = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "off"
        self.calls.append((form, lr_NCHW.shape[0]))
        CLOCK.now += self.seconds[form]
        return lr_NCHW * self.weight


def choose(seconds: dict[str, float], **recipe: object) -> tuple[PrecisionChoice, Slow]:
    network = Slow(seconds)
    wanted = PrecisionRecipe.model_validate({"channels_last": False, **recipe})
    return choose_precision(wanted, network, BATCH), network


def test_the_fastest_is_taken_and_its_time_kept():
    choice, _ = choose({"off": 0.02, "torch.bfloat16": 0.008, "torch.float16": 0.016})
    assert choice.autocast == "bf16"
    assert choice.step_milliseconds["bf16"] == pytest.approx(8, abs=0.1)
    assert set(choice.step_milliseconds) == {"fp32", "bf16", "fp16"}


def test_a_line_says_before_what_is_measured_and_how_long_all_may_take(caplog):
    network = Slow({"off": 0.5, "torch.bfloat16": 0.3, "torch.float16": 90.0})
    with caplog.at_level("INFO", logger="sr_deploy"):
        choose_precision(PrecisionRecipe(channels_last=False), network, BATCH, steps=3600)
    expected = "fastest: fp32, bf16 (estimated from one patch in fp32: 2 s for a step, 2 h for all 3600)"
    assert caplog.messages[0].endswith(expected)


def test_a_slight_gain_is_not_worth_fewer_bits():
    choice, _ = choose({"off": 0.02, "torch.bfloat16": 0.0195, "torch.float16": 0.0195})
    assert choice.autocast == "off"


def test_a_hopeless_format_costs_one_pass_on_one_sample():
    choice, network = choose({"off": 0.002, "torch.bfloat16": 0.3, "torch.float16": 0.3})
    assert choice.autocast == "off"
    assert [call for call in network.calls if call[0] != "off"] == [("torch.bfloat16", 1), ("torch.float16", 1)]
    assert set(choice.step_milliseconds) == {"fp32"}


def test_what_the_recipe_fixes_is_not_measured():
    choice, network = choose({}, autocast="bf16")
    assert choice == PrecisionChoice(autocast="bf16", channels_last=False)
    assert network.calls == []


def test_real_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    choice = choose_precision(PrecisionRecipe(autocast="bf16"), network, BATCH)
    assert set(choice.step_milliseconds) <= {"bf16", "bf16, channels last"}
    assert choice.autocast == "bf16"
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert network[0].weight.grad is None
