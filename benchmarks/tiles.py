"""What tiles cost and what seams look like: halos, blending and tile sizes on a trained network.

    python benchmarks/tiles.py MODEL            # a checkpoint or a bundle; about five minutes on two cores
    python benchmarks/tiles.py MODEL --backend openvino:fp32 --quick

A photograph of scikit-image goes through whole, and in tiles with narrower and narrower halos, once cut hard and once
blended. Along the seams the tiled result is compared with the whole one: that is the error that a halo leaves. Beside
it stands what the upscaler says without knowing the whole result: what its probe expects, and what it reports.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pages import describe_command, make_table, write_results

from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.imaging.photographs import crop_to_multiple
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.measure.quality import psnr
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.blend import Blender
from sr_deploy.upscale.pixels import to_window
from sr_deploy.upscale.plan import TilePlan
from sr_deploy.upscale.probe import blend_of, expect_seam_db, measure_edge_errors
from sr_deploy.upscale.tiles import cut_window, join_tiles, plan_tiles

RESULTS = Path(__file__).parent / "results"
HALOS = (0, 4, 8, 12, 16, 24, 32, 40)
TILES = (64, 128, 256, 384, 512)


def main() -> None:
    """Measure and write `results/tiles.json` and `results/tiles.md`."""
    arguments = read_arguments()
    model = open_model(arguments.model)
    cost = find_cost(model)
    radius = cost.receptive_radius if cost is not None else None
    with open_runner(model, arguments.backend, device="cpu") as runner:
        lr = read_lr(arguments.size)
        seams = measure_seams(runner, lr, radius, arguments.tile)
        costs = measure_costs(runner, min(radius or 40, 40), 1 if arguments.quick else arguments.rounds)
        title = f"{Path(arguments.model).name} on {runner.spec} {runner.spec.version}"
    record: dict[str, Any] = {
        "command": describe_command(),
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(),
        "versions": tool_versions(),
        "model": title,
        "receptive_radius": radius,
        "seams": seams,
        "costs": costs,
    }
    page = make_page(record)
    write_results(RESULTS / "tiles", record, page)
    print(page)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Seams and costs of tiles.")
    parser.add_argument("model", help="a checkpoint or a bundle with trained weights")
    parser.add_argument("--backend", default="torch:fp32")
    parser.add_argument("--size", type=int, default=256, help="side of the low-resolution photograph")
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="time each tile once")
    return parser.parse_args()


def read_lr(size: int) -> NDArray[np.uint8]:
    """The middle of a photograph, halved: it has edges and texture."""
    hr = read_training_image(bundled_photographs()["motorcycle_left"])
    lr = downscale_bicubic(crop_to_multiple(hr, 2), 2)
    top, left = max(lr.shape[0] - size, 0) // 2, max(lr.shape[1] - size, 0) // 2
    return np.ascontiguousarray(lr[top : top + size, left : left + size])


def measure_seams(runner: Runner, lr: NDArray[np.uint8], radius: int | None, tile: int) -> list[dict[str, object]]:
    """Errors along the seams for each halo, against the whole result."""
    spec = runner.spec
    lr_NCHW = to_window(lr, spec.channels)
    whole = np.clip(runner.infer(lr_NCHW), 0, 1)
    errors = measure_edge_errors(
        lambda samples: runner.infer(to_window(samples, spec.channels)),
        lr,
        scale=spec.scale,
        multiple=spec.input_multiple,
    )
    rows: list[dict[str, object]] = []
    for halo in sorted({*HALOS, radius or 0}):
        if halo > (radius or max(HALOS)):
            continue
        row: dict[str, object] = {"halo": halo}
        for name, blend in (("hard", 0), ("blended", blend_of(halo))):
            plan = plan_tiles(*lr.shape[:2], tile=tile, halo=halo, blend=blend, multiple=spec.input_multiple)
            tiled = np.clip(join_tiles(runner, lr_NCHW, plan), 0, 1)
            near = seam_mask(plan, spec.scale, max(blend_of(halo), 2))
            row[f"{name}_db"] = find_psnr(tiled, whole, near)
            if blend:
                row["reported_db"] = report_seams(runner, lr_NCHW, plan)
                known = halo + blend <= len(errors)
                row["expected_db"] = limit_db(expect_seam_db(errors, halo)) if known else None
        row["work"] = round(plan.count * plan.window_height * plan.window_width / (plan.height * plan.width), 3)
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def seam_mask(plan: TilePlan, scale: int, reach: int) -> NDArray[np.bool_]:
    """High-resolution pixels that lie within `reach` low-resolution ones of a seam."""
    axes = []
    for side, spans in ((plan.height, plan.rows), (plan.width, plan.columns)):
        near = np.zeros(side * scale, bool)
        for span in spans[:-1]:
            near[(span.keep_to - reach) * scale : (span.keep_to + reach) * scale] = True
        axes.append(near)
    return axes[0][:, None] | axes[1][None, :]


def find_psnr(tiled: NDArray[np.float32], whole: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Peak 1, over the masked pixels."""
    square = float(np.mean(np.square((tiled - whole)[0][:, mask], dtype=np.float64)))
    return limit_db(psnr(square))


def limit_db(value: float) -> float:
    """Rounded, and no more than rounding of FP32 means anything for."""
    return round(min(value, 160.0), 1)


def report_seams(runner: Runner, lr_NCHW: NDArray[np.float32], plan: TilePlan) -> float | None:
    """What the upscaler says of its own seams."""
    blender = Blender(plan, runner.spec.scale)
    for tile in plan.tiles():
        window = np.ascontiguousarray(cut_window(lr_NCHW, plan, tile, axis=2))
        blender.add(tile, runner.infer(window)[:, :, *tile.used(runner.spec.scale)])
    return None if blender.seam_db is None else limit_db(blender.seam_db)


def measure_costs(runner: Runner, halo: int, rounds: int) -> list[dict[str, object]]:
    """Time for each pixel that is kept, by tile size; sizes alternate."""
    windows = {
        tile: np.random.default_rng(0).random((1, runner.spec.channels, *(tile + 2 * halo,) * 2), np.float32)
        for tile in TILES
    }
    times: dict[int, list[float]] = {tile: [] for tile in TILES}
    for turn in range(rounds + 1):
        for tile in TILES if turn % 2 else reversed(TILES):
            started = time.perf_counter()
            runner.infer(windows[tile])
            if turn:  # the first one warms up
                times[tile].append(time.perf_counter() - started)
    return [
        {
            "tile": tile,
            "halo": halo,
            "work": round(((tile + 2 * halo) / tile) ** 2, 2),
            "ns_per_window_pixel": round(statistics.median(times[tile]) * 1e9 / (tile + 2 * halo) ** 2),
            "ns_per_kept_pixel": round(statistics.median(times[tile]) * 1e9 / tile**2),
        }
        for tile in TILES
    ]


def make_page(record: dict[str, Any]) -> str:
    """Two tables."""
    names = ("halo", "work", "hard_db", "blended_db", "reported_db", "expected_db")
    seams = [["" if row.get(name) is None else row[name] for name in names] for row in record["seams"]]
    header = "halo | work | cut hard, dB | blended, dB | reported, dB | expected by the probe, dB"
    lines = [
        f"Measured {record['measured_at']} with `{record['command']}`: {record['model']}, receptive radius "
        f"{record['receptive_radius']}.",
        "",
        *make_table(header, seams, text=range(6)),
        "",
    ]
    header = "tile | halo | work | ns for a pixel of the window | ns for a pixel kept"
    lines += make_table(header, (row.values() for row in record["costs"]), text=range(5))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
