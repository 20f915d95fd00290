"""Train a small network three ways, as long each, and say how close each comes to the large one.

    python benchmarks/distillation.py --teacher RealESRGAN_x4plus.pth --data BSDS500 --lr SET14_LR

The recipe is `compact-from-x4plus`, with 8 convolutions of 48 features, small patches and batches, for two cores. One
run learns from originals (L1), one from the teacher's pictures, and one from its features too; data, degradation and
first weights are the same. Each checkpoint enlarges the low-resolution pictures of --lr, and is compared with what the
teacher makes of them. The figures go to benchmarks/results/distillation.md and docs/training.md, the curves to
docs/pictures/distillation.svg.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pages import describe_run, head_lines, make_table, replace_table, write_results
from srgan_stages import run

from sr_deploy.page.plots import Point, Series, draw_lines, write_svg
from sr_deploy.run_folder import list_checkpoints

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "network.features=48", "network.blocks=8", "data.patch_size=96", "data.batch=8", "data.workers=1",
    "degradation.canvas=192", "degradation.pool=16", "optimizer.learning_rate=1e-3", "optimizer.schedule.kind=cosine",
    "optimizer.clip_norm=1", "run.log_every=25", "run.keep_checkpoints=100",
]  # fmt: skip
WAYS = {
    "originals": ["loss.weight=1", "loss.distill.weight=0"],
    "the teacher's pictures": ["loss.distill.features=0"],
    "the teacher's pictures and features": [],
}
"""What is learned from, and the settings for it."""


def train(way: str, number: int, options: argparse.Namespace, runs: Path) -> list[dict[str, float]]:
    """Train one way; how close each checkpoint comes to the teacher."""
    every = max(options.steps // 5, 1)
    schedule = [f"run.steps={options.steps}", f"run.checkpoint_every={every}", f"run.validate_every={options.steps}"]
    teacher = [f"loss.distill.teacher={json.dumps(str(options.teacher.resolve()))}"]
    words = [word for setting in [*SETTINGS, *schedule, *teacher, *WAYS[way]] for word in ("--set", setting)]
    folder = runs / str(number)
    run("train", "compact-from-x4plus", "--data", options.data, "--out", folder, *words)
    found = []
    for step, _ in list_checkpoints(folder):
        compared = run("evaluate", f"{folder}@{step}", "--hr", runs / "teacher", "--lr", runs / "lr", "--no-niqe")
        found.append(
            {
                "step": step,
                "psnr_y": compared["mean_model"]["psnr_y"],
                "ssim_y": compared["mean_model"]["ssim_y"],
                "bicubic": compared["mean_bicubic"]["psnr_y"],
            }
        )
    return found


def show(curves: dict[str, list[dict[str, float]]]) -> list[str]:
    """The table."""
    steps = [f"{one['step']:.0f}" for one in next(iter(curves.values()))]
    rows = [(way, *(f"{point['psnr_y']:.2f}" for point in one)) for way, one in curves.items()]
    return make_table(" | ".join(("learned from", *(f"{step} steps" for step in steps))), rows)


def write_pages(run_facts: dict[str, Any], curves: dict[str, list[dict[str, float]]]) -> None:
    """Results, the plot, and the part of docs/training.md."""
    series = [Series(way, [Point(point["step"], point["psnr_y"]) for point in one]) for way, one in curves.items()]
    plot = draw_lines("PSNR to the teacher", series, "step", "Y-PSNR to the teacher, dB", log_x=False, log_y=False)
    write_svg(ROOT / "docs/pictures/distillation.svg", "What a small network learns from", [plot])
    bicubic = next(iter(curves.values()))[0]["bicubic"]
    text = [
        *show(curves), "",
        f"Mean Y-PSNR to the teacher's pictures in dB, on {run_facts['pictures']} pictures; bicubic: {bicubic:.2f}.",
    ]  # fmt: skip
    page = [*head_lines("What a small network learns from", "distillation.py", run_facts), *text, ""]
    write_results(ROOT / "benchmarks/results/distillation", {**run_facts, "curves": curves}, "\n".join(page))
    head = (
        f"`{run_facts['command']}`, {run_facts['machine']}; {run_facts['versions']}; {run_facts['date']}. "
        f"Settings: `{run_facts['settings']}`."
    )
    picture = "![PSNR to the teacher by step](pictures/distillation.svg)"
    replace_table("distillation", "\n".join(["", *text, "", picture, "", head]), ROOT / "docs/training.md")


def main() -> None:
    """Train each way, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="RealESRGAN_x4plus.pth")
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--lr", type=Path, required=True, help="folder of low-resolution pictures to compare on")
    parser.add_argument("--steps", type=int, default=1000, help="of each run [1000]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        (runs / "lr").mkdir()
        pictures = sorted(options.lr.glob("*.png"))
        for number, path in enumerate(pictures):  # under names that say nothing of resolution
            shutil.copy(path, runs / "lr" / f"{number:03}.png")
        run("upscale", runs / "lr", runs / "teacher", "--model", options.teacher)
        facts = {
            **describe_run("torch", "numpy"), "pictures": len(pictures),
            "settings": shlex.join([f"run.steps={options.steps}", *SETTINGS]),
        }  # fmt: skip
        curves = {way: train(way, number, options, runs) for number, way in enumerate(WAYS)}
    write_pages(facts, curves)


if __name__ == "__main__":
    main()
