"""Train SRGAN's two stages on two cores, without the perceptual term, and say what the second one changes.

    python benchmarks/srgan_stages.py --data PHOTOGRAPHS --hr ORIGINALS

The network has fewer blocks and features than the recipe's: the point is the course of a training, not its quality. It
is MSRResNet, SRResNet without batch normalization, which needs fewer steps. The discriminator is SRGAN's, narrower:
the U-Net still guessed after as many steps. VGG19's weights are not needed: L1 stands in for the perceptual term. NIQE
should be lower after the second stage: pictures look more natural. A control goes on from the first stage for as many
steps by L1 alone: what it gains too is not the game's. The curves of the second stage go to docs/pictures/srgan.png,
the figures to benchmarks/results/srgan_stages.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyvips
from pages import make_table
from pages import write_results as write_files

from sr_deploy.measure.machine import describe_machine, tool_versions

ROOT = Path(__file__).parents[1]
NETWORK = [
    "network.architecture=msrresnet", "network.features=32", "network.blocks=4", "data.batch=8", "data.workers=1",
    "precision.autocast=off", "precision.channels_last=true",
]  # fmt: skip
SETTINGS = [
    *NETWORK, "srresnet:optimizer.learning_rate=1e-3", "srresnet:optimizer.schedule.kind=cosine",
    "srresnet:optimizer.clip_norm=1", "srresnet:run.steps=1500", "loss.perceptual.weight=0", "srgan:loss.weight=1",
    "srgan:loss.pixel=l1", "loss.adversarial.weight=1e-2", "discriminator.features=16",
    "discriminator.learning_rate=3e-4", "srgan:optimizer.learning_rate=2e-4",
    "srgan:optimizer.schedule.milestones=[450]", "srgan:run.steps=600", "run.log_every=25",
    "srresnet:run.validate_every=300", "srgan:run.validate_every=100", "run.preview_every=200",
    "run.checkpoint_every=200",
]  # fmt: skip
CONTROL = [
    *NETWORK, "loss.pixel=l1", "optimizer.learning_rate=2e-4", "optimizer.schedule.kind=multistep",
    "optimizer.schedule.milestones=[450]", "optimizer.schedule.gamma=0.1", "run.steps=600",
]  # fmt: skip
STAGES = {
    "srresnet": "after `srresnet`",
    "control": "the control, by L1 alone",
    "srgan/checkpoints/step-000200": "after 200 steps of `srgan`",
    "srgan/checkpoints/step-000400": "after 400 steps of `srgan`",
    "srgan": "after `srgan`",
}
"""What is evaluated, in the folder of runs, and what it is."""


def run(*words: str | Path) -> dict[str, Any]:
    """One `sr-deploy` command, its JSON document."""
    command = [sys.executable, "-m", "sr_deploy", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def read_validations(folder: Path) -> list[tuple[int, float]]:
    """(step, mean Y-PSNR of the held-out photographs) of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["model"]["psnr_y"]) for line in lines if line["kind"] == "validation"]


def describe(mean: dict[str, float]) -> tuple[str, str]:
    """The figures of a row."""
    return f"{mean['psnr_y']:.2f} / {mean['ssim_y']:.4f}", f"{mean['niqe']:.2f}"


def main() -> None:
    """Train both stages, evaluate both on the same pictures, write the figures and the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--hr", type=Path, required=True, help="folder of originals to evaluate on")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = arguments.runs or Path(name)
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        trained = run("train", "srgan", "--data", arguments.data, "--out", runs / "srgan", *settings)
        control = [word for setting in CONTROL for word in ("--set", setting)]
        start = ("--from", runs / "srresnet", "--out", runs / "control")
        run("train", "srresnet", "--data", arguments.data, *start, *control)
        evaluated = {stage: run("evaluate", runs / stage, "--hr", arguments.hr) for stage in STAGES}
        (ROOT / "docs" / "pictures").mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "sr_deploy", "info", runs / "srgan", "--curves", runs / "srgan.svg"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        pyvips.Image.svgload(str(runs / "srgan.svg")).pngsave(str(ROOT / "docs/pictures/srgan.png"))
        validations = {stage: read_validations(runs / stage) for stage in ("srresnet", "srgan")}
    write_results(arguments, trained, evaluated, validations)


def write_results(
    arguments: argparse.Namespace,
    trained: dict[str, Any],
    evaluated: dict[str, dict[str, Any]],
    validations: dict[str, list[tuple[int, float]]],
) -> None:
    """The table and the JSON document beside it."""
    machine, versions = describe_machine(), tool_versions()
    command = f"python benchmarks/srgan_stages.py --data {arguments.data.name} --hr {arguments.hr.name}"
    document = {
        "machine": machine.model_dump(mode="json"), "versions": versions, "command": command,
        "date": datetime.date.today().isoformat(), "settings": SETTINGS, "control": CONTROL,
        "seconds_srgan": trained["seconds"],
        "validations": validations, "bicubic": evaluated["srgan"]["mean_bicubic"],
        "mean": {stage: one["mean_model"] for stage, one in evaluated.items()},
    }  # fmt: skip
    first = evaluated["srresnet"]
    rows = [
        ("bicubic", *describe(first["mean_bicubic"])),
        *((title, *describe(evaluated[stage]["mean_model"])) for stage, title in STAGES.items()),
        ("the originals", "-", f"{first['mean_original_niqe']:.2f}"),
    ]
    course = {stage: ", ".join(f"{step}: {value:.2f}" for step, value in one) for stage, one in validations.items()}
    text = [
        "# SRGAN's two stages, small", "",
        f"{machine.title()}; torch {versions['torch']}; {document['date']}; `{command}`.", "",
        f"Settings: `{shlex.join(SETTINGS)}`. Of the control: `{shlex.join(CONTROL)}`.", "",
        "Without the perceptual term, as VGG19's weights were not at hand: L1 stands in for it.", "",
        "The network is MSRResNet, SRResNet without batch normalization; the discriminator SRGAN's.", "",
        *make_table("picture | Y-PSNR / SSIM | NIQE", rows), "",
        f"Y-PSNR of the held-out photographs by step, `srresnet`: {course['srresnet']}.", "",
        f"The same, `srgan`: {course['srgan']}.", "",
    ]  # fmt: skip
    write_files(ROOT / "benchmarks" / "results" / "srgan_stages", document, "\n".join(text))


if __name__ == "__main__":
    main()
