"""Times of calls on a simulated GPU: what is waited for too early, too late or not at all gives other figures."""

from unittest import mock

import numpy as np
import pytest
import torch

from sr_deploy.bench import device_timing
from sr_deploy.bench.device_timing import CudaDevice, DeviceTimer, PinnedCopies, lengthen_schedule
from sr_deploy.bench.statistics import Schedule, plan_schedule


def approx(value):
    return pytest.approx(value, rel=1e-6)


def test_a_call_alone_is_timed_by_the_host_by_events_and_until_it_is_queued(simulated_gpu):
    gpu = simulated_gpu(enqueue=0.002, work=lambda call: 0.005 if call % 2 else 0.009, wake=0.001)
    timer = DeviceTimer(gpu, gpu.call)
    assert timer.time_turn(4, primed=False) == approx([0.012, 0.008] * 2)  # queued, worked on, woken up
    assert timer.device_seconds == approx([0.011, 0.007] * 2)  # from before it is queued
    assert timer.enqueue_seconds == approx([0.002] * 4)
    timer.time_turn(1, primed=False)
    assert timer.device_seconds == approx([0.011, 0.007] * 2 + [0.011])  # of all turns


def test_the_call_before_a_turn_is_in_no_figure(simulated_gpu):
    gpu = simulated_gpu(work=lambda call: 0.5 if call == 0 else 0.005)
    timer = DeviceTimer(gpu, gpu.call)
    assert timer.time_turn(2, primed=True) == approx([0.008] * 2)
    assert timer.device_seconds == approx([0.007] * 2)
    assert len(timer.enqueue_seconds) == 2


@pytest.mark.parametrize("calls", [1, 2, 3, 7, 100])
def test_with_calls_in_flight_the_gpu_decides_the_pace(simulated_gpu, calls):
    gpu = simulated_gpu(enqueue=0.002, work=0.005, wake=0.001)
    assert DeviceTimer(gpu, gpu.call).time_pipelined(calls) == approx([0.005] * calls)  # alone: 8 ms
    assert len(gpu.ends) == calls + device_timing.IN_FLIGHT
    assert gpu.clock >= gpu.free  # nothing of it is left for the next turn


def test_a_host_that_is_slow_to_queue_decides_it_otherwise(simulated_gpu):
    gpu = simulated_gpu(enqueue=0.006, work=0.002, wake=0.001)
    assert DeviceTimer(gpu, gpu.call).time_pipelined(50) == approx([0.006] * 50)


def test_never_more_calls_are_in_flight_than_said(simulated_gpu):
    gpu, seen = simulated_gpu(enqueue=0.0001, work=0.005), []

    def call():
        gpu.call()
        seen.append(gpu.queued())

    DeviceTimer(gpu, call).time_pipelined(20)
    assert seen == [1, 2, 3] + [3] * 20


def test_the_pace_is_that_of_all_calls_between_the_first_and_the_last(simulated_gpu):
    # The first call and those that only drain the queue take a second; those between 4 and 6 ms in turns.
    gpu = simulated_gpu(work=lambda call: 1.0 if call == 0 or call > 10 else 0.004 + 0.002 * (call % 2))
    assert DeviceTimer(gpu, gpu.call).time_pipelined(10) == approx([0.005] * 10)


@pytest.mark.parametrize(
    ("work", "calls"),
    [
        (lambda call: 0.0072, 20),  # 10.2 ms each: steady long before
        (lambda call: 0.038, 5),  # 41 ms each
        (lambda call: 0.397, 3),  # over with the first, steady with the third
        (lambda call: 0.147 if call < 2 else 0.007, 5),  # over with the second, steady with three of 10 ms
        (lambda call: 0.097 * (1 + call % 2), 11),  # never steady: until 1.5 s are spent
    ],
)
def test_warm_up_lasts_200_ms_and_until_calls_are_steady(simulated_gpu, work, calls):
    gpu = simulated_gpu(work=work)
    times = DeviceTimer(gpu, gpu.call).warm_up(1.5)
    assert len(times) == calls
    assert sum(times) >= 0.2


class Taker:
    """A candidate whose calls take as long as it says."""

    def __init__(self, seconds):
        self.seconds = seconds

    def take_turn(self, calls, primed):
        return [self.seconds] * calls


@pytest.mark.parametrize("seconds", [(0.001, 0.0002), (0.001, 1.2), (0.03, 0.004), (2.0, 2.0)])
def test_turns_on_a_gpu_last_3_seconds_and_10_calls(seconds):
    schedule = lengthen_schedule(plan_schedule(seconds, 0.01), seconds, [True, True])
    turns = schedule.run([Taker(one).take_turn for one in seconds])
    for own in turns:
        assert sum(map(sum, own)) >= 3
        assert sum(map(len, own)) >= 10
        assert len(own) >= 5


def test_turns_that_were_planned_for_slower_calls_go_on_until_3_seconds_are_over():
    schedule = lengthen_schedule(plan_schedule([0.02], 1.0), [0.02], [True])
    (own,) = schedule.run([Taker(0.005).take_turn])
    assert 3 <= sum(map(sum, own)) < 3.2
    assert len(own) > schedule.rounds


def test_candidates_on_a_cpu_keep_their_turns():
    seconds = [0.2, 0.01, 0.0001]
    plain = plan_schedule(seconds, 2)
    lengthened = lengthen_schedule(plain, seconds, [False, False, False])
    assert (lengthened.rounds, lengthened.calls, lengthened.primed) == (plain.rounds, plain.calls, plain.primed)
    mixed = lengthen_schedule(plain, seconds, [False, True, False])
    assert mixed == Schedule(plain.rounds, (1, 16, 20), plain.primed, (0.0, 3.0, 0.0))  # 3 s of 10 ms in 19 rounds


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    return tuple(random.integers(0, 256, (2, side, side, 3), np.uint8) for side in (8, 32))


def test_copies_bring_every_sample_up_and_down(simulated_gpu, samples):
    copies = PinnedCopies(*samples, "cpu")
    copies.time(simulated_gpu(), times=1)
    assert np.array_equal(copies.sent.numpy(), samples[0])
    assert np.array_equal(copies.fetched, samples[1])
    assert copies.bytes == 2 * 3 * (8 * 8 + 32 * 32)


def test_copies_are_timed_with_and_without_the_way_through_pinned_memory(simulated_gpu, samples, monkeypatch):
    gpu = simulated_gpu(enqueue=0.0, work=lambda call: 9.0 if call == 0 else 0.004, wake=0.001)
    copy_on_host, copy_down = np.copyto, torch.Tensor.copy_

    def stage(target, source):
        gpu.clock += 0.01
        copy_on_host(target, source)

    def come_down(target, source, non_blocking=False):
        assert non_blocking
        gpu.call()
        return copy_down(target, source)

    monkeypatch.setattr(device_timing.np, "copyto", stage)
    monkeypatch.setattr(torch.Tensor, "copy_", come_down)
    copies = PinnedCopies(*samples, "cpu")
    assert copies.time(gpu, times=1) == approx((0.025, 0.004))  # the first, which takes 9 s, only warms up


def test_the_calls_of_torch_are_those_that_it_has(monkeypatch):
    stream = mock.create_autospec(torch.cuda.Stream, instance=True)
    current = mock.create_autospec(torch.cuda.current_stream, return_value=stream)
    made = [mock.create_autospec(torch.cuda.Event, instance=True) for _ in range(2)]
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    monkeypatch.setattr(torch.cuda, "Event", make := mock.create_autospec(torch.cuda.Event, side_effect=made))
    made[0].elapsed_time.return_value = 12.5  # ms, from the first to the second
    made[1].elapsed_time.return_value = -12.5
    device = CudaDevice("cuda:1")
    current.assert_called_once_with("cuda:1")
    start, end = device.make_event(), device.make_event()
    assert make.call_args_list == [mock.call(enable_timing=True)] * 2
    start.record()
    end.record()
    end.wait()
    assert end.seconds_since(start) == 0.0125
    made[0].elapsed_time.assert_called_once_with(made[1])
    for one in made:
        one.record.assert_called_once_with(stream)
    made[1].synchronize.assert_called_once_with()
    made[0].synchronize.assert_not_called()
    assert device.now() <= device.now()
