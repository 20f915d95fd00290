"""Every way to compute a network on this CPU side by side, against the targets, and what `--backend auto` takes.

    python benchmarks/cpu_paths.py compact deployments/realesr-animevideov3 --shape 1x512x512 --hr DIR --lr DIR
    python benchmarks/cpu_paths.py rrdb deployments/rrdb-lite-4 --shape 1x256x256 --hr DIR --lr DIR
    python benchmarks/cpu_paths.py compact ... --also torch:bf16+compile --also torch:fp32+compile
    python benchmarks/cpu_paths.py --pages

The bundle is one that `sr-deploy export --int8` made. `sr_deploy.bench_model` does the timing: each candidate in a
process of its own, in turns, on photographs. Its baseline is PyTorch eager in the default memory layout.
What each loses against ground truth is the difference in PSNR on luma to PyTorch in FP32, on the pairs of `--hr` and
`--lr`. Results stay in `results/cpu_paths.json`, a network at a time; tables go into `results/cpu_paths.md` and
docs/performance.md. `--pages` measures nothing and writes these again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pages import describe_command, make_table, replace_table
from pydantic import BaseModel

import sr_deploy
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.report import BenchReport, BenchResult
from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import parse_shape
from sr_deploy.files import write_text
from sr_deploy.measure.machine import Machine
from sr_deploy.model import Model, open_model
from sr_deploy.runners import runnable_choices
from sr_deploy.runners.faithful import list_faithful
from sr_deploy.upscale.backend import choose_backend

RESULTS = Path(__file__).parent / "results" / "cpu_paths"
CANDIDATES = (
    *("torch:fp32", "torch:bf16", "onnxruntime:fp32", "onnxruntime:int8"),
    *("openvino:fp32", "openvino:bf16", "openvino:int8"),
)
BUDGET_DB = 0.05
"""What INT8 may lose against ground truth."""


class _Record(BaseModel, frozen=True, extra="forbid"):
    """Part of what is stored as JSON."""


class NetworkResult(_Record):
    """One network on one machine."""

    report: BenchReport
    """Speed, and agreement on the input that was timed."""
    pairs: int
    """Pictures that the loss was measured on."""
    lost_db: dict[str, float]
    """PSNR on luma against the originals that a backend loses to `torch:fp32`, mean over the pictures, in dB."""
    faithful: tuple[str, ...]
    """What `--backend auto` may take."""
    auto: str
    """What it took."""


class Results(_Record):
    """`results/cpu_paths.json`."""

    networks: dict[str, NetworkResult] = {}
    """By the name given on the command line."""


@dataclass(frozen=True)
class Target:
    """How much faster than the baseline, by how faithful a path."""

    words: str
    """For people."""
    least: dict[str, float]
    """Times as fast, by network."""
    psnr_db: float | None = None
    """Agreement with PyTorch in FP32 that counts; None: what counts is the loss against ground truth."""

    def counts(self, result: BenchResult, lost_db: float) -> bool:
        """Whether a candidate is as faithful as this target asks."""
        if self.psnr_db is None:
            return lost_db <= BUDGET_DB
        return result.parity.psnr_db is None or result.parity.psnr_db >= self.psnr_db


TARGETS = (
    Target(f"loses at most {BUDGET_DB} dB against ground truth", {"compact": 5.0, "rrdb": 7.5}),
    Target("50 dB or better against FP32", {"compact": 4.0}, 50.0),
    Target("100 dB or better against FP32", {"compact": 1.6, "rrdb": 2.3}, 100.0),
)
PREDICTIONS = {
    "torch:fp32": "1.4 to 1.7",
    "torch:bf16": "2.5 to 3.4",
    "onnxruntime:fp32": "1.05 to 2",
    "openvino:fp32": "1.5 to 2.2",
    "openvino:bf16": "2.9 to 4.3",
    "openvino:int8": "5.1 (compact) to 7.3 (RRDB)",
}
"""A trial on two cores of a machine with AVX-512, before any of this was written."""


def measure_network(model: Model, wanted: argparse.Namespace) -> NetworkResult:
    """Time all candidates, then let each upscale the pairs."""
    auto = choose_backend(model, "auto")
    runnable = {str(choice) for choice in runnable_choices(model)}
    names = [name for name in CANDIDATES if name in runnable]
    report = bench_model(
        model,
        shapes=[parse_shape(wanted.shape)],
        choices=[*names, *wanted.also],
        seconds_each=wanted.seconds,
        command=describe_command(),
        on_progress=lambda progress: print(progress.stage, file=sys.stderr, flush=True),
    )
    scores = {}
    for name in names:
        print(f"pairs: {name}", file=sys.stderr, flush=True)
        evaluated = sr_deploy.evaluate_model(model, wanted.hr, wanted.lr, backend=name, with_niqe=False).evaluation
        scores[name] = evaluated.mean_model.psnr_y
    return NetworkResult(
        report=report,
        pairs=len(evaluated.pictures),
        lost_db={name: scores["torch:fp32"] - score for name, score in scores.items()},
        faithful=tuple(map(str, list_faithful(model))),
        auto=str(auto),
    )


def lost_of(network: NetworkResult, result: BenchResult) -> float:
    """Against ground truth; a variant computes as its backend does."""
    return network.lost_db[str(parse_candidate(result.candidate).backend)]


def format_network(name: str, network: NetworkResult) -> Iterator[str]:
    """A network's table of candidates."""
    report = network.report
    cells = [
        (
            result.candidate + (", taken by `auto`" if result.candidate == network.auto else ""),
            f"{result.median_ms:.0f} ± {result.spread_ms:.0f} ms",
            format_speed(result),
            PREDICTIONS.get(result.candidate, ""),
            "equal" if result.parity.psnr_db is None else f"{result.parity.psnr_db:.1f} dB",
            f"{lost_of(network, result):+.3f} dB",
        )
        for result in report.results
    ]
    header = "candidate | median | against eager | trial | against FP32 | lost against ground truth"
    yield from (f"### {name}: {report.model}, input {report.runs[0].shape}", "", *make_table(header, cells), "")
    yield from (describe_auto(network), "")
    yield f"{describe_place(report.machine, report)}; {report.measured_at[:10]}; `{report.command}`."


def format_speed(result: BenchResult) -> str:
    """Times as fast as eager, with the 10th and 90th percentile of the rounds."""
    return f"{result.speedup:.2f} ({result.speedup_low:.2f} to {result.speedup_high:.2f})"


def describe_auto(network: NetworkResult) -> str:
    """Whether `auto` took the fastest of what it may take."""
    timed = {result.candidate: result for result in network.report.results if result.candidate in network.faithful}
    best, taken = min(timed.values(), key=lambda one: one.median_ms), timed[network.auto]
    told = f"Faithful here: {', '.join(network.faithful)}. `auto` takes {network.auto}"
    if taken is best:
        return f"{told}, the fastest of them."
    apart = taken.median_ms - best.median_ms
    within = "within" if apart <= taken.spread_ms + best.spread_ms else "beyond"
    return f"{told}, {apart:.0f} ms from {best.candidate}, the fastest of them: {within} the spread."


def describe_place(machine: Machine, report: BenchReport) -> str:
    """Machine, versions and threads."""
    versions = ", ".join(
        f"{name} {report.versions[name]}" for name in ("torch", "onnxruntime", "openvino") if name in report.versions
    )
    return f"{machine.title()}; {report.threads} threads; {versions}"


def format_targets(results: Results) -> list[str]:
    """What was asked for, and the best that was reached."""
    rows = []
    for name, network in results.networks.items():
        for target in TARGETS:
            if name not in target.least:
                continue
            able = [one for one in network.report.results if target.counts(one, lost_of(network, one))]
            best = max(able, key=lambda one: one.speedup)
            reached = f"**{best.speedup:.2f}**" if best.speedup >= target.least[name] else f"{best.speedup:.2f}"
            rows.append((name, target.words, target.least[name], reached, best.candidate))
    return make_table("network | faithful enough if it | target | reached | by", rows, text=(0, 1, 4))


def write_pages(results: Results) -> None:
    """`results/cpu_paths.md`, and its tables in docs/performance.md."""
    lines = [*format_targets(results), ""]
    for name, network in results.networks.items():
        lines += [*format_network(name, network), ""]
    text = "\n".join(lines)
    write_text(
        RESULTS.with_suffix(".md"), f"# Ways to compute on a CPU\n\nWritten by `benchmarks/cpu_paths.py`.\n\n{text}"
    )
    replace_table("cpu paths", text)


def main() -> None:
    """Measure the network named on the command line, or write the pages alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", choices=["compact", "rrdb"], help="what it is, for the targets")
    parser.add_argument("model", nargs="?", type=Path, help="the bundle")
    parser.add_argument("--shape", default="1x512x512", help="input, NxHxW")
    parser.add_argument("--hr", type=Path, help="folder of originals")
    parser.add_argument("--lr", type=Path, help="folder of their small versions; left out: made by the papers' bicubic")
    parser.add_argument("--also", action="append", default=[], help="another candidate of sr-deploy bench; repeatable")
    parser.add_argument("--seconds", type=float, default=10, help="for the rounds of each candidate")
    parser.add_argument("--pages", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    path = RESULTS.with_suffix(".json")
    results = Results.model_validate_json(path.read_text()) if path.exists() else Results()
    if not arguments.pages:
        if arguments.network is None or arguments.model is None or arguments.hr is None:
            parser.error("give a network, a bundle and --hr, or --pages")
        found = measure_network(open_model(arguments.model), arguments)
        results = Results(networks=results.networks | {arguments.network: found})
        write_text(path, results.model_dump_json(indent=2) + "\n")
    write_pages(results)


if __name__ == "__main__":
    main()
