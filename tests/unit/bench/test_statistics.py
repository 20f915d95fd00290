import numpy as np
import pytest

from sr_deploy.bench.statistics import compare_speed, is_warm, plan_schedule, summarize_calls


def test_figures_of_known_samples():
    calls = np.arange(1, 101) / 1000  # 1 to 100 ms
    timing = summarize_calls([list(calls[:50]), list(calls[50:])])
    assert timing.median == pytest.approx(0.0505)
    assert timing.p95 == pytest.approx(0.09505)
    assert timing.p99 == pytest.approx(0.09901)
    assert timing.spread == pytest.approx(0.02475)  # quartiles 25.75 and 75.25 ms


def test_a_slow_moment_of_the_machine_leaves_the_speed_up_as_it_is():
    slow_down = [1, 1, 5, 1, 3]  # of the machine, round by round
    baseline = [[0.4 * factor] * 2 for factor in slow_down]
    candidate = [[0.1 * factor] * 3 for factor in slow_down]
    speedup = compare_speed(baseline, candidate)
    assert (speedup.ratio, speedup.low, speedup.high) == pytest.approx((4, 4, 4))


def test_the_spread_is_that_of_the_rounds():
    baseline = [[1.0]] * 11
    candidate = [[1 / ratio] for ratio in range(1, 12)]  # ratios 1 to 11
    speedup = compare_speed(baseline, candidate)
    assert (speedup.ratio, speedup.low, speedup.high) == pytest.approx((6, 2, 10))


@pytest.mark.parametrize(
    ("seconds", "warm"),
    [
        ([], False),
        ([0.1], False),
        ([0.1, 0.1], False),
        ([0.9, 0.1, 0.1], False),
        ([0.9, 0.1, 0.105, 0.1], True),
        ([0.3, 0.2, 0.1], False),
        ([2.5], True),  # the budget is spent
    ],
)
def test_warm_up_ends_when_calls_take_the_same_time(seconds, warm):
    assert is_warm(seconds, budget=2.0) is warm


def test_fast_candidates_get_more_calls_and_slow_ones_their_rounds():
    schedule = plan_schedule([0.2, 0.01, 0.0001], seconds_each=2)
    assert schedule.calls == (1, 10, 20)
    assert schedule.primed == (False, True, True)
    assert schedule.rounds == int(6 / (0.2 + 0.11 + 0.0021))
    assert plan_schedule([30.0, 1.0], seconds_each=2).rounds == 5
    assert plan_schedule([0.001], seconds_each=2).rounds == 40
