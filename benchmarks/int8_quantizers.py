"""The quantizers that benchmarks/int8_fidelity.py compares ours with, each as it comes."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.errors import one_line
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images
from sr_deploy.export.int8.execute import choose_engine, open_graph
from sr_deploy.export.int8.quantization_loss import Judge
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.imaging.photographs import ImagePair


def quantize_with_onnxruntime(source: Path, crops: Sequence[NDArray[np.float32]], ranges: str, target: Path) -> None:
    """ONNX Runtime's static quantizer as it comes, after the preparation that its documentation asks for."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    feeds = ({"lr": crop} for crop in crops)
    reader = SimpleNamespace(get_next=lambda: next(feeds, None))  # all that is asked of a CalibrationDataReader
    method = {"MinMax": CalibrationMethod.MinMax, "Entropy": CalibrationMethod.Entropy}[ranges]
    quantize_static(str(prepared), str(target), reader, quant_format=QuantFormat.QDQ, calibrate_method=method)


def quantize_with_modelopt(source: Path, crops: Sequence[NDArray[np.float32]], target: Path) -> None:
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


def quantize_with_nncf(source: Path, crops: Sequence[NDArray[np.float32]], target: Path) -> None:
    """OpenVINO's NNCF as it comes."""
    nncf = importlib.import_module("nncf")  # not a dependency of sr-deploy
    feeds = [{"lr": crop} for crop in crops]
    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(feeds), subset_size=len(feeds)), target)


def quantize_with_accuracy_control(
    source: Path,
    crops: Sequence[NDArray[np.float32]],
    held_out: Sequence[ImagePair],
    target: Path,
    *,
    max_drop_db: float,
    scale: int,
) -> None:
    """NNCF's search for what must stay float, within the budget of our search on the crops that it is held to."""
    nncf = importlib.import_module("nncf")  # not a dependency of sr-deploy
    engine = choose_engine()
    reference = open_graph(onnx.load(source), engine)
    judges = [Judge([crop], reference, "sr", scale) for crop in held_out]

    def score(candidate: onnx.ModelProto, numbers: Iterable[int]) -> tuple[float, list[float]]:
        run = open_graph(candidate, engine)
        values = [judges[number].psnr_db - judges[number].judge(run).drop_db for number in numbers]
        return float(np.mean(values)), values

    feeds = [{"lr": crop} for crop in crops]
    made = nncf.quantize_with_accuracy_control(
        onnx.load(source),
        nncf.Dataset(feeds),
        nncf.Dataset(range(len(held_out)), lambda number: {"lr": held_out[number].network_input}),
        score,
        max_drop=max_drop_db,
        subset_size=len(feeds),
    )
    onnx.save(made, target)


def quantize_with_others(
    plain: Path,
    rewritten: Path,
    calibration: Path | None,
    *,
    options: Int8Options,
    shape: CropShape,
    notes: list[str],
    only: Collection[str] | None,
) -> Iterator[tuple[str, Path]]:
    """Name and graph of each quantizer that is installed.

    Args:
        plain: the graph as PyTorch exports it.
        rewritten: the same as `sr-deploy export` writes it; graphs are written beside it.
        calibration: folder of photographs; None: the bundled ones.
        options: of our quantizer: crops and budget.
        shape: of the crops.
        notes: told how long each took, or why it failed.
        only: names of the quantizers to run; None or empty: all.
    """
    images = find_calibration_images(calibration)
    crops = [crop.network_input for crop in cut_crops(images.calibration, options.crops, shape, 0)]
    held_out = list(cut_crops(images.held_out, options.gate_crops, shape, 1))
    quantizers: dict[str, Callable[[Path], None]] = {
        "ONNX Runtime's quantizer, MinMax": functools.partial(quantize_with_onnxruntime, plain, crops, "MinMax"),
        "ONNX Runtime's quantizer, Entropy": functools.partial(quantize_with_onnxruntime, plain, crops, "Entropy"),
        "NNCF": functools.partial(quantize_with_nncf, rewritten, crops),
        "NNCF, accuracy-controlled": functools.partial(
            quantize_with_accuracy_control,
            rewritten,
            crops,
            held_out,
            max_drop_db=options.max_drop_db,
            scale=shape.scale,
        ),
        "NVIDIA modelopt": functools.partial(quantize_with_modelopt, plain, crops),
    }
    for name, quantize in quantizers.items():
        if only and name not in only:
            continue
        target = rewritten.with_name(f"{name.replace(' ', '-')}.onnx")
        started = time.monotonic()
        try:
            quantize(target)
        except Exception as error:  # noqa: BLE001 - another tool's: whatever it raises is the finding
            notes.append(f"{name}: {type(error).__name__}: {one_line(error)}")
            continue
        notes.append(f"{name} took {time.monotonic() - started:.0f} s")
        yield name, target
