"""Draw the places where INT8 differs most from FP32, for docs/int8.md.

    python benchmarks/int8_crops.py --network RealESRGAN_x4plus.pth --calibration BSDS500

The network is quantized with the default settings of the package, then both graphs enlarge the bundled photographs that
no recipe trains on, shrunk by the papers' bicubic. Of each photograph the square of 64 x 64 low-resolution pixels that
differs most is shown: its pixels, FP32, INT8.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.export.int8.calibration_images import find_calibration_images
from sr_deploy.export.int8.execute import Run, choose_engine, open_graph
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.write import rewrite_graph_file
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.imaging.sheet import compare_crops, compose_sheet, find_worst_window
from sr_deploy.measure.quality import psnr
from sr_deploy.model import open_model

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIDE = 64


def enlarge(run: Run, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An 8-bit picture as a file would have it."""
    picture: NDArray[np.uint8] = to_image(run(to_nchw(lr))["sr"])
    return picture


def main() -> None:
    """Quantize, enlarge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, help="folder of photographs; left out: the bundled ones")
    parser.add_argument("--out", type=Path, default=PICTURES / "int8-crops.png")
    options = parser.parse_args()
    model, rows = open_model(options.network), []
    assert model.arch is not None
    with tempfile.TemporaryDirectory() as name:
        fp32, int8 = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        export_network_to_onnx(model.load_network(), model.arch, fp32, "0" * 64)
        rewrite_graph_file(fp32)
        make_int8_graph(fp32, int8, Int8Options(), options.calibration)
        runs = [open_graph(onnx.load(path), choose_engine()) for path in (fp32, int8)]
        for path in find_calibration_images(None).held_out:
            hr = read_image(path)
            h, w = (side // model.scale * model.scale for side in hr.shape[:2])
            lr = downscale_bicubic(hr[:h, :w], model.scale)
            before, after = (enlarge(run, lr) for run in runs)
            window = find_worst_window(before, after, SIDE * model.scale)
            near = psnr(float(np.mean((before / 255 - after / 255) ** 2)))
            captions = (path.stem, "FP32", f"INT8, {near:.1f} dB to FP32")
            rows.append(compare_crops((lr, before, after), captions, model.scale, window))
    write_image(options.out, compose_sheet(rows))


if __name__ == "__main__":
    main()
