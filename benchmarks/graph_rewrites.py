"""Measure what each graph rewrite is worth on the CPU backends, and write the tables of docs/graph.md.

    python benchmarks/graph_rewrites.py

Networks get random weights from a seed (the time does not depend on them), are exported plain, and rewritten with one
rewrite alone, with each set that the package offers, and as a user runs them: the file as `export` writes it, rewritten
again as the backend's runner does when it opens it. All variants of a network are timed in turns, A B C A B C ...,
so that a slow moment of the machine hits all of them; each round gives a ratio to the plain graph. The gain is the
median of these ratios, the spread its interquartile range. Outputs are compared with PyTorch before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from graph_rewrite_pages import OPENED, RESULTS, Row, write_pages
from numpy.typing import NDArray
from pages import describe_run

from sr_deploy.arch.registry import build_network, input_multiple
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import BackendChoice
from sr_deploy.backends.openvino.compiled import compile_graph
from sr_deploy.backends.openvino.runner import why_not_computed
from sr_deploy.export.onnx_export import export_network_to_onnx, trace_network
from sr_deploy.files import write_text
from sr_deploy.graph.rewrite import (
    DEFAULT,
    FOR_ONNXRUNTIME,
    FOR_OPENVINO,
    FOR_OPENVINO_BF16,
    NOTHING,
    RewriteOptions,
    RewriteReport,
    append_halving,
    rewrite_model,
)

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Subject:
    """A plain graph."""

    spec: ArchSpec
    """The network that it is exported of."""
    variants: tuple[str, ...]
    """What is timed of it besides the plain graph, by the names in `VARIANTS`, and `OPENED`."""
    halved: bool = False
    """Whether means of 2x2 pixels follow: an x4 network used at x2."""
    folded: bool = True
    """Whether the exporter merges a pixel-unshuffle into the first convolution; other people's does not."""


VARIANTS: dict[str, RewriteOptions] = {
    "scales": replace(NOTHING, scales=True),
    "residual_taps": replace(NOTHING, scales=True, residual_taps=True),
    "sub_pixel=shuffle": replace(NOTHING, sub_pixel="shuffle"),
    "sub_pixel=transposed": replace(NOTHING, sub_pixel="transposed"),
    "nearest_skip": replace(NOTHING, nearest_skip=True),
    "narrow_output": replace(NOTHING, narrow_output=True),
    "concat=0": replace(NOTHING, concat=0),
    "concat=2": replace(NOTHING, concat=2),
    "prelu=decompose": replace(NOTHING, prelu="decompose"),
    "channels=64": replace(NOTHING, channels=64),
    "average_pool": replace(NOTHING, nearest_skip=True, average_pool=True),
    "unshuffle": replace(NOTHING, unshuffle=True),
    "DEFAULT": DEFAULT,
    "FOR_OPENVINO": FOR_OPENVINO,
    "FOR_ONNXRUNTIME": FOR_ONNXRUNTIME,
}
_ALL = (*VARIANTS, OPENED)
_OURS = tuple(name for name in _ALL if name not in ("average_pool", "unshuffle"))
_LITE = ArchSpec(architecture="rrdbnet", scale=4, features=32, blocks=4, growth=16)
_COMPACT_16 = ArchSpec(architecture="compact", scale=4, features=64, blocks=16)
SUBJECTS = {
    "rrdb-lite": Subject(_LITE, _OURS),
    "compact demo": Subject(ArchSpec(architecture="compact", scale=4, features=48, blocks=8), _OURS),
    "compact-16": Subject(_COMPACT_16, _OURS),
    "rrdb-lite used at x2": Subject(_LITE, ("average_pool", "DEFAULT", OPENED), halved=True),
    "compact-16 used at x2": Subject(_COMPACT_16, ("average_pool", "DEFAULT", OPENED), halved=True),
    "rrdb-lite x2 by PyTorch alone": Subject(
        _LITE.model_copy(update={"scale": 2}), ("unshuffle", "DEFAULT", OPENED), folded=False
    ),
}
MAIN = tuple(name for name, subject in SUBJECTS.items() if subject.variants == _OURS)


def open_openvino(model: onnx.ModelProto, threads: int, precision: str = "f32") -> Run:
    """As the runner of sr-deploy opens it."""
    compiled = compile_graph(model.SerializeToString(), precision, threads)
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


def open_openvino_bf16(model: onnx.ModelProto, threads: int) -> Run:
    """Likewise, in bf16."""
    return open_openvino(model, threads, "bf16")


@dataclass(frozen=True)
class Backend:
    """Who computes, and what its runner adds to a file."""

    opener: Callable[[onnx.ModelProto, int], Run]
    added: RewriteOptions
    only: tuple[str, ...] = _ALL
    """Variants that are timed in it."""


BACKENDS = {
    "openvino": Backend(open_openvino, FOR_OPENVINO),
    "onnxruntime": Backend(open_onnxruntime, FOR_ONNXRUNTIME),
    "openvino bf16": Backend(open_openvino_bf16, FOR_OPENVINO_BF16, ("DEFAULT", "FOR_OPENVINO", OPENED)),
}


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


def make_plain(subject: Subject, network: torch.nn.Module) -> onnx.ModelProto:
    """Its graph, before any rewrite."""
    if subject.folded:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plain.onnx"
            export_network_to_onnx(network, subject.spec, path, "0" * 64)
            model = onnx.load(path)
    else:
        model = trace_network(network, subject.spec.channels, input_multiple(subject.spec))
    if subject.halved:
        append_halving(model)
    return model


def rewrite_all(
    plain: onnx.ModelProto, subject: Subject, backend: Backend
) -> dict[str, tuple[onnx.ModelProto, RewriteReport]]:
    """The plain graph and the variants that change it."""
    made = {"plain": (plain, rewrite_model(plain, NOTHING))}
    for name in subject.variants:
        if name not in backend.only:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(plain)
        report = rewrite_model(model, VARIANTS.get(name, DEFAULT))
        changed = bool(report.applied)
        if name == OPENED:
            report = rewrite_model(model, backend.added)
            changed = changed or bool(report.applied)
        if changed:
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


def measure_subject(name: str, side: int, threads: int, rounds: int) -> list[Row]:
    """Every variant in every backend."""
    subject = SUBJECTS[name]
    network = make_network(subject.spec)
    plain = make_plain(subject, network)
    lr_NCHW = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    sr_NCHW = network(torch.from_numpy(lr_NCHW))
    reference = (torch.nn.functional.avg_pool2d(sr_NCHW, 2) if subject.halved else sr_NCHW).numpy()
    rows = []
    for backend, how in BACKENDS.items():
        if backend == "openvino bf16" and why_not_computed(BackendChoice("openvino", "bf16")):
            continue
        variants = rewrite_all(plain, subject, how)
        runs = {variant: how.opener(model, threads) for variant, (model, _) in variants.items()}
        errors = {variant: float(np.abs(run(lr_NCHW) - reference).max()) for variant, run in runs.items()}
        taken = time_in_turns(runs, lr_NCHW, rounds)
        for variant, (_, report) in variants.items():
            ratios = [100 * (1 - one / base) for one, base in zip(taken[variant], taken["plain"], strict=True)]
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
                f"{name:22} {backend:13} {variant:22} {rows[-1].median_ms:8.2f} ms {rows[-1].gain_percent:+6.1f} %",
                flush=True,
            )
    return rows


def measure_product(threads: int) -> float:
    """GFLOP/s of FP32 that a product of matrices of 2048x2048 reaches at best."""
    side, before = 2048, torch.get_num_threads()
    torch.set_num_threads(threads)
    matrix = torch.rand(side, side)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2e-9 * side**3 / min(seconds)


def describe_pace(product: float, rows: list[Row], pixels: int) -> str:
    """How fast the plain graphs multiply, beside a product of matrices."""
    paces = [
        f"{row.network} {2e-6 * row.multiply_adds * pixels / row.median_ms:.0f}"
        for row in rows
        if row.variant == "plain" and row.backend == "openvino" and row.network in MAIN
    ]
    return f"plain in openvino: {', '.join(paces)}; torch.mm of 2048x2048: {product:.0f} (best of 24)"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="height and width of the picture")
    parser.add_argument("--threads", type=int, default=2, help="threads of each backend")
    parser.add_argument("--rounds", type=int, default=31, help="timed rounds")
    parser.add_argument("--network", choices=tuple(SUBJECTS), action="append", help="only this one; repeatable")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of graph_rewrites.json and .md")
    parser.add_argument("--pages", action="store_true", help="write the pages again from the JSON; measure nothing")
    options = parser.parse_args()
    if options.pages:
        stored = json.loads((options.out / "graph_rewrites.json").read_text(encoding="utf-8"))
        rows = [Row(**row) for row in stored.pop("rows")]
        write_pages(stored, rows, options.out, MAIN, _ALL)
        return
    document = {
        **describe_run("onnxruntime", "openvino", "torch", "onnx"),
        "picture": f"1x3x{options.side}x{options.side}, FP32, {options.threads} threads, {options.rounds} rounds",
    }
    rows = []
    product = measure_product(options.threads)
    for network in options.network or SUBJECTS:
        rows += measure_subject(network, options.side, options.threads, options.rounds)
    product = max(product, measure_product(options.threads))
    document["pace"] = describe_pace(product, rows, options.side**2)
    whole = document | {"rows": [asdict(row) for row in rows]}
    write_text(options.out / "graph_rewrites.json", json.dumps(whole, indent=1) + "\n")
    write_pages(document, rows, options.out, MAIN, _ALL)


if __name__ == "__main__":
    main()
