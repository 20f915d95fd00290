"""The whole of `bench` on a simulated GPU: who is loaded when, whose memory is told, and what ratios are made of."""

import contextlib
import os

import pytest

from sr_deploy.bench import entry as entry_module
from sr_deploy.bench import shape as shape_module
from sr_deploy.bench import worker as worker_module
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.shape import ShapeBench
from sr_deploy.bench.worker import Worker
from sr_deploy.bundle import Shape
from sr_deploy.errors import BackendError
from sr_deploy.measure import rounds as rounds_module
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import open_model

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

WORK = {"torch:fp32+nchw": 0.080, "torch:fp32": 0.040, "torch:fp16": 0.020, "torch:bf16": 0.010}
"""Seconds of a call on the GPU."""
MEMORY = {"torch:fp32+nchw": 900.0, "torch:fp32": 700.0, "torch:fp16": 400.0, "torch:bf16": 300.0}
"""MiB that a candidate takes."""
GPU_CHOICES = tuple(map(parse_candidate, WORK))


class Scene:
    """One GPU for all candidates, which gets slower by half whenever another one is loaded."""

    def __init__(self, make_gpu):
        self.gpu = make_gpu(enqueue=0.001, wake=0.0)
        self.pace = 1.0
        self.loaded = {}
        self.looks = iter(())
        self.log = []

    def candidate(self, title, request):
        return SimulatedCandidate(self, title, request)


class SimulatedCandidate:
    """The real worker in this process, computing on the CPU, timed on the simulated GPU."""

    process_id = os.getpid()

    def __init__(self, scene, title, request):
        if title == "torch:fp32+eager":
            raise BackendError("it does not run")
        self.scene, self.title, self.open, self.computed = scene, title, True, False
        self.on_gpu = title in WORK
        if self.on_gpu:
            scene.pace *= 1.5
            scene.loaded[title] = MEMORY[title]
        scene.log.append(("open", title))
        before = dict(scene.loaded)
        before.pop(title, None)
        scene.looks = iter([sum(before.values()), sum(scene.loaded.values())])
        self.worker = Worker(request, self.find if self.on_gpu else worker_module.find_device)
        self.opened = self.worker.answer | ({"device": "cuda:0"} if self.on_gpu else {})

    def find(self, runner):
        compute = runner.infer_on_device

        def infer_on_device(lr):
            self.scene.gpu.work = WORK[self.title] * self.scene.pace
            self.scene.gpu.call()
            if not self.computed:  # once is enough
                self.computed = compute(lr).shape == (2, 3, 32, 32)
                assert self.computed

        runner.infer_on_device = infer_on_device
        return self.scene.gpu

    def take_turn(self, calls, primed, kind):
        assert self.open
        if self.scene.log[-1] != (kind, self.title):
            self.scene.log.append((kind, self.title))
        return self.worker.take_turn(calls, primed, kind)

    def measure_peak(self):
        return 50.0

    def tell_device(self):
        assert self.open
        return self.worker.tell_device()

    def close(self):
        if self.open:
            self.scene.log.append(("close", self.title))
            self.scene.loaded.pop(self.title, None)
        self.open = False

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()


@contextlib.contextmanager
def on_simulated_gpu(make_gpu):
    made = Scene(make_gpu)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shape_module, "Candidate", made.candidate)
        monkeypatch.setattr(worker_module, "_device_used", lambda: next(made.looks))
        monkeypatch.setattr(rounds_module, "_PAUSE_SECONDS", 0)
        monkeypatch.setattr(worker_module.gc, "collect", lambda: 0)  # takes long here, and no time on the GPU's clock
        yield made


@pytest.fixture
def scene(simulated_gpu):
    with on_simulated_gpu(simulated_gpu) as made:
        yield made


def run(bundle, choices, told=None):
    def find_peaks(device):
        return Peaks(device=device, threads=1, matrix_gflops={}, copy_gb_per_second=1)

    bench = ShapeBench(
        open_model(bundle.path),
        Shape(2, 8, 8),
        threads=1,
        seconds_each=0.01,
        find_peaks=find_peaks,
        on_progress=(lambda _: None) if told is None else told.append,
    )
    outcome = bench.run([parse_candidate(str(one)) for one in choices])
    return outcome, {one.candidate: one for one in outcome.results}


@pytest.fixture(scope="module")
def measured(bundle, simulated_gpu):
    told = []
    with on_simulated_gpu(simulated_gpu) as scene:
        outcome, by_name = run(bundle, GPU_CHOICES, told)
    return scene, outcome, by_name, told


def test_each_is_released_before_the_next_is_loaded(measured):
    scene, outcome, by_name, told = measured
    baseline, *others = WORK
    expected = [("open", baseline)]
    for name in others:
        expected += [("open", name)]
        runs = scene.log[scene.log.index(("open", name)) + 1 : scene.log.index(("close", name))]
        assert {who for _, who in runs} == {baseline, name}  # no one else has a turn
        assert [kind for kind, _ in runs] == sorted(
            (kind for kind, _ in runs), key=["calls", "pipelined", "files"].index
        )
        calls = [who for kind, who in runs if kind == "calls"]
        assert calls == [baseline, name] * (len(calls) // 2)
        assert len(calls) >= 2 * 5
        expected += [("close", name)]
    expected += [("close", baseline)]
    assert [one for one in scene.log if one[0] in ("open", "close")] == expected
    assert set(by_name) == set(WORK)
    assert outcome.run.rounds >= 5
    fractions = [progress.done / progress.total for progress in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_memory_is_each_ones_own(measured):
    _, _, by_name, _ = measured
    assert {name: one.device_memory_mib for name, one in by_name.items()} == MEMORY


def test_ratios_are_those_of_the_same_rounds_though_the_gpu_gets_slower(measured):
    _, _, by_name, _ = measured
    paces = {name: 1.5 ** (place + 1) for place, name in enumerate(WORK)}
    for name in tuple(WORK)[1:]:
        one, pace = by_name[name], paces[name]
        alone = WORK[name] * pace + 0.001  # queued, then worked on
        assert one.median_ms == pytest.approx(1e3 * alone)
        assert one.speedup == pytest.approx((WORK["torch:fp32+nchw"] * pace + 0.001) / alone)
        assert one.speedup_low == pytest.approx(one.speedup) == one.speedup_high
        timing = one.device_timing
        assert timing.median_ms == pytest.approx(1e3 * alone)
        assert timing.enqueue_ms == pytest.approx(1.0)
        assert (timing.in_flight, timing.seconds >= 3) == (3, True)
        assert timing.pipelined_ms == pytest.approx(1e3 * WORK[name] * pace)  # it is queued while others run
        assert timing.pipelined_images_per_second == pytest.approx(2 / WORK[name] / pace)
        assert one.calls >= 10
        assert one.warm_up_calls >= 3
        assert one.host_copies.bytes == 2 * 3 * 8 * 8 * (1 + 16)  # 8-bit samples
    baseline = by_name["torch:fp32+nchw"]
    assert (baseline.speedup, baseline.speedup_low, baseline.speedup_high) == (1, 1, 1)
    # Its own figures are of all rounds, with each of the others.
    assert baseline.median_ms == pytest.approx(1e3 * (0.080 * paces["torch:fp16"] + 0.001), rel=0.01)
    assert baseline.calls > 3 * 10


def test_candidates_on_a_cpu_take_turns_together_with_the_baseline(bundle, scene):
    _, by_name = run(bundle, [*GPU_CHOICES[:2], "onnxruntime:fp32", "openvino:fp32"])
    pair, after = scene.log.index(("close", "torch:fp32")), scene.log.index(("open", "onnxruntime:fp32"))
    assert pair < after
    together = [who for kind, who in scene.log[after:] if kind == "calls"]
    assert together[:6] == ["torch:fp32+nchw", "onnxruntime:fp32", "openvino:fp32"] * 2
    assert by_name["onnxruntime:fp32"].device_timing is None
    assert by_name["onnxruntime:fp32"].device_memory_mib is None
    assert by_name["torch:fp32+nchw"].device_timing.seconds >= 3


def test_a_baseline_alone_on_a_gpu_is_timed_too(bundle, scene):
    _, by_name = run(bundle, [*GPU_CHOICES[:1], "torch:fp32+eager"])
    (one,) = by_name.values()
    assert one.device_timing.seconds >= 3
    assert one.device_timing.pipelined_ms == pytest.approx(120)
    assert scene.log[-1] == ("close", "torch:fp32+nchw")


def test_on_a_cpu_all_stay_loaded_and_take_turns(bundle, scene, monkeypatch):
    groups = []
    monkeypatch.setattr(
        shape_module,
        "take_turns",
        lambda group, *rest: (groups.append([str(one.choice) for one in group]), entry_module.take_turns(group, *rest)),
    )
    run(bundle, ["onnxruntime:fp32", "openvino:fp32", "onnxruntime:fp32+fixed"])
    assert groups == [["onnxruntime:fp32", "openvino:fp32", "onnxruntime:fp32+fixed"]]
    kinds = [kind for kind, _ in scene.log]
    assert kinds[:3] == ["open"] * 3
    assert kinds[-3:] == ["close"] * 3
    assert "pipelined" not in kinds
