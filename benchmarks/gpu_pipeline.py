"""How near a GPU comes to its peak, and how much of that is left from frames to frames in the host's memory.

    python benchmarks/gpu_pipeline.py

Random weights: RRDBNet-23 x4 with frames of 720p, and the compact network of 16 blocks x2 with frames of 1080p, both in
FP16. For each: inference alone with CUDA graphs and without, the upscaler's whole way (frames up, network, guards,
rounding, results down), and a timeline of it by torch.profiler: copies by kind, and how many overlap a kernel. The
matrix peak is measured in the same run. Results go to `results/gpu_pipeline.json` and `.md`. Targets: 40 % of the peak
for RRDBNet, 150 frames/s for the compact network, 85 % of inference alone for the whole way.

It has not been executed: no machine with a GPU was at hand when it was written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import describe_run, make_table, write_results

from sr_deploy.arch.registry import build_network, describe_cost
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.backends import BackendChoice
from sr_deploy.backends.torch.runner import TorchRunner
from sr_deploy.measure.machine import tool_versions
from sr_deploy.measure.peak import measure_peaks
from sr_deploy.model import Model, open_model
from sr_deploy.runners.cuda_graph import why_no_cuda
from sr_deploy.upscale.guards import FINITE_ONLY
from sr_deploy.upscale.image import Upscaler

RESULTS = Path(__file__).parent / "results" / "gpu_pipeline"
_FRAMES = 16  # of a call of the upscaler


@dataclass(frozen=True)
class Scenario:
    """A network, and the frames for it."""

    name: str
    spec: ArchSpec
    height: int
    width: int


SCENARIOS = (
    Scenario(
        "RRDBNet-23 x4, 720p",
        ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32),
        height=720,
        width=1280,
    ),
    Scenario(
        "compact-16 x2, 1080p",
        ArchSpec(architecture="compact", scale=2, features=64, blocks=16),
        height=1080,
        width=1920,
    ),
)


@dataclass(frozen=True)
class Timeline:
    """What a profiler saw on the GPU."""

    kernels: int
    copies: dict[str, int]
    """By kind, as in `Memcpy HtoD (Pinned -> Device)`."""
    hidden: dict[str, int]
    """Of them, those that overlap a kernel."""


@dataclass(frozen=True)
class Outcome:
    """What was measured."""

    name: str
    batch: int
    eager_fps: float
    graphs_fps: float
    end_to_end_fps: float
    share_of_peak: float
    end_to_end_share: float
    timeline: Timeline


def read_timeline(events: Sequence[Mapping[str, Any]]) -> Timeline:
    """Of a profiler's trace; copies within the GPU are left out."""
    kernels = sorted((one["ts"], one["ts"] + one["dur"]) for one in events if one.get("cat") == "kernel")
    copies: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    for one in events:
        if one.get("cat") == "gpu_memcpy" and "DtoD" not in one["name"]:
            begin, end = one["ts"], one["ts"] + one["dur"]
            copies[one["name"]] += 1
            hidden[one["name"]] += any(start < end and begin < stop for start, stop in kernels)
    return Timeline(len(kernels), dict(copies), dict(hidden))


def count_per_second(call: Callable[[], object], frames: int, seconds: float) -> float:
    """Frames a second; `call` does `frames` of them and is timed until the GPU is done."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        torch.cuda.synchronize()
        calls += 1
    return frames * calls / (time.perf_counter() - started)


def profile(call: Callable[[], object], folder: Path) -> Timeline:
    """The timeline of a call."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        call()
        torch.cuda.synchronize()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    return read_timeline(json.loads(trace.read_text())["traceEvents"])


def make_model(spec: ArchSpec, folder: Path) -> Model:
    """Random weights."""
    torch.manual_seed(0)
    path = folder / f"{spec.architecture}.safetensors"
    save_generator(path, build_network(spec).state_dict(), spec)
    return open_model(path)


def measure(scenario: Scenario, peak_flops: float, seconds: float, folder: Path) -> Outcome:
    """Inference alone, then the whole way with the batch that the upscaler chooses."""
    model, choice = make_model(scenario.spec, folder), BackendChoice("torch", "fp16")
    frame_shape = (scenario.height, scenario.width, 3)
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, frame_shape, np.uint8) for _ in range(_FRAMES)]
    with TorchRunner(model, choice, "cuda:0", None) as runner:
        upscale = Upscaler(runner, tile=0, guards=FINITE_ONLY)  # random weights give no picture of their input
        batch = upscale.freeze(frames[0]).batch
        lr = torch.rand(batch, 3, scenario.height, scenario.width, device="cuda:0")
        graphs_fps = count_per_second(lambda: runner.infer_on_device(lr), batch, seconds)
        end_to_end_fps = count_per_second(lambda: upscale.upscale_many(frames), _FRAMES, seconds)
        timeline = profile(lambda: upscale.upscale_many(frames), folder)
    with TorchRunner(model, choice, "cuda:0", None, cuda_graphs=False) as runner:
        eager_fps = count_per_second(lambda: runner.infer_on_device(lr), batch, seconds)
    flops = describe_cost(scenario.spec).flops_per_input_pixel * scenario.height * scenario.width
    return Outcome(
        name=scenario.name,
        batch=batch,
        eager_fps=eager_fps,
        graphs_fps=graphs_fps,
        end_to_end_fps=end_to_end_fps,
        share_of_peak=flops * graphs_fps / peak_flops,
        end_to_end_share=end_to_end_fps / graphs_fps,
        timeline=timeline,
    )


def format_table(outcomes: Sequence[Outcome], peak_flops: float) -> str:
    """For people."""
    rows = []
    for one in outcomes:
        copies, hidden = sum(one.timeline.copies.values()), sum(one.timeline.hidden.values())
        pageable = sum(count for name, count in one.timeline.copies.items() if "Pageable" in name)
        paces = (f"{one.eager_fps:.1f} /s", f"{one.graphs_fps:.1f} /s", f"{100 * one.share_of_peak:.0f} %")
        whole = (f"{one.end_to_end_fps:.1f} /s", f"{100 * one.end_to_end_share:.0f} %")
        rows.append((one.name, one.batch, *paces, *whole, f"{hidden} of {copies}", pageable))
    header = (
        "frames | batch | eager | CUDA graphs | share of the peak | whole way | of inference alone | copies that "
        "overlap a kernel | pageable copies"
    )
    peak = f"Matrix peak in FP16, measured in this run: {peak_flops / 1e12:.0f} TFLOP/s."
    return "\n".join([peak, "", *make_table(header, rows), ""])


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--out", type=Path, default=RESULTS.parent, help="folder of the results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"error: torch sees no GPU: {why_no_cuda()}", file=sys.stderr)
        return 1
    peak_flops = measure_peaks("cuda:0", torch.get_num_threads()).matrix_gflops["fp16"] * 1e9
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [measure(one, peak_flops, arguments.seconds, Path(folder)) for one in SCENARIOS]
    table = format_table(outcomes, peak_flops)
    document = {
        **describe_run(*tool_versions()),
        "matrix_peak_flops": peak_flops,
        "scenarios": [asdict(one) for one in outcomes],
    }
    place = f"{document['machine']}; {document['versions']}; {document['date']}; `{document['command']}`."
    write_results(arguments.out / RESULTS.name, document, f"{table}\n{place}\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
