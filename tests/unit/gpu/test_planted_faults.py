"""Faults in the order of work, planted one by one into the real modules: the simulated GPU has to find each.

A fault is a change of the source. Every line of these modules that orders work or keeps memory has one, so none of them
is there in vain.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import re
import sys
import threading
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.tensorrt import open_engine
from sr_deploy.backends.tensorrt import runner as tensorrt_runner
from sr_deploy.bundle import parse_profile
from sr_deploy.errors import BackendError
from sr_deploy.model import open_model
from sr_deploy.runners import cuda_graph
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale import device
from tests.unit.gpu.conftest import CARDS, add_engine
from tests.unit.gpu.streams import Gpu
from tests.unit.gpu.stub_sdk import Stub, repeat
from tests.unit.gpu.tensors import pictures, torch_cuda

FIRST = torch.device("cuda", 0)
PROFILES = (parse_profile("tile=1x8x8,1x16x16,1x32x32"), parse_profile("large=1x8x8,2x48x48,4x64x64"))


def put_on_gpu(array: Any) -> torch.Tensor:
    """By a copy that the host does not wait for."""
    pinned = torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, pin_memory=True)
    np.copyto(pinned.numpy(), array)
    return pinned.to(FIRST, non_blocking=True)


class Doubling:
    """Repeats pixels, times weights that are perhaps still on their way."""

    spec = RunnerSpec("torch", "0", "fp32", "cuda:0", 2, 3)

    def __init__(self) -> None:
        self.weights = put_on_gpu(np.ones((3, 1, 1), np.float32))

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        return (lr * self.weights).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def infer(self, lr: Any) -> Any: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...


def run_pipeline(module: Any) -> None:
    """Batches of three, two of them queued while the one before is read, as `upscale_windows` has it."""
    pipeline, windows = module.DevicePipeline(Doubling()), pictures(18, 9, 7, 3)
    queued: deque[Any] = deque()
    read = []
    for place in range(0, 24, 3):
        if place < 18:
            queued.append(pipeline.start(windows[place : place + 3]))
        if len(queued) > 2 or place >= 18:
            for result in queued.popleft():
                seen, target = result.measure(2), np.empty((18, 14, 3), np.uint8)
                result.crop(slice(0, 18), slice(0, 14)).write(target)
                read.append((seen, target, result.read()))
                del result
    for window, (seen, target, sr) in zip(windows, read, strict=True):
        assert np.array_equal(target, window.repeat(2, axis=0).repeat(2, axis=1))
        assert np.allclose(seen.high * 255, window.max(axis=(0, 1)))
        assert np.allclose(seen.means.ravel() * 255, window.mean(axis=(0, 1)), atol=0.01)
        assert np.allclose(sr[0, :, ::2, ::2] * 255, window.transpose(2, 0, 1), atol=0.01)


def run_graphs(module: Any) -> None:
    """Shapes in turn, from two streams, with inputs and results that are dropped as soon as they are used."""

    def make_network() -> Any:
        weights = put_on_gpu(np.full((1,), 3, np.float32))
        return lambda lr: (lr * weights + 1) * weights

    replay = module.GraphReplay(make_network(), "net", FIRST, max_graphs=2)
    streams = [torch.cuda.Stream(FIRST) for _ in range(2)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(FIRST))  # on which weights come up
    arrays = [np.random.default_rng(step).random((1 + step % 2, 4), np.float32) for step in range(12)]
    results, kept = [], []
    for step, array in enumerate(arrays):
        with torch.cuda.stream(streams[step // 2 % 2]):
            lr = put_on_gpu(array)
            results.append(replay(lr) * 2)
            kept += [lr] * (step in (2, 3))  # of the calls that capture
            del lr
    for step, (array, result) in enumerate(zip(arrays, results, strict=True)):
        with torch.cuda.stream(streams[step // 2 % 2]):
            assert np.allclose(result.cpu().numpy(), (array * 3 + 1) * 6)
    with torch.cuda.stream(streams[1]):
        assert [np.array_equal(lr.cpu().numpy(), array) for lr, array in zip(kept, arrays[2:4], strict=True)] == [
            True
        ] * 2
        assert replay.captured == 2
        replay(put_on_gpu(arrays[0]))
        replay.clear()
        del replay


def run_captures_at_once(module: Any) -> None:
    """Two threads capture at the same time, while a third one works."""
    both, begun = threading.Barrier(2), threading.Barrier(2)

    def network(lr: torch.Tensor) -> torch.Tensor:
        graph = gpu_of(lr).capturing
        if graph is not None and graph.thread == threading.get_ident():
            other = threading.Thread(target=work_beside)
            other.start()
            other.join()
            with contextlib.suppress(threading.BrokenBarrierError):  # they take turns
                both.wait(1)
        return lr * 3

    captured = []

    def work_beside() -> None:
        with contextlib.suppress(RuntimeError):
            torch.cuda.Stream(FIRST).synchronize()

    def work() -> None:
        replay = module.GraphReplay(network, "net", FIRST)
        with contextlib.suppress(RuntimeError):
            results = [replay(put_on_gpu(np.ones((2, 2), np.float32)))]
            begun.wait()
            results += [replay(put_on_gpu(np.ones((2, 2), np.float32))) for _ in range(2)]
            if all(float(sr.cpu().numpy().max()) == 3 for sr in results):
                captured.append(replay.captured)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert captured == [1, 1]


def gpu_of(tensor: Any) -> Gpu:
    gpu: Gpu = tensor.gpu
    return gpu


def run_engine(module: Any, bundle: Any) -> None:
    """More shapes than are kept, of both profiles, all queued before the first result is read."""
    runner = module.TensorRtRunner(open_model(bundle.path), BackendChoice("tensorrt"), None)
    sides = [16, 24, 48, 64, 20, 40]
    order = [*itertools.chain.from_iterable([side] * 3 for side in sides), *sides[2:], 28]
    arrays = [np.random.default_rng(step).random((1, 3, side, side), np.float32) for step, side in enumerate(order)]
    results = [runner.infer_on_device(put_on_gpu(array)) for array in arrays]
    for array, sr in zip(arrays, results, strict=True):
        assert np.array_equal(sr.cpu().numpy(), repeat(array, 4))
    assert runner._graphs.captured == 3
    runner.infer_on_device(put_on_gpu(arrays[0]))
    runner.close()
    del runner


class Plant(NamedTuple):
    """A change of a module's source."""

    name: str
    old: str
    new: str = "pass"


IN_PIPELINE = [
    Plant(
        "the network may start before its weights are there",
        "self._compute.wait_stream(torch.cuda.current_stream(self._device))",
    ),
    Plant("the network may start before its input is there", "self._compute.wait_stream(self._upload)"),
    Plant(
        "the network runs on the stream of results",
        "with torch.cuda.stream(self._compute):",
        "with torch.cuda.stream(self._download):",
    ),
    Plant("the input is given away while the network reads it", "lr.record_stream(self._compute)"),
    Plant("the input is copied on whichever stream is current", "with torch.cuda.stream(self._upload):", "if True:"),
    Plant(
        "a result is ready when its batch is queued",
        "sr_NCHW = self._infer(lr)\n            ready = self._compute.record_event()\n",
        "ready = self._compute.record_event()\n            sr_NCHW = self._infer(lr)\n",
    ),
    Plant("a result is ready when its input is there", "self._compute.record_event()", "self._upload.record_event()"),
    Plant("a result may be read before it is ready", "self._download.wait_event(ready)"),
    Plant(
        "results are rounded on whichever stream is current",
        "with torch.cuda.stream(self._download):\n            made = compute()",
        "made = compute()\n        with torch.cuda.stream(self._download):",
    ),
    Plant("the host reads before the copy is done", "self._download.synchronize()"),
    Plant(
        "the host waits before the copy is queued",
        "            fetched.copy_(made, non_blocking=True)\n        self._download.synchronize()\n",
        "            self._download.synchronize()\n            fetched.copy_(made, non_blocking=True)\n",
    ),
    Plant(
        "one pinned buffer for all that goes up",
        "np.stack(windows, out=staged.numpy())",
        "staged = self.__dict__.setdefault('one', staged)\n        np.stack(windows, out=staged.numpy())",
    ),
    Plant(
        "one pinned buffer for all that comes down",
        "fetched.copy_(",
        "fetched = self.__dict__.setdefault(str(made.shape), fetched)\n            fetched.copy_(",
    ),
]
IN_REPLAYS = [
    Plant("a call may start before its input is there", "self._stream.wait_stream(caller)"),
    Plant("each call runs on its caller's stream", ", torch.cuda.stream(self._stream):", ":"),
    Plant("the result is given away while its caller reads it", "sr.record_stream(caller)"),
    Plant("the caller may read before the result is there", "caller.wait_stream(self._stream)"),
    Plant("a graph's own output is handed out", "return self.sr.clone()", "return self.sr"),
    Plant("a graph has its first caller's input in it", "lr.clone()", "lr"),
    Plant("a replay does not take its input", "self.lr.copy_(lr)"),
    Plant(
        "weights go while they are read",
        "        self._stream.synchronize()\n        self._known.clear()",
        "        self._known.clear()",
    ),
]
IN_CAPTURES = [
    Plant("two threads capture at once", "                _CAPTURING,\n", ""),
    Plant("what other threads do breaks a capture", '"thread_local"', '"global"'),
]
IN_CONTEXTS = [
    Plant(
        "a context goes while its graph runs",
        "            self._stream.synchronize()\n            self._known.popitem",
        "            self._known.popitem",
    ),
    Plant(
        "contexts and graphs go while they run",
        "        self._stream.synchronize()\n        self._known.clear()",
        "        self._known.clear()",
    ),
]
IN_ENGINES = [
    Plant("graphs share a context", "make_compute=start, ", ""),
    Plant("an engine runs on torch's first stream", "torch.cuda.current_stream(lr.device).cuda_stream", "4096"),
    Plant(
        "working memory is given away",
        "(memory.data_ptr(), memory.numel())",
        "(_take_memory(4096, self._device, self.spec).data_ptr(), 4096)",
    ),
    Plant(
        "a context keeps its first profile", "choose_profile(self._spec.profiles, Shape(n, h, w)), handle", "0, handle"
    ),
    Plant("contexts go while they run", "            self._graphs.clear()\n", "            pass\n"),
]
IN_OPENING = [Plant("a context is given no memory", "context.set_device_memory(*memory)")]
SCENARIOS = {
    "pipeline": (device, IN_PIPELINE),
    "replays": (cuda_graph, IN_REPLAYS),
    "captures": (cuda_graph, IN_CAPTURES),
    "contexts": (cuda_graph, IN_CONTEXTS),
    "engines": (tensorrt_runner, IN_ENGINES),
    "opening": (open_engine, IN_OPENING),
}


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    made = make_bundle("compact-x4", tmp_path_factory.mktemp("planted"))
    add_engine(made, profiles=PROFILES)
    return made


@pytest.fixture
def run(install_sdk, bundle, monkeypatch):
    """Runs a scenario with a module, on a GPU of its own, and refuses what is found there."""
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: CARDS)

    def run_scenario(scenario: str, module: ModuleType) -> None:
        original, _ = SCENARIOS[scenario]
        with torch_cuda(Gpu()) as gpu:
            if scenario == "pipeline":
                run_pipeline(module)
            elif scenario == "replays":
                run_graphs(module)
            elif scenario == "captures":
                run_captures_at_once(module)
            else:
                install_sdk(Stub(gpu, lambda lr: repeat(lr, 4), PROFILES, scale=4))
                if original is not tensorrt_runner:
                    for name, value in vars(tensorrt_runner).items():
                        if value is vars(original).get(name, run):
                            monkeypatch.setattr(tensorrt_runner, name, vars(module)[name])
                    module = tensorrt_runner
                run_engine(module, bundle)
            gc.collect()
            gpu.finish()

    return run_scenario


def plant(module: ModuleType, fault: Plant) -> ModuleType:
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(fault.old) == 1, f"{fault.old!r} stands {source.count(fault.old)} times in {module.__name__}"
    changed = ModuleType(f"planted_{module.__name__.rpartition('.')[2]}")
    sys.modules[changed.__name__] = changed  # dataclasses look there
    exec(compile(source.replace(fault.old, fault.new), module.__file__, "exec"), vars(changed))
    return changed


def test_every_line_that_orders_work_has_a_fault():
    orders = re.compile(r"\.(wait_stream|wait_event|record_\w+|synchronize|clone|copy_)\(|cuda\.stream\(|_CAPTURING,")
    for module in {module for module, _ in SCENARIOS.values()}:
        lines = [line.strip() for line in inspect.getsource(module).splitlines() if orders.search(line)]
        faults = [fault.old for other, found in SCENARIOS.values() if other is module for fault in found]
        for line in lines:
            parts = [part.strip() for old in faults for part in old.splitlines()]
            assert any(orders.search(part) and part in line for part in parts), line


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_found_in_the_modules_as_they_are(run, scenario):
    run(scenario, SCENARIOS[scenario][0])


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [pytest.param(name, fault, id=fault.name) for name, (_, faults) in SCENARIOS.items() for fault in faults],
)
def test_a_planted_fault_is_found(run, scenario, fault):
    changed = plant(SCENARIOS[scenario][0], fault)
    with pytest.raises((AssertionError, BackendError)):
        run(scenario, changed)
