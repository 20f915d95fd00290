r"""How many images a second a training makes, beside the loop of the published code, in turns on one machine.

    pip download --no-deps --no-binary :all: basicsr && tar xf basicsr-*.tar.gz
    pip install --target PEERS --no-deps opencv-python-headless tqdm yapf lmdb addict requests
    PYTHONPATH=basicsr-1.4.2:PEERS python benchmarks/published_loop.py

Both sides read the bundled photographs, degrade them by the same numbers and update the same networks by the same
losses, in batches of 2. The perceptual term is left out on both: the published code takes VGG19 from torchvision.
BasicSR 1.4.2 is told all that as in its option files. It asks for CUDA by name, which on a CPU is made to mean
nothing, as are the names that it imports from torchvision, and its blur gets pictures that are contiguous in memory,
which today's PyTorch asks for. There, one process loads the data ahead. Ours trains in FP32, and again in what it
measures as fastest here. Some steps of each follow one another, round by round; the ratio is the median over the
rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pages import describe_run, head_lines, make_table, replace_table, write_results
from training_step import make_step

from sr_deploy.train.paired import training_files
from sr_deploy.train.processes import SINGLE_PROCESS
from sr_deploy.train.recipe import Recipe, load_recipe
from sr_deploy.train.recipe.degradation import KernelRecipe
from sr_deploy.train.sampling import iterate_batches
from sr_deploy.train.session import open_session

ROOT = Path(__file__).parents[1]
_RECIPES = ("realesrnet", "realesrgan", "compact")
_BATCH, _STEPS, _ROUNDS = 2, 1, 5
_ARCHITECTURES = {"rrdbnet": "RRDBNet", "compact": "SRVGGNetCompact"}
_KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def stand_in_for_torchvision() -> None:
    """Give the published code the names that it imports; it computes nothing by them here but luma."""

    def make_module(name: str, **contents: object) -> None:
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module

    def to_gray(images: torch.Tensor, num_output_channels: int = 1) -> torch.Tensor:
        gray = (images * torch.tensor((0.2989, 0.587, 0.114)).view(3, 1, 1)).sum(-3, keepdim=True)
        return gray.expand_as(images) if num_output_channels == 3 else gray

    def nothing(*_: object, **__: object) -> None:
        raise AssertionError

    make_module("torchvision.transforms.functional_tensor", rgb_to_grayscale=to_gray)
    make_module("torchvision.transforms.functional", normalize=nothing)
    make_module("torchvision.transforms")
    make_module("torchvision.utils", make_grid=nothing)
    make_module("torchvision.models.vgg")
    make_module("torchvision.models", vgg=sys.modules["torchvision.models.vgg"])
    make_module("torchvision", __version__="0.0.0", models=sys.modules["torchvision.models"])


def describe_published(recipe: Recipe, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """The options of the published code that mean what the recipe does."""
    assert recipe.degradation is not None
    first, second, final = recipe.degradation.first, recipe.degradation.second, recipe.degradation.final
    network = {"type": _ARCHITECTURES[recipe.network.architecture], "num_in_ch": 3, "num_out_ch": 3}
    options = recipe.arch_spec().options
    if recipe.network.architecture == "rrdbnet":
        network |= {"num_feat": options["features"], "num_block": options["blocks"], "num_grow_ch": options["growth"]}
    else:
        network |= {"num_feat": options["features"], "num_conv": options["blocks"], "upscale": recipe.scale}
    meta = folder / "meta.txt"
    meta.write_text("".join(f"{path.resolve()}\n" for path in files))
    adam = {"type": "Adam", "lr": recipe.optimizer.learning_rate, "betas": list(recipe.optimizer.betas)}
    training: dict[str, Any] = {
        "ema_decay": recipe.ema.decay,
        "optim_g": dict(adam),
        "scheduler": {"type": "MultiStepLR", "milestones": [10**9], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    document = {
        "model_type": "RealESRNetModel", "num_gpu": 0, "dist": False, "is_train": True, "scale": recipe.scale,
        "network_g": network, "path": {}, "train": training, "queue_size": recipe.degradation.pool,
        "gt_size": recipe.data.patch_size, "gt_usm": False, "l1_gt_usm": False, "percep_gt_usm": False,
        "gan_gt_usm": False, "second_blur_prob": second.blur.probability, "high_order_degradation": True,
        "dataset": {
            "name": "photographs", "type": "RealESRGANDataset", "dataroot_gt": "/", "meta_info": str(meta),
            "io_backend": {"type": "disk"}, "use_hflip": recipe.data.flips, "use_rot": recipe.data.rotations,
            "final_sinc_prob": final.sinc, **_describe_kernels(first.blur, ""), **_describe_kernels(second.blur, "2"),
        },
    }  # fmt: skip
    for stage, number in ((first, ""), (second, "2")):
        document |= {
            f"resize_prob{number}": [stage.resize.up, stage.resize.down, 1 - stage.resize.up - stage.resize.down],
            f"resize_range{number}": list(stage.resize.factors),
            f"gaussian_noise_prob{number}": stage.noise.gaussian,
            f"noise_range{number}": list(stage.noise.sigma),
            f"poisson_scale_range{number}": list(stage.noise.poisson_scale),
            f"gray_noise_prob{number}": stage.noise.gray,
            f"jpeg_range{number}": list(stage.jpeg_quality),
        }
    if recipe.discriminator is not None:
        document["model_type"] = "RealESRGANModel"
        document["network_d"] = {
            "type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": recipe.discriminator.features,
        }  # fmt: skip
        training["optim_d"] = dict(adam)
        training["gan_opt"] = {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0,
                               "loss_weight": recipe.loss.adversarial.weight}  # type: ignore[attr-defined]  # fmt: skip
    return document


def _describe_kernels(blur: KernelRecipe, number: str) -> dict[str, object]:
    return {
        f"blur_kernel_size{number}": max(blur.sizes), f"kernel_list{number}": list(_KERNELS),
        f"kernel_prob{number}": list(blur.shares()), f"sinc_prob{number}": blur.sinc,
        f"blur_sigma{number}": list(blur.sigma), f"betag_range{number}": list(blur.generalized_beta),
        f"betap_range{number}": list(blur.plateau_beta),
    }  # fmt: skip


def open_published(document: dict[str, Any]) -> Callable[[], None]:
    """One iteration of its loop, as basicsr/train.py has it on a CPU."""
    from basicsr.data import build_dataset
    from basicsr.models import build_model, realesrgan_model, realesrnet_model
    from basicsr.utils.img_process_util import filter2D

    for module in (realesrgan_model, realesrnet_model):
        module.filter2D = lambda images, kernels: filter2D(images.contiguous(), kernels)
    dataset = build_dataset(document["dataset"])
    loader = torch.utils.data.DataLoader(
        dataset, _BATCH, shuffle=True, num_workers=1, drop_last=True, persistent_workers=True
    )
    model = build_model(document)

    def draw() -> Iterator[Any]:
        while True:
            yield from loader

    batches, done = draw(), [0]

    def step() -> None:
        done[0] += 1
        model.update_learning_rate(done[0], warmup_iter=-1)
        model.feed_data(next(batches))
        model.optimize_parameters(done[0])

    return step


@contextlib.contextmanager
def open_ours(name: str, settings: Sequence[str], folder: Path) -> Iterator[tuple[Callable[[], None], str]]:
    """One step of our loop, and how it computes."""
    recipe = load_recipe(name, settings).model_copy(update={"init_from": None})
    with open_session(recipe, folder, resume=False, device="cpu", start_from=None, processes=SINGLE_PROCESS) as session:
        batches = iterate_batches(session.sampler, 0, 1000, recipe.data.workers)
        yield lambda: make_step(session, batches), session.precision.title()


def time_steps(step: Callable[[], None]) -> float:
    """Seconds of one of some steps."""
    began = time.perf_counter()
    for _ in range(_STEPS):
        step()
    return (time.perf_counter() - began) / _STEPS


def compare(name: str, folder: Path) -> list[dict[str, object]]:
    """Rows of a recipe: published, ours in FP32, ours as it comes."""
    settings = [f"data.batch={_BATCH}", "data.workers=1", "data.scales=[1.0]", 'data.draw="picture"']
    recipe = load_recipe(name, settings)
    if recipe.loss.perceptual is not None:  # type: ignore[attr-defined]
        settings += ["loss.perceptual.weight=0", "loss.weight=1"]
    recipe = load_recipe(name, settings)
    plain = ["precision.autocast=off"]
    with contextlib.ExitStack() as held:
        sides = [("published", open_published(describe_published(recipe, training_files(recipe).originals, folder)))]
        for number, more in enumerate((plain, [])):
            step, title = held.enter_context(open_ours(name, [*settings, *more], folder / f"{name}-{number}"))
            sides.append((f"ours, {title}", step))
        for _, step in sides:
            step()  # pays for kernels and memory
        rounds = [[time_steps(step) for _, step in sides] for _ in range(_ROUNDS)]
    seconds = list(zip(*rounds, strict=True))
    return [
        {
            "recipe": name,
            "loop": side,
            "images_per_second": _BATCH / statistics.median(seconds[number]),
            "ratio": statistics.median(one[0] / one[number] for one in rounds),
            "least": min(one[0] / one[number] for one in rounds),
            "most": max(one[0] / one[number] for one in rounds),
        }
        for number, (side, _) in enumerate(sides)
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help=f"repeatable [{', '.join(_RECIPES)}]")
    options = parser.parse_args()
    stand_in_for_torchvision()
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    random.seed(0)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        rows = [row for recipe in options.recipe or _RECIPES for row in compare(recipe, Path(name))]
    facts = {**describe_run("torch", "numpy"), "published code": "BasicSR 1.4.2", "batch": _BATCH}
    table = make_table(
        "recipe | loop | images/s | times the published | least to most",
        [
            (f"`{row['recipe']}`", row["loop"], f"{row['images_per_second']:.2f}", f"{row['ratio']:.2f}",
             f"{row['least']:.2f} to {row['most']:.2f}")
            for row in rows
        ],
        text=(0, 1),
    )  # fmt: skip
    page = [*head_lines("Beside the published loop", "published_loop.py", facts), *table, ""]
    write_results(ROOT / "benchmarks/results/published_loop", {**facts, "rows": rows}, "\n".join(page))
    head = f"`{facts['command']}`, {facts['machine']}; {facts['versions']}; {facts['published code']}; {facts['date']}."
    replace_table("published loop", "\n".join(["", *table, "", head]), ROOT / "docs/training.md")


if __name__ == "__main__":
    main()
