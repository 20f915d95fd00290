"""What FP16 and INT8 cost a network, beside other quantisers, and how fast INT8 is on the CPU.

    python benchmarks/int8_fidelity.py --network compact=realesr-animevideov3.pth --network rrdb=runs/rrdb-lite \
        --set14 Set14 --calibration BSDS500

Every network is exported and rewritten as `sr-deploy export` does it, then made FP16 and INT8 with the default settings
of the package, and INT8 by ONNX Runtime's own quantiser (QDQ, as it comes, with its ranges `MinMax` and `Entropy`) and
by NVIDIA's modelopt where it is installed; these two take the graph as PyTorch exports it, as their users would. All
calibrate on the same crops. Each graph enlarges the same pictures in ONNX Runtime: what it loses against FP32 and
against the originals is reported, and the share of the multiply-adds that is INT8. ONNX Runtime computes FP16
convolutions in FP32 on a CPU, so the FP16 rows flatter.

FP32 and INT8 are then timed in turns, A B C A B C ..., in ONNX Runtime and OpenVINO; the spread is half the
interquartile range. Without `--set14` the bundled photographs are the only test set; without `--calibration` they are
calibrated on as well, and only what the package holds out of them is tested.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.deps import is_installed
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.int8.execute import Engine, Run, open_graph
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.options import Int8Options
from sr_deploy.export.int8.photographs import Crop, CropShape, cut_crops, find_photographs, to_input
from sr_deploy.export.int8.quality import Judge
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.rewrite import rewrite_graph_file
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.model import open_model
from sr_deploy.verify.pairs import find_pairs, read_pair

RESULTS = Path(__file__).parent / "results" / "int8_fidelity"
TESTED_CROP = 96
"""Low-resolution side of the crops of bundled photographs that are tested on."""


@dataclass(frozen=True)
class Fidelity:
    """One graph on one test set."""

    network: str
    """Name given on the command line."""
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


@dataclass(frozen=True)
class Speed:
    """One graph in one backend."""

    network: str
    """Name given on the command line."""
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


class CropReader:
    """Calibration crops as ONNX Runtime's quantiser reads them."""

    def __init__(self, name: str, crops: Iterable[NDArray[np.float32]]) -> None:
        self._feeds = ({name: crop} for crop in crops)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next one; None at the end."""
        return next(self._feeds, None)


def quantise_with_onnxruntime(source: Path, crops: Sequence[NDArray[np.float32]], ranges: str, target: Path) -> None:
    """ONNX Runtime's static quantiser as it comes, after the preparation that its documentation asks for."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    reader = CropReader("lr", crops)
    method = {"MinMax": CalibrationMethod.MinMax, "Entropy": CalibrationMethod.Entropy}[ranges]
    quantize_static(str(prepared), str(target), reader, quant_format=QuantFormat.QDQ, calibrate_method=method)


def quantise_with_modelopt(source: Path, crops: Sequence[NDArray[np.float32]], target: Path) -> None:
    """NVIDIA's modelopt as it comes."""
    quantize = importlib.import_module("modelopt.onnx.quantization").quantize  # not a dependency of sr-deploy
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={"lr": np.concatenate(crops)},
        output_path=str(target),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
    )


def make_graphs(
    folder: Path, checkpoint: Path, calibration: Path | None, notes: list[str], *, variants: bool
) -> Iterator[tuple[str, Path]]:
    """The graphs of one network, FP32 first; what cannot be made goes into `notes`."""
    model = open_model(checkpoint)
    assert model.arch is not None
    plain, fp32 = folder / "plain.onnx", folder / "fp32.onnx"
    export_network_to_onnx(model.load_network(), model.arch, plain, "0" * 64)
    shutil.copyfile(plain, fp32)
    rewrite_graph_file(fp32)
    yield "FP32", fp32
    convert_graph_to_fp16(fp32, folder / "fp16.onnx")
    yield "FP16", folder / "fp16.onnx"
    options = Int8Options()
    for name, one in (
        ("INT8", options),
        ("INT8, ranges by mse", options.model_copy(update={"method": "mse"})),
        ("INT8, scales per tensor", options.model_copy(update={"per_channel": False})),
        ("INT8, channels as they are", options.model_copy(update={"equalise": False})),
        ("INT8, biases corrected", options.model_copy(update={"bias_correction": "on"})),
        ("INT8, biases as they are", options.model_copy(update={"bias_correction": "off"})),
    ):
        if name != "INT8" and not variants:
            continue
        target = folder / f"{name.replace(' ', '-')}.onnx"
        # Without a budget: all of the placement is INT8, so that the rows can be compared and no search is needed.
        free = {"max_drop_db": 99.0, "max_pixel_error": 1.0, "curve_points": 2, "search_crops": 4}
        lax = one if name == "INT8" else one.model_copy(update=free)
        make_int8_graph(fp32, target, lax, calibration, force=True, tell=lambda line: print(line, file=sys.stderr))
        yield name, target
    shape = CropShape(options.crop_size, model.scale, model.channels, options.seed)
    crops = [crop.lr for crop in cut_crops(find_photographs(calibration).calibration, options.crops, shape, 0)]
    others: dict[str, Callable[[Path], None]] = {
        f"ONNX Runtime's quantiser, {ranges}": functools.partial(quantise_with_onnxruntime, plain, crops, ranges)
        for ranges in ("MinMax", "Entropy")
    }
    others["NVIDIA modelopt"] = functools.partial(quantise_with_modelopt, plain, crops)
    for name, make in others.items():
        target = folder / f"{name.replace(' ', '-')}.onnx"
        try:
            make(target)
        except Exception as error:  # noqa: BLE001 - another tool's: whatever it raises is the finding
            notes.append(f"{name} on {checkpoint.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        yield name, target


def read_test_sets(
    set14: Path | None, calibration: Path | None, scale: int, channels: int
) -> Iterator[tuple[str, list[Crop]]]:
    """Pictures to test on, with their names."""
    if set14 is not None:
        pairs = [read_pair(paths, scale, channels) for paths in find_pairs(set14, set14, scale)]
        yield "Set14", [Crop(to_input(pair.lr), pair.hr) for pair in pairs]
    bundled = find_photographs(None)
    paths = bundled.held_out if calibration is None else (*bundled.calibration, *bundled.held_out)
    shape = CropShape(TESTED_CROP, scale, channels, 1)
    yield "bundled photographs", list(cut_crops(paths, 3 * len(paths), shape, 7))


def measure_fidelity(
    network: str, graphs: dict[str, Path], test_sets: Iterable[tuple[str, list[Crop]]], scale: int
) -> Iterator[Fidelity]:
    """Every graph on every test set."""
    runs = {name: open_graph(onnx.load(path), "onnxruntime") for name, path in graphs.items()}
    shares = {name: describe_graph_cost(path).precision_share.get("int8", 0.0) for name, path in graphs.items()}
    for test_set, crops in test_sets:
        judge = Judge(crops, runs["FP32"], "sr", scale)
        for name, run in runs.items():
            if name != "FP32":
                loss = judge.judge(run)
                yield Fidelity(network, name, test_set, shares[name], loss.psnr_fp32_db, loss.drop_db, loss.max_abs)


def measure_speed(network: str, graphs: dict[str, Path], side: int, channels: int, rounds: int) -> Iterator[Speed]:
    """FP32 and INT8 in turns."""
    wanted = [name for name in graphs if name in ("FP32", "INT8") or name.startswith(("ONNX", "NVIDIA"))]
    backends: list[Engine] = ["onnxruntime", "openvino"] if is_installed("openvino") else ["onnxruntime"]
    lr = np.random.default_rng(0).random((1, channels, side, side), dtype=np.float32)
    runs: dict[tuple[str, Engine], Run] = {
        (name, backend): open_graph(onnx.load(graphs[name]), backend) for name in wanted for backend in backends
    }
    times: dict[tuple[str, Engine], list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run(lr)
            if number:  # the first round warms up
                times[key].append(1000 * (time.perf_counter() - started))
    for (name, backend), seen in times.items():
        quarters = statistics.quantiles(seen, n=4)
        ratios = [plain / one for plain, one in zip(times["FP32", backend], seen, strict=True)]
        yield Speed(
            network,
            name,
            backend,
            f"1x{side}x{side}",
            statistics.median(seen),
            (quarters[2] - quarters[0]) / 2,
            statistics.median(ratios),
        )


def format_page(document: dict[str, object], fidelity: list[Fidelity], speed: list[Speed], notes: list[str]) -> str:
    """The tables."""
    lines = [
        "# What FP16 and INT8 cost",
        "",
        f"{document['machine']}; {document['tools']}; {document['measured_at']}.",
        "",
        f"    {document['command']}",
        "",
        "PSNR on luma, 8 bit, `scale` pixels cropped at the borders; every graph ran in ONNX Runtime on the CPU, which",
        "computes FP16 convolutions in FP32. Rows other than `INT8` have no budget: all that the placement allows is",
        "INT8.",
        "",
        "| network | graph | test set | INT8 multiply-adds | PSNR to FP32 | lost against originals | worst sample |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.network} | {one.graph} | {one.test_set} | {100 * one.int8_share:.1f} % | {one.psnr_fp32_db:.1f} dB | "
        f"{one.drop_db:+.4f} dB | {one.max_abs:.3f} |"
        for one in fidelity
    ]
    lines += ["", "## Speed, in turns", "", "| network | graph | backend | input | time | against FP32 |"]
    lines += ["|---|---|---|---|---:|---:|"]
    lines += [
        f"| {one.network} | {one.graph} | {one.backend} | {one.shape} | {one.ms:.1f} ± {one.spread_ms:.1f} ms | "
        f"{one.ratio:.2f}x |"
        for one in speed
    ]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", action="append", required=True, help="NAME=CHECKPOINT; may be repeated")
    parser.add_argument("--set14", type=Path, help="folder of pairs (Set14)")
    parser.add_argument("--calibration", type=Path, help="folder of photographs; left out: the bundled ones")
    parser.add_argument("--variants", action="store_true", help="INT8 with other settings, too")
    parser.add_argument("--side", type=int, default=128, help="of the input that is timed")
    parser.add_argument("--rounds", type=int, default=15, help="of timing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results, without suffix")
    return parser.parse_args()


def main() -> None:
    """Measure and write."""
    arguments = read_arguments()
    fidelity: list[Fidelity] = []
    speed: list[Speed] = []
    notes: list[str] = []
    for entry in arguments.network:
        network, _, checkpoint = entry.partition("=")
        model = open_model(Path(checkpoint))
        with tempfile.TemporaryDirectory() as name:
            graphs = dict(
                make_graphs(Path(name), Path(checkpoint), arguments.calibration, notes, variants=arguments.variants)
            )
            sets = read_test_sets(arguments.set14, arguments.calibration, model.scale, model.channels)
            fidelity += measure_fidelity(network, graphs, sets, model.scale)
            speed += measure_speed(network, graphs, arguments.side, model.channels, arguments.rounds)
    # Folders are other people's machines: only their names are kept.
    words = [Path(word).name if "/" in word and "=" not in word else word for word in sys.argv]
    words = [f"{word.partition('=')[0]}={Path(word.partition('=')[2]).name}" if "=" in word else word for word in words]
    document: dict[str, object] = {
        "command": shlex.join(["python", f"benchmarks/{words[0]}", *words[1:]]),
        "measured_at": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine().title(),
        "tools": ", ".join(f"{tool} {version}" for tool, version in tool_versions().items()),
    }
    page = format_page(document, fidelity, speed, notes)
    document |= {"fidelity": [asdict(one) for one in fidelity], "speed": [asdict(one) for one in speed], "notes": notes}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
