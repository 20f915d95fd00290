"""Tables of what benchmarks/training_step.py measured: in benchmarks/results, and in docs/training.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pages import head_lines, make_table, replace_table, write_results

from sr_deploy.train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "training.md"
PHASES = ("data", "degradation", "forward", "backward", "update")
_COUNTS, _TIMES = "training_operations", "training_step_{kind}"


@dataclass(frozen=True)
class StepTimes:
    """One recipe on one device."""

    recipe: str
    """Its name."""
    network: str
    """The generator."""
    batch: int
    """Patches per step, as measured."""
    patch_size: int
    """Side of a patch in pixels."""
    precision: str
    """How the passes computed."""
    step_ms: float
    """Median of whole steps."""
    fastest_ms: float
    """The fastest of them."""
    slowest_ms: float
    """The slowest of them."""
    shares: dict[str, float]
    """Of the phases, in percent; together 100."""
    tflop: float
    """Floating-point operations of a step's convolutions and matrix products, forward and backward, in 10^12."""
    memory_gib: float | None
    """Greatest allocation on a GPU."""
    gpu_percent: float | None
    """Share of the time in which the GPU had work, as nvidia-smi says."""

    @property
    def tflop_per_second(self) -> float:
        """What the device achieved."""
        return self.tflop / self.step_ms * 1e3

    def list_shares(self) -> list[str]:
        """Those of the phases, for a table."""
        return [f"{self.shares[phase]:.1f} %" for phase in PHASES]


def write_counts(folder: Path, head: Mapping[str, object], counts: Mapping[str, float]) -> None:
    """Write what was counted, TFLOP of a step with one patch by recipe."""
    _write(folder, _COUNTS, {**head, "tflop": counts}, format_counts(head, counts))


def write_times(folder: Path, head: Mapping[str, object], rows: Sequence[StepTimes]) -> None:
    """Write what was timed, of a CPU and of a GPU apart."""
    kind = "cuda" if any(row.memory_gib is not None for row in rows) else "cpu"
    _write(folder, _TIMES.format(kind=kind), {**head, "rows": [asdict(row) for row in rows]}, format_times(head, rows))


def update_page(folder: Path) -> None:
    """Write the tables of docs/training.md anew from all results, if the folder is that of the committed ones."""
    if folder.resolve() != RESULTS.resolve():
        return
    lines = [""]
    if (folder / f"{_COUNTS}.json").is_file():
        stored = json.loads((folder / f"{_COUNTS}.json").read_text(encoding="utf-8"))
        lines += [*_count_rows(stored["tflop"]), ""]
    for kind in ("cuda", "cpu"):
        name = _TIMES.format(kind=kind)
        if (folder / f"{name}.json").is_file():
            stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            lines += _measured_rows(stored, f"../benchmarks/results/{name}.md")
    replace_table("costs", "\n".join(lines), PAGE)


def format_times(head: Mapping[str, object], rows: Sequence[StepTimes]) -> str:
    """The Markdown page."""
    lines = [
        *head_lines("Training steps", "training_step.py", head),
        "Step: median (fastest to slowest) of whole steps. TFLOP: operations of a step's convolutions and matrix",
        "products, forward and backward, counted. Shares are of the time of the phases, timed one by one.",
        "",
        *make_table(
            f"recipe | batch | patch | precision | step ms | TFLOP | TFLOP/s | {' | '.join(PHASES)} | memory | GPU",
            map(_list_cells, rows),
            text=(0, 3),
        ),
    ]
    return "\n".join(lines) + "\n"


def _list_cells(row: StepTimes) -> tuple[object, ...]:
    return (
        *(row.recipe, row.batch, row.patch_size, row.precision),
        f"{row.step_ms:.0f} ({row.fastest_ms:.0f} to {row.slowest_ms:.0f})",
        *(f"{row.tflop:.3g}", f"{row.tflop_per_second:.3g}", *row.list_shares()),
        "-" if row.memory_gib is None else f"{row.memory_gib:.1f} GiB",
        "-" if row.gpu_percent is None else f"{row.gpu_percent:.0f} %",
    )


def format_counts(head: Mapping[str, object], counts: Mapping[str, float]) -> str:
    """The Markdown page of what was counted."""
    lines = [
        *head_lines("Operations of a training", "training_step.py --count", head),
        "Floating-point operations of convolutions and matrix products, forward and backward, of all networks (VGG19",
        "among them): of a step with one patch, of one with the recipe's batch, and of the whole recipe.",
        "Hours are arithmetic, not measured: operations / (1e14 / s), a GPU that sustains 100 TFLOP/s.",
        "",
        *_count_rows(counts),
    ]
    return "\n".join(lines) + "\n"


def _count_rows(counts: Mapping[str, float]) -> list[str]:
    rows = []
    for name, tflop in counts.items():
        recipe = load_recipe(name)
        step = tflop * recipe.data.batch
        whole = step * recipe.run.steps / 1e3
        hours = _in_figures(whole * 1e15 / 1e14 / 3600)
        cells = (f"{tflop:.3g}", recipe.data.batch, f"{step:.3g}", f"{recipe.run.steps:,}", _in_figures(whole), hours)
        rows.append((f"`{name}`", *cells))
    header = "recipe | TFLOP for a patch | batch | TFLOP for a step | steps | PFLOP in all | hours at 100 TFLOP/s"
    return make_table(header, rows)


def _in_figures(number: float) -> str:
    """With three figures, without exponents."""
    if number < 0.01:
        return "under 0.01"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _measured_rows(stored: Mapping[str, Any], link: str) -> list[str]:
    """Measured steps, and what they mean for the whole recipe: an estimate, as the batch was another one."""
    rows = []
    for row in (StepTimes(**one) for one in stored["rows"]):
        recipe = load_recipe(row.recipe)
        hours = row.step_ms / 1e3 * recipe.data.batch / row.batch * recipe.run.steps / 3600
        figures = (f"{row.step_ms:.0f}", f"{row.tflop_per_second:.3g}", *row.list_shares(), f"{hours:,.0f}")
        rows.append((f"`{row.recipe}`", row.batch, row.precision, *figures))
    header = f"recipe | batch | precision | step ms | TFLOP/s | {' | '.join(PHASES)} | hours for the whole recipe"
    return [
        f"Measured on {stored['machine']}; {stored['versions']}; {stored['date']}; `{stored['command']}`",
        f"([all figures]({link})). Hours are an estimate: measured step x published batch / measured batch x steps.",
        "",
        *make_table(header, rows, text=(0, 2)),
        "",
    ]


def _write(folder: Path, name: str, document: Mapping[str, object], page: str) -> None:
    write_results(folder / name, document, page)
    print(page)
    update_page(folder)
