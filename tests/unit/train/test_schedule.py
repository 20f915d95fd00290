from __future__ import annotations

import pytest

from sr_deploy.train.recipe import OptimizerRecipe, ScheduleRecipe
from sr_deploy.train.schedule import learning_rate_at


def rates(schedule: dict[str, object], steps: list[int], total: int = 100) -> list[float]:
    optimizer = OptimizerRecipe(learning_rate=2e-4, schedule=ScheduleRecipe.model_validate(schedule))
    return [learning_rate_at(step, optimizer, total) for step in steps]


def test_constant():
    assert rates({"kind": "constant"}, [0, 99]) == [2e-4, 2e-4]


def test_multistep_halves_at_each_milestone():
    # ESRGAN's: halved at 50k, 100k, 200k, 300k.
    milestones = [50_000, 100_000, 200_000, 300_000]
    seen = rates({"kind": "multistep", "milestones": milestones}, [49_999, 50_000, 150_000, 250_000, 399_999])
    assert seen == pytest.approx([2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5])


def test_cosine_ends_at_the_minimum():
    seen = rates({"kind": "cosine", "minimum": 1e-6}, [0, 25, 50, 100])
    # minimum + (base - minimum) * (1 + cos(pi/4)) / 2 = 1e-6 + 1.99e-4 * 0.85355339
    assert seen == pytest.approx([2e-4, 1.70857125e-4, 1.005e-4, 1e-6])


def test_cosine_restarts_begin_anew_and_stay_low_after_the_last():
    seen = rates({"kind": "cosine_restarts", "periods": [10, 20], "minimum": 1e-7}, [0, 5, 9, 10, 20, 30, 31])
    middle = (2e-4 + 1e-7) / 2
    assert [seen[0], seen[1], seen[3], seen[4]] == pytest.approx([2e-4, middle, 2e-4, middle])
    assert seen[2] < 6e-6
    assert seen[5:] == [1e-7, 1e-7]


def test_warm_up_grows_linearly_and_then_lets_go():
    assert rates({"warm_up": 4}, [0, 1, 3, 4]) == pytest.approx([5e-5, 1e-4, 2e-4, 2e-4])
