"""Measure what each graph rewrite is worth on the CPU backends, and write the tables of docs/graph.md.

    python benchmarks/graph_rewrites.py

Networks get random weights from a seed (the time does not depend on them), are exported plain, and rewritten with one
rewrite alone and with each set that the package offers. All variants of a network are timed in turns, A B C A B C ...,
so that a slow moment of the machine hits all of them; each round gives a ratio to the plain graph. The gain is the
median of these ratios, the spread its interquartile range. Outputs are compared with PyTorch before anything is timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.graph.rewrite import (
    DEFAULT,
    FOR_ONNXRUNTIME,
    FOR_OPENVINO,
    NOTHING,
    RewriteOptions,
    RewriteReport,
    rewrite_model,
)
from sr_deploy.measure.machine import describe_machine, tool_versions

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "graph.md"
_TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)
NETWORKS = {
    "rrdb-lite": ArchSpec(architecture="rrdbnet", scale=4, features=32, blocks=4, growth=16),
    "compact demo": ArchSpec(architecture="compact", scale=4, features=48, blocks=8),
    "compact-16": ArchSpec(architecture="compact", scale=4, features=64, blocks=16),
}
VARIANTS: dict[str, RewriteOptions] = {
    "plain": NOTHING,
    "scales": replace(NOTHING, scales=True),
    "residual_taps": replace(NOTHING, scales=True, residual_taps=True),
    "sub_pixel=shuffle": replace(NOTHING, sub_pixel="shuffle"),
    "sub_pixel=transposed": replace(NOTHING, sub_pixel="transposed"),
    "nearest_skip": replace(NOTHING, nearest_skip=True),
    "narrow_output": replace(NOTHING, narrow_output=True),
    "concat=0": replace(NOTHING, concat=0),
    "concat=2": replace(NOTHING, concat=2),
    "prelu=spell": replace(NOTHING, prelu="spell"),
    "channels=64": replace(NOTHING, channels=64),
    "DEFAULT": DEFAULT,
    "DEFAULT concat=2": replace(DEFAULT, concat=2),
    "FOR_OPENVINO": FOR_OPENVINO,
    "FOR_ONNXRUNTIME": FOR_ONNXRUNTIME,
}
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One variant of one network in one backend."""

    network: str
    backend: str
    variant: str
    applied: dict[str, int]
    nodes: int
    multiply_adds: float
    bytes_moved: float
    error: float
    median_ms: float
    gain_percent: float
    spread_percent: float


def open_openvino(model: onnx.ModelProto, threads: int) -> Run:
    """As the runner of sr-deploy opens it."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    return lambda lr_NCHW: compiled([lr_NCHW])[0]


def open_onnxruntime(model: onnx.ModelProto, threads: int) -> Run:
    """As the runner of sr-deploy opens it, but its threads rest between runs: else they disturb the next variant."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda lr_NCHW: session.run(None, {"lr": lr_NCHW})[0]


BACKENDS = {"openvino": open_openvino, "onnxruntime": open_onnxruntime}


def make_network(spec: ArchSpec) -> torch.nn.Module:
    """With biases and slopes that differ, as trained ones do: equal ones are merged by the exporter."""
    torch.manual_seed(0)
    network = build_network(spec).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("bias"):
            tensor.uniform_(-0.1, 0.1)
        elif tensor.dim() == 1:
            tensor.uniform_(0.05, 0.4)
    return network


def rewrite_all(plain: onnx.ModelProto) -> dict[str, tuple[onnx.ModelProto, RewriteReport]]:
    """The variants that change the graph, and the plain one."""
    made = {}
    for name, options in VARIANTS.items():
        model = onnx.ModelProto()
        model.CopyFrom(plain)
        report = rewrite_model(model, options)
        if name == "DEFAULT concat=2" and not any(step.name == "concat" for step in report.applied):
            continue
        if report.applied or name == "plain":
            made[name] = (model, report)
    return made


def time_in_turns(runs: dict[str, Run], lr_NCHW: NDArray[np.float32], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each variant, by round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(lr_NCHW)
            if number >= 2:  # the first two warm up
                taken[name].append((time.perf_counter() - start) * 1e3)
    return taken


def measure_network(name: str, side: int, threads: int, rounds: int) -> list[Row]:
    """Every variant in every backend."""
    spec = NETWORKS[name]
    network = make_network(spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        export_network_to_onnx(network, spec, path, "0" * 64)
        variants = rewrite_all(onnx.load(path))
    lr_NCHW = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    reference = network(torch.from_numpy(lr_NCHW)).numpy()
    rows = []
    for backend, opener in BACKENDS.items():
        runs = {variant: opener(model, threads) for variant, (model, _) in variants.items()}
        errors = {variant: float(np.abs(run(lr_NCHW) - reference).max()) for variant, run in runs.items()}
        taken = time_in_turns(runs, lr_NCHW, rounds)
        for variant, (_, report) in variants.items():
            ratios = [100 * (1 - one / plain) for one, plain in zip(taken[variant], taken["plain"], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            rows.append(
                Row(
                    network=name,
                    backend=backend,
                    variant=variant,
                    applied={step.name: step.times for step in report.applied},
                    nodes=report.after.nodes,
                    multiply_adds=report.after.multiply_adds or 0,
                    bytes_moved=report.after.bytes_moved or 0,
                    error=errors[variant] / float(np.abs(reference).max()),
                    median_ms=statistics.median(taken[variant]),
                    gain_percent=statistics.median(ratios),
                    spread_percent=high - low,
                )
            )
            print(
                f"{name:14} {backend:12} {variant:22} {rows[-1].median_ms:8.2f} ms {rows[-1].gain_percent:+6.1f} %",
                flush=True,
            )
    return rows


def format_table(document: dict[str, object], rows: list[Row]) -> str:
    """The Markdown page."""
    lines = [
        "# What the graph rewrites are worth",
        "",
        "Written by `benchmarks/graph_rewrites.py`; do not edit.",
        "",
        *(f"- {key}: {value}" for key, value in document.items()),
        "",
        "Less time: median over rounds of 1 - time / time of the plain graph in the same round (more is better);",
        "spread: interquartile range of the same. Error: largest difference from PyTorch, as a share of the largest",
        "output. ONNX Runtime's threads rest between runs, so that they do not disturb the next variant.",
        "Multiply-adds and bytes (of images and feature maps) are per input pixel.",
    ]
    for network in dict.fromkeys(row.network for row in rows):
        lines += [
            "",
            f"## {network}",
            "",
            "| rewrite | nodes | multiply-adds | bytes | error | openvino ms | less time | spread "
            "| onnxruntime ms | less time | spread |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        mine = {(row.backend, row.variant): row for row in rows if row.network == network}
        for variant in dict.fromkeys(row.variant for row in rows if row.network == network):
            cells = [mine[backend, variant] for backend in BACKENDS]
            one = cells[0]
            error = max(cell.error for cell in cells)
            times = " | ".join(
                f"{cell.median_ms:.1f} | {cell.gain_percent:.1f} % | {cell.spread_percent:.1f} %" for cell in cells
            )
            counts = f"{one.nodes} | {one.multiply_adds:,.0f} | {one.bytes_moved:,.0f}"
            lines.append(f"| {variant} | {counts} | {error:.0e} | {times} |")
    return "\n".join(lines) + "\n"


def format_summary(document: dict[str, object], rows: list[Row]) -> str:
    """The table of docs/graph.md: less time, with its spread, of each variant in each backend."""
    networks = tuple(dict.fromkeys(row.network for row in rows))
    found = {(row.network, row.backend, row.variant): row for row in rows}
    columns = [(network, backend) for network in networks for backend in BACKENDS]
    lines = [
        f"Less time than the plain graph takes (± half the interquartile range), {document['picture']}, on",
        f"{document['machine']};",
        f"{document['versions']}; {document['date']};",
        f"`{document['command']}`. Absolute times, counts and errors",
        "are in [graph_rewrites.md](../benchmarks/results/graph_rewrites.md). `-`: the pattern is not there.",
        "",
        "| rewrite | " + " | ".join(f"{network}, {backend}" for network, backend in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for variant in list(VARIANTS)[1:]:
        cells = []
        for network, backend in columns:
            row = found.get((network, backend, variant))
            cells.append(f"{row.gain_percent:.1f} % ± {row.spread_percent / 2:.1f}" if row else "-")
        lines.append(f"| `{variant}` | " + " | ".join(cells) + " |")
    plain = [f"{found[network, backend, 'plain'].median_ms:.1f} ms" for network, backend in columns]
    lines.append("| time of the plain graph | " + " | ".join(plain) + " |")
    return "\n".join(lines) + "\n"


def write_pages(document: dict[str, object], rows: list[Row], folder: Path) -> None:
    """The Markdown of the results, and the table of docs/graph.md where they are the committed ones."""
    (folder / "graph_rewrites.md").write_text(format_table(document, rows), encoding="utf-8")
    if folder == RESULTS:
        table = format_summary(document, rows)
        page = _TABLE.sub(lambda marks: marks[1] + table + marks[2], PAGE.read_text(encoding="utf-8"))
        PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="height and width of the picture")
    parser.add_argument("--threads", type=int, default=2, help="threads of each backend")
    parser.add_argument("--rounds", type=int, default=31, help="timed rounds")
    parser.add_argument("--network", choices=tuple(NETWORKS), action="append", help="only this one; repeatable")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of graph_rewrites.json and .md")
    parser.add_argument("--pages", action="store_true", help="write the pages again from the JSON; measure nothing")
    options = parser.parse_args()
    if options.pages:
        stored = json.loads((options.out / "graph_rewrites.json").read_text(encoding="utf-8"))
        rows = [Row(**row) for row in stored.pop("rows")]
        write_pages(stored, rows, options.out)
        return
    versions = tool_versions()
    document: dict[str, object] = {
        "machine": describe_machine().title(),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch", "onnx")),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/graph_rewrites.py", *sys.argv[1:]]),
        "picture": f"1x3x{options.side}x{options.side}, FP32, {options.threads} threads, {options.rounds} rounds",
    }
    rows = []
    for network in options.network or NETWORKS:
        rows += measure_network(network, options.side, options.threads, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    whole = document | {"rows": [asdict(row) for row in rows]}
    (options.out / "graph_rewrites.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    write_pages(document, rows, options.out)


if __name__ == "__main__":
    main()
