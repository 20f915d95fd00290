"""One small benchmark, measured once for all tests of the folder."""

import pytest

from sr_deploy.bench.report import DeviceTiming, HostCopies
from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import Shape


@pytest.fixture(scope="session")
def bundle(make_bundle, tmp_path_factory):
    return make_bundle("compact-x4", tmp_path_factory.mktemp("bench"), fp16=True)


@pytest.fixture(scope="session")
def report(bundle):
    return bench_model(
        bundle.path,
        shapes=[Shape(2, 24, 16)],
        choices=["onnxruntime", "onnxruntime:fp32+fixed", "tensorrt:fp16"],
        seconds_each=0.05,
        threads=1,
        command="sr-deploy bench",
    )


@pytest.fixture
def with_results(report):
    """Gives the report with some fields of each candidate's result replaced."""

    def change(**by_candidate):
        results = [
            result.model_copy(update=by_candidate.get(result.candidate.replace(":", "_").replace("+", "_"), {}))
            for result in report.results
        ]
        return report.model_copy(update={"results": tuple(results)})

    return change


DEVICE_TIMING = DeviceTiming(
    median_ms=12.5,
    spread_ms=0.25,
    enqueue_ms=1.25,
    seconds=3.02,
    in_flight=3,
    pipelined_ms=10.0,
    pipelined_spread_ms=0.1,
    pipelined_images_per_second=200.0,
)


@pytest.fixture
def gpu_report(with_results):
    """As if ONNX Runtime's candidate had run on a GPU."""
    copies = HostCopies(bytes=5_000_000, median_ms=1.5, device_ms=0.75)
    figures = {"device": "cuda:0", "device_memory_mib": 321.4, "host_copies": copies, "device_timing": DEVICE_TIMING}
    return with_results(onnxruntime_fp32=figures)


class SimulatedGpu:
    """A GPU that works through a queue, and a clock that only work of the host and its waiting move on.

    It refuses what on a real one gives wrong figures in silence: an event that is recorded again before its moment has
    come, and the time between moments that have not.
    """

    def __init__(self, *, enqueue=0.002, work=0.005, wake=0.001):
        self.clock = 100.0
        self.free = 0.0
        """When all that is queued is done."""
        self.ends = []
        self.enqueue, self.work, self.wake = enqueue, work, wake

    def call(self):
        """Queues `work` seconds (a number, or a function of how often it was called) and takes the host `enqueue`."""
        self.clock += self.enqueue
        self.free = max(self.free, self.clock) + (self.work(len(self.ends)) if callable(self.work) else self.work)
        self.ends.append(self.free)

    def queued(self):
        """Calls that are not done."""
        return sum(end > self.clock for end in self.ends[-100:])

    def now(self):
        return self.clock

    def make_event(self):
        return SimulatedEvent(self)


class SimulatedEvent:
    def __init__(self, gpu):
        self.gpu, self.moment = gpu, None

    def record(self):
        assert self.moment is None or self.moment <= self.gpu.clock, "recorded again before it was"
        self.moment = max(self.gpu.free, self.gpu.clock)

    def wait(self):
        assert self.moment is not None, "waited for an event that was never recorded"
        if self.moment > self.gpu.clock:
            self.gpu.clock = self.moment + self.gpu.wake

    def seconds_since(self, earlier):
        assert max(self.moment, earlier.moment) <= self.gpu.clock, "read before it was"
        return self.moment - earlier.moment


@pytest.fixture(scope="session")
def simulated_gpu():
    return SimulatedGpu
