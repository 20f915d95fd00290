"""What benchmarks/int8_fidelity.py measured: kept after each network, read back to go on, and shown as tables.

Committed results also fill the table of docs/int8.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pages import make_table, replace_table, write_results

RESULTS = Path(__file__).parent / "results" / "int8_fidelity"
_BACKENDS = {
    "torch": "PyTorch",
    "openvino": "OpenVINO",
    "openvino bf16": "OpenVINO, floats in BF16",
    "onnxruntime": "ONNX Runtime",
}
DOCS = Path(__file__).parents[1] / "docs" / "int8.md"


@dataclass(frozen=True)
class Fidelity:
    """One graph on one test set."""

    graph: str
    """How it was made."""
    test_set: str
    """What it was tested on."""
    int8_share: float
    """Of the multiply-adds, 0 to 1."""
    psnr_fp32_db: float
    """Against FP32, peak 1.0, outputs clamped."""
    drop_db: float
    """PSNR on luma against the originals that is lost to FP32, mean over the pictures."""
    max_abs: float
    """Greatest difference from FP32 of any sample."""
    upper_db: float | None = None
    """Upper end of the 95 % interval of `drop_db`; None: not measured then."""
    visible: float | None = None
    """Greatest difference from FP32 of a mean over 5x5 pixels; None: not measured then."""

    @property
    def share(self) -> str:
        """In percent, for a table."""
        return f"{100 * self.int8_share:.1f} %"

    @property
    def psnr(self) -> str:
        """Against FP32, for a table."""
        return f"{self.psnr_fp32_db:.1f} dB"

    @property
    def losses(self) -> tuple[str, str, str]:
        """Against the originals, its upper end, and the visible error, for a table; empty what was not measured."""
        upper = "" if self.upper_db is None else f"{self.upper_db:+.4f} dB"
        return f"{self.drop_db:+.4f} dB", upper, "" if self.visible is None else f"{self.visible:.3f}"


@dataclass(frozen=True)
class Speed:
    """One graph in one backend."""

    graph: str
    """How it was made."""
    backend: str
    """What ran it."""
    shape: str
    """Of the input, NxHxW."""
    ms: float
    """Median."""
    spread_ms: float
    """Half the interquartile range."""
    ratio: float
    """Median over the rounds of the time of FP32 in the same backend and round, divided by this one's."""


@dataclass
class Measured:
    """One network."""

    checkpoint: str
    """Name of its file or folder."""
    run: dict[str, str]
    """Command, machine, versions and day."""
    fidelity: list[Fidelity] = field(default_factory=list)
    """Every graph on every test set."""
    speed: list[Speed] = field(default_factory=list)
    """FP32 and INT8 in turns."""
    notes: list[str] = field(default_factory=list)
    """What could not be made, and why."""


def read_measured(path: Path) -> dict[str, Measured]:
    """The networks that were measured before; none if nothing was written.

    Args:
        path: results, without suffix.
    """
    file = path.with_suffix(".json")
    if not file.is_file():
        return {}
    return {
        name: Measured(
            checkpoint=one["checkpoint"],
            run=one["run"],
            fidelity=[Fidelity(**row) for row in one["fidelity"]],
            speed=[Speed(**row) for row in one["speed"]],
            notes=one["notes"],
        )
        for name, one in json.loads(file.read_text(encoding="utf-8")).items()
    }


def write_measured(path: Path, networks: Mapping[str, Measured]) -> str:
    """Write PATH.json and PATH.md; returns the page."""
    document = {name: asdict(one) for name, one in networks.items()}
    page = "\n".join(_format(networks)) + "\n"
    write_results(path, document, page)
    return page


def update_docs(networks: Mapping[str, Measured], path: Path = DOCS) -> None:
    """Put what matters most between the marks of docs/int8.md: each graph on the first test set, and its times."""
    rows = [
        (name, row.graph, row.share, *row.losses, row.psnr)
        for name, one in networks.items()
        for row in one.fidelity
        if row.test_set == one.fidelity[0].test_set
    ]
    header = "network | graph | INT8 | lost against originals | at most (95 %) | visible error | PSNR to FP32"
    sets = {one.fidelity[0].test_set for one in networks.values() if one.fidelity}
    lines = [
        *make_table(header, rows, text=(0, 1)),
        "",
        f"Tested on {', '.join(sorted(sets))}.",
        "",
        *_format_times(networks),
    ]
    lines += [f"{name}: {run['machine']}; {run['measured_at']}; `{run['command']}`." for name, run in _runs(networks)]
    replace_table("int8", "\n".join(lines), path)


def _format_times(networks: Mapping[str, Measured]) -> Iterator[str]:
    """Milliseconds of each graph in each backend; no lines if nothing was timed."""
    used = {row.backend for one in networks.values() for row in one.speed}
    titles = {backend: title for backend, title in _BACKENDS.items() if backend in used}
    if not titles:
        return
    rows = []
    for name, one in networks.items():
        times = {(row.graph, row.backend): f"{row.ms:.1f} ms" for row in one.speed}
        for graph in dict.fromkeys(row.graph for row in one.speed):
            rows.append([name, one.speed[0].shape, graph, *(times.get((graph, backend), "") for backend in titles)])
    yield from (*make_table(" | ".join(["network", "input", "graph", *titles.values()]), rows, text=(0, 1, 2)), "")


def _runs(networks: Mapping[str, Measured]) -> Iterator[tuple[str, dict[str, str]]]:
    """The runs, each with the names of its networks."""
    for index, one in enumerate(networks.values()):
        if one.run not in [before.run for before in list(networks.values())[:index]]:
            yield ", ".join(name for name, other in networks.items() if other.run == one.run), one.run


def _format(networks: Mapping[str, Measured]) -> Iterator[str]:
    yield from ("# What FP16 and INT8 cost", "")
    for name, run in _runs(networks):
        yield from (f"{name}: {run['machine']}; {run['tools']}; {run['measured_at']}.", "", f"    {run['command']}", "")
    yield from (
        "PSNR on luma, 8 bit, `scale` pixels cropped at the borders; every graph ran in ONNX Runtime on the CPU, which",
        "computes FP16 convolutions in FP32. `INT8` is what `sr-deploy export --int8` makes, within its budget; other",
        "rows have none: all that their makers' placement allows is INT8.",
        "",
    )
    yield from make_table(
        "network | graph | test set | INT8 multiply-adds | PSNR to FP32 | lost against originals | at most (95 %) | "
        "visible error | worst sample",
        [
            (name, row.graph, row.test_set, row.share, row.psnr, *row.losses, f"{row.max_abs:.3f}")
            for name, one in networks.items()
            for row in one.fidelity
        ],
        text=(0, 1, 2),
    )
    times = [
        (name, row.graph, row.backend, row.shape, f"{row.ms:.1f} ± {row.spread_ms:.1f} ms", f"{row.ratio:.2f}x")
        for name, one in networks.items()
        for row in one.speed
    ]
    if times:
        header = "network | graph | backend | input | time | against FP32"
        yield from ("", "## Speed, in turns", "", *make_table(header, times, text=range(4)))
    notes = [f"- {name}: {note}" for name, one in networks.items() for note in one.notes]
    yield from ("", *notes) if notes else ()


def select_timed(graphs: Iterable[str]) -> list[str]:
    """The graphs that are timed: FP32, and INT8 by each maker."""
    return [name for name in graphs if name in ("FP32", "INT8") or name.startswith(("ONNX", "NVIDIA", "NNCF"))]
