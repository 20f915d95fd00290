"""Time and memory against pixels, batch, tiles, blocks, frames and files: what grows faster than its work is a bug.

    python benchmarks/cost_curves.py                              # all curves, under half an hour on two quiet cores
    python benchmarks/cost_curves.py --only files --only frames   # some; the others stay as they were measured
    python benchmarks/cost_curves.py --quick --out DIR            # two sizes of each, once: does it run?
    python benchmarks/cost_curves.py --pages                      # measure nothing: write the pages again

Each point is measured in a process of its own (`cost_points.py`), from small to large, and all of that again in each
round. Results go to results/cost_curves.json and .md; from the committed ones come docs/cost-curves.md and its plots.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cost_pages import RESULTS, Outcome, write_pages
from cost_points import (
    CostPoint,
    Prepared,
    cut_picture,
    infer_batch,
    prepare_files,
    prepare_film,
    prepare_network,
    prepare_picture,
    process_files,
    process_network,
    upscale_film,
    upscale_picture,
    upscale_picture_file,
)
from pages import describe_run

from sr_deploy.files import write_text
from sr_deploy.measure.machine import usable_cores
from sr_deploy.measure.peak import measure_peaks_apart

FOLDER = Path(__file__).parent
_ROUNDS = 3
_BACKENDS = ("onnxruntime:fp32", "openvino:fp32")


@dataclass(frozen=True)
class CostSeries:
    """One line of a plot."""

    curve: str
    """The plot."""
    name: str
    """In the legend, and after the curve's in the name of the series."""
    sizes: tuple[int, ...]
    """From small to large work."""
    make: Callable[[int, Path], Prepared]
    """Takes a size and the folder of files."""
    prepare: Callable[[int, Path], None] | None = None
    """Makes the files of a size, once; series of one curve with the same `files` share them."""
    files: str = ""
    """Which files."""
    memory_limit: float = 1.0
    """Exponent that the memory may grow with: 1 with the work, 0 not at all."""

    @property
    def key(self) -> str:
        """As in `pixels/stream`."""
        return f"{self.curve}/{self.name}"


def list_series() -> list[CostSeries]:
    """All of them, in the order of the page."""
    sides, films = (128, 256, 512, 1024, 2048), (10, 30, 100, 300)
    series = [CostSeries("pixels", f"Upscaler, {one}", sides, partial(upscale_picture, one)) for one in _BACKENDS]
    for how in ("file", "stream"):
        make = partial(upscale_picture_file, how)
        series.append(CostSeries("pixels", how, sides, make, prepare_picture, "picture"))
    batches = (1, 2, 4, 8, 16)
    series += [CostSeries("batch", one, batches, partial(infer_batch, one)) for one in (*_BACKENDS, "torch:fp32")]
    series += [CostSeries("tiles", one, (512, 256, 128, 64, 32, 16), partial(cut_picture, one)) for one in _BACKENDS]
    for architecture, depths in (("compact", (8, 16, 32, 64, 128, 256)), ("rrdbnet", (1, 2, 4, 8, 16))):
        for task in ("infer", "export", "open checkpoint", "open", "analyze", "plan FP16"):
            make, prepare = partial(process_network, f"{architecture} {task}"), partial(prepare_network, architecture)
            series.append(CostSeries(f"blocks of {architecture}", task, depths, make, prepare, architecture))
    for backend in _BACKENDS:
        make = partial(upscale_film, backend)
        series.append(CostSeries("frames", backend, films, make, prepare_film, "film", memory_limit=0))
    stand_ins = (10, 100, 1000, 10_000, 100_000)
    for name, kind, counts in (
        ("planned", "planned", stand_ins),
        ("finished before", "finished", stand_ins),
        ("tiny pictures, upscaled", "real", (10, 30, 100, 300, 1000)),
    ):
        make, prepare = partial(process_files, kind), partial(prepare_files, kind)
        series.append(CostSeries("files", name, counts, make, prepare, kind))
    return series


def find_series(key: str) -> CostSeries:
    """By its key."""
    return next(one for one in list_series() if one.key == key)


def measure(series: Sequence[CostSeries], rounds: int, sizes: int | None, folder: Path) -> list[Outcome]:
    """All points of these series, round by round.

    Args:
        series: what is measured.
        rounds: how often.
        sizes: how many of the smallest; None: all.
        folder: of files, empty.
    """
    plan = [(one, size) for one in series for size in one.sizes[:sizes]]
    made = set()
    for one, size in plan:
        if one.prepare is not None and (one.files, size) not in made:
            made.add((one.files, size))
            _run(one, size, folder, "--prepare")
    points: dict[str, list[list[CostPoint]]] = {one.key: [] for one in series}
    for number in range(rounds):
        for turns in points.values():
            turns.append([])
        for one, size in plan:
            point = CostPoint(**json.loads(_run(one, size, folder)))
            points[one.key][number].append(point)
            said = f"round {number + 1}, {one.key}, {size}: {min(point.seconds):.4g} s, {point.mib:.1f} MiB"
            print(said, file=sys.stderr, flush=True)
    return [Outcome.of_rounds(one.curve, one.name, points[one.key], one.memory_limit) for one in series]


def _run(series: CostSeries, size: int, folder: Path, *words: str) -> str:
    """The last line that the process of a point prints."""
    command = [sys.executable, str(FOLDER / "cost_points.py"), series.key, str(size), str(folder), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.splitlines() or [""])[-1]


def choose(only: Sequence[str]) -> list[CostSeries]:
    """Those of the curves that were asked for; all if none was."""
    known = list(dict.fromkeys(one.curve for one in list_series()))
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise SystemExit(f"no curve named {', '.join(unknown)}; known: {', '.join(known)}")
    return [one for one in list_series() if not only or one.curve in only]


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="CURVE", help="this one; repeatable")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes, once")
    parser.add_argument("--pages", action="store_true", help="measure nothing: write the pages again")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of cost_curves.json and .md")
    options = parser.parse_args()
    chosen = choose(options.only)
    path = options.out / "cost_curves.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"curves": {}}
    if not options.pages:
        with tempfile.TemporaryDirectory(prefix="sr-deploy-") as name:
            rounds, sizes = (1, 2) if options.quick else (options.rounds, None)
            outcomes = measure(chosen, rounds, sizes, Path(name))
        place = describe_curves(rounds)
        for curve in dict.fromkeys(one.curve for one in outcomes):
            series = [asdict(one) for one in outcomes if one.curve == curve]
            document["curves"][curve] = {"run": place, "series": series}
        order = {one.curve: None for one in list_series()}
        document["curves"] = {curve: document["curves"][curve] for curve in order if curve in document["curves"]}
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(document, indent=1) + "\n")
    write_pages(document["curves"], options.out)


def describe_curves(rounds: int) -> dict[str, object]:
    """What holds for all points of a run."""
    threads = usable_cores()
    peaks = measure_peaks_apart("cpu", threads)
    return {
        **describe_run("torch", "onnx", "onnxruntime", "openvino", "numpy", "pyvips", "av"),
        "rounds": rounds,
        "gflops": peaks.matrix_gflops["fp32"],
    }


if __name__ == "__main__":
    main()
