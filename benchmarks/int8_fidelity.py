r"""What FP16 and INT8 cost a network, beside other quantizers, and how fast INT8 is on the CPU.

    python benchmarks/int8_fidelity.py --network compact=realesr-animevideov3.pth --network rrdb=runs/rrdb-lite \
        --set14 Set14 --calibration BSDS500

Every network is exported and rewritten as `sr-deploy export` does it, then made FP16 and INT8 with the default settings
of the package, and INT8 by ONNX Runtime's own quantizer (QDQ, as it comes, with its ranges `MinMax` and `Entropy`) and
by NVIDIA's modelopt where it is installed; these two take the graph as PyTorch exports it, as their users would. All
calibrate on the same crops. Each graph enlarges the same pictures in ONNX Runtime: what it loses against FP32 and
against the originals is reported, and the share of the multiply-adds that is INT8. ONNX Runtime computes FP16
convolutions in FP32 on a CPU, so the FP16 rows flatter.

FP32 and INT8 are then timed in turns, A B C A B C ..., in ONNX Runtime and OpenVINO, there also with what is float in
BF16 where the CPU multiplies that, and beside PyTorch as it comes; the spread is half the interquartile range. Without
`--set14` the bundled photographs are the only test set; without `--calibration` they are calibrated on as well, and
only what the package holds out of them is tested.

Results are written after each network, and those of other networks stay as they were measured, each with its command,
machine, versions and day. `--resume` leaves those as well that were measured under all the same. Without `--out` they
are the committed ones, and docs/int8.md gets its tables of them. sr-deploy depends neither on modelopt nor on NNCF, and
their bounds keep them out of this environment; they work beside it, in a folder that PYTHONPATH names:

    pip install --target PEERS --no-deps nvidia-modelopt onnxconverter-common onnxslim onnx-graphsurgeon \
        ninja nvidia-ml-py tqdm omegaconf "pulp<4" regex cppimport lief colored \
        nncf jstyleson natsort pymoo networkx pydot tabulate scikit-learn scipy psutil
"""

from __future__ import annotations

import argparse
import logging
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from int8_pages import RESULTS, Fidelity, Measured, Speed, read_measured, select_timed, update_docs, write_measured
from int8_quantizers import quantize_with_others
from numpy.typing import NDArray

from sr_deploy.backends.openvino.compiled import compile_graph
from sr_deploy.deps import is_installed
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images
from sr_deploy.export.int8.execute import Run, open_graph
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.quantization_loss import Judge
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.write import rewrite_graph_file
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.imaging.pairs import find_pairs, read_pair
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.measure.machine import describe_machine, has_multiplier, tool_versions
from sr_deploy.model import Model, open_model

TESTED_CROP = 96
"""Low-resolution side of the crops of bundled photographs that are tested on."""


def make_graphs(
    folder: Path,
    checkpoint: Path,
    calibration: Path | None,
    notes: list[str],
    *,
    variants: bool,
    quantizers: Collection[str] | None,
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
        ("INT8, channels as they are", options.model_copy(update={"equalize": False})),
        ("INT8, biases corrected", options.model_copy(update={"bias_correction": "on"})),
        ("INT8, biases as they are", options.model_copy(update={"bias_correction": "off"})),
    ):
        if name != "INT8" and not variants:
            continue
        target = folder / f"{name.replace(' ', '-')}.onnx"
        # Without a budget: all of the placement is INT8, so that the rows can be compared and no search is needed.
        free = {"max_drop_db": 99.0, "max_pixel_error": 1.0, "curve_points": 2, "search_crops": 4}
        lax = one if name == "INT8" else one.model_copy(update=free)
        started, worked = time.monotonic(), time.process_time()
        make_int8_graph(fp32, target, lax, calibration, force=True)
        if name == "INT8":
            notes.append(
                f"INT8 took {time.monotonic() - started:.0f} s, {time.process_time() - worked:.0f} s of processor "
                f"time; the process held {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most"
            )
        yield name, target
    shape = CropShape(options.crop_size, model.scale, model.channels, options.seed)
    yield from quantize_with_others(
        plain, fp32, calibration, options=options, shape=shape, notes=notes, only=quantizers
    )


def read_test_sets(
    set14: Path | None, calibration: Path | None, scale: int, channels: int
) -> Iterator[tuple[str, list[ImagePair]]]:
    """Pictures to test on, with their names."""
    if set14 is not None:
        yield "Set14", [read_pair(paths, scale, channels) for paths in find_pairs(set14, set14, scale)]
    bundled = find_calibration_images(None)
    paths = bundled.held_out if calibration is None else (*bundled.calibration, *bundled.held_out)
    shape = CropShape(TESTED_CROP, scale, channels, 1)
    yield "bundled photographs", list(cut_crops(paths, 3 * len(paths), shape, 7))


def measure_fidelity(
    graphs: dict[str, Path], test_sets: Iterable[tuple[str, list[ImagePair]]], scale: int
) -> Iterator[Fidelity]:
    """Every graph on every test set."""
    runs = {name: open_graph(onnx.load(path), "onnxruntime") for name, path in graphs.items()}
    shares = {name: describe_graph_cost(path).precision_share.get("int8", 0.0) for name, path in graphs.items()}
    for test_set, crops in test_sets:
        judge = Judge(crops, runs["FP32"], "sr", scale)
        for name, run in runs.items():
            if name != "FP32":
                loss = judge.judge(run)
                yield Fidelity(
                    name,
                    test_set,
                    shares[name],
                    loss.psnr_fp32_db,
                    loss.drop_db,
                    loss.max_abs,
                    loss.upper_db,
                    loss.visible,
                )


def open_in_bf16(path: Path) -> Run:
    """OpenVINO with what is float computed in BF16."""
    compiled = compile_graph(path, "bf16", None)
    return lambda lr: {"sr": compiled([lr])[0]}


def open_eager(model: Model) -> Run:
    """PyTorch as it comes."""
    network = model.load_network()

    def run(lr: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {"sr": network(torch.from_numpy(lr)).numpy()}

    return run


def open_runs(graphs: dict[str, Path], model: Model) -> Iterator[tuple[tuple[str, str], Run]]:
    """What is timed, by graph and backend."""
    yield ("FP32", "torch"), open_eager(model)
    backends: list[str] = ["onnxruntime", "openvino"] if is_installed("openvino") else ["onnxruntime"]
    for name in select_timed(graphs):
        for backend in backends:
            yield (name, backend), open_graph(onnx.load(graphs[name]), backend)
        if "openvino" in backends and has_multiplier("bf16"):
            try:
                yield (name, "openvino bf16"), open_in_bf16(graphs[name])
            except RuntimeError as error:  # OpenVINO's own, which share no class
                tell(f"{name} does not run in OpenVINO with BF16: {' '.join(str(error).split())[:200]}")


def measure_speed(graphs: dict[str, Path], model: Model, side: int, rounds: int) -> Iterator[Speed]:
    """FP32 and INT8 in turns."""
    lr = np.random.default_rng(0).random((1, model.channels, side, side), dtype=np.float32)
    runs = dict(open_runs(graphs, model))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run(lr)
            if number:  # the first round warms up
                times[key].append(1000 * (time.perf_counter() - started))
    for (name, backend), seen in times.items():
        quarters = statistics.quantiles(seen, n=4)
        plain = times["FP32", backend.removesuffix(" bf16")]
        yield Speed(
            name,
            backend,
            f"1x{side}x{side}",
            statistics.median(seen),
            (quarters[2] - quarters[0]) / 2,
            statistics.median(before / one for before, one in zip(plain, seen, strict=True)),
        )


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", action="append", required=True, help="NAME=CHECKPOINT; may be repeated")
    parser.add_argument("--set14", type=Path, help="folder of pairs (Set14)")
    parser.add_argument("--calibration", type=Path, help="folder of photographs; left out: the bundled ones")
    parser.add_argument("--variants", action="store_true", help="INT8 with other settings, too")
    parser.add_argument("--quantizer", action="append", help="only this one of others', as in NNCF; may be repeated")
    parser.add_argument("--side", type=int, default=128, help="of the input that is timed")
    parser.add_argument("--rounds", type=int, default=15, help="of timing; 0: on a busy machine, none")
    parser.add_argument("--resume", action="store_true", help="keep the networks that this command has measured today")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results, without suffix")
    return parser.parse_args()


def describe_run() -> dict[str, str]:
    """Command, machine, versions and day. Folders are other people's machines: only their names are kept."""
    words = [word for word in sys.argv if word != "--resume"]
    for place, word in enumerate(words):
        name, equals, value = word.rpartition("=")
        words[place] = f"{name}{equals}{Path(value).name}" if "/" in value else word
    return {
        "command": shlex.join(["python", f"benchmarks/{words[0]}", *words[1:]]),
        "measured_at": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine().title(),
        "tools": ", ".join(f"{tool} {version}" for tool, version in tool_versions().items()),
    }


def measure_network(checkpoint: Path, arguments: argparse.Namespace, run: dict[str, str]) -> Measured:
    """All of one network."""
    model = open_model(checkpoint)
    measured = Measured(checkpoint.name, run)
    with tempfile.TemporaryDirectory() as name:
        made = make_graphs(
            Path(name),
            checkpoint,
            arguments.calibration,
            measured.notes,
            variants=arguments.variants,
            quantizers=arguments.quantizer,
        )
        graphs = {}
        for graph, path in made:
            tell(f"made: {graph}")
            graphs[graph] = path
        sets = read_test_sets(arguments.set14, arguments.calibration, model.scale, model.channels)
        for row in measure_fidelity(graphs, sets, model.scale):
            tell(f"{row.graph} on {row.test_set}: {row.drop_db:+.4f} dB lost, {row.psnr_fp32_db:.1f} dB to FP32")
            measured.fidelity.append(row)
        if arguments.rounds == 0:
            return measured
        tell(f"time in turns, {arguments.rounds} rounds")
        measured.speed += measure_speed(graphs, model, arguments.side, arguments.rounds)
    return measured


def tell(line: str) -> None:
    """One line of what is being done, with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("sr_deploy").setLevel(logging.INFO)
    arguments = read_arguments()
    run, networks = describe_run(), read_measured(arguments.out)
    for entry in arguments.network:
        name, _, checkpoint = entry.partition("=")
        if arguments.resume and name in networks and networks[name].run == run:
            tell(f"{name} was measured before")
            continue
        tell(f"{name}: {checkpoint}")
        networks[name] = measure_network(Path(checkpoint), arguments, run)
        write_measured(arguments.out, networks)
    print(write_measured(arguments.out, networks))
    if arguments.out == RESULTS:
        update_docs(networks)


if __name__ == "__main__":
    main()
