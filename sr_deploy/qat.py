"""What quantization-aware training begins with: a network whose channels are evened out, and steps for convolutions.

Both are measured as INT8 of `export` measures them. What is trained is the very placement, arithmetic and steps of the
graph that is exported afterwards.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.arch.fold import merge_branches
from sr_deploy.arch.registry import build_network, merged_spec
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.config import format_toml_value, named_files
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.export.int8.equalize import apply_factors
from sr_deploy.export.int8.insert import choose_scale
from sr_deploy.export.int8.make import calibrate_ranges
from sr_deploy.export.int8.placement import find_modules, place_quantization
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.task import QuantizationTask, make_task
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.train.chain import Stage, plan_stages
from sr_deploy.train.losses.registry import find_terms, list_losses
from sr_deploy.train.recipe import QuantizationRecipe, Recipe, load_recipe

_LOG = logging.getLogger(__name__)
_MIN_SIDE = 16
_ALIKE = 1e-3
"""Evening channels out changes no output by more, beyond its rounding."""


@dataclass(frozen=True)
class Start:
    """Where training begins."""

    input_steps: dict[str, float]
    """Step of the data input of each convolution that INT8 may have, by name of its module."""
    checkpoint_sha256: str
    """Hash of the file that the weights came from."""


def plan_qat(
    checkpoint: Path,
    weights: Path,
    recipe: str | None,
    overrides: Sequence[str],
    runs: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
) -> Stage:
    """Calibrate a network for INT8, and plan its training.

    Args:
        checkpoint: anything with weights.
        weights: the file to write the weights to that training begins with.
        recipe: name or TOML file; its network is that of the checkpoint. None: the shipped one for such networks.
        overrides: `section.key=value`.
        runs: where runs lie side by side.
        data: folder of photographs to calibrate on; None: the bundled ones.
        out: the run's folder; None: a free one in `runs`.

    Raises:
        InputError: as `prepare_training`; or no recipe is shipped for such networks.
        RecipeError: the recipe does not validate.
        CheckpointError, GraphError: as `prepare_training`.
    """
    given = open_model(checkpoint).arch
    arch = None if given is None else merged_spec(given)
    name = recipe or (None if arch is None else _find_recipe(arch.architecture))
    if arch is None or name is None:
        raise InputError(
            f"no recipe for INT8 is shipped for {'a graph' if arch is None else arch.title()}; give one: "
            f"sr-deploy train RECIPE --qat {checkpoint}"
        )
    network = {"architecture": arch.architecture, **arch.options}
    fixed = [f"network.{key}={format_toml_value(value)}" for key, value in network.items()]
    fixed += [f"scale={arch.scale}", f"channels={arch.channels}"]
    (stage,) = plan_stages(name, [*overrides, *fixed], runs, alone=True, out=out)
    side = max(stage.recipe.data.patch_size // arch.scale, _MIN_SIDE)
    start = prepare_training(checkpoint, weights, data, side=side)
    return replace(stage, recipe=_quantize_recipe(stage.recipe, checkpoint, start))


def _quantize_recipe(recipe: Recipe, checkpoint: Path, start: Start) -> Recipe:
    """The recipe with what was measured, and a teacher where it has none."""
    steps = {
        "input_steps": start.input_steps,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": start.checkpoint_sha256,
    }
    changed: dict[str, object] = {
        "quantization": (recipe.quantization or QuantizationRecipe()).model_copy(update=steps)
    }
    if recipe.quantization is None and not any("teacher" in one.loss.needs for one in find_terms(recipe)):
        # A recipe that was not made for this: it learns to repeat the network as it was, beside what it learns.
        name, loss = next(one for one in list_losses() if "teacher" in one[1].needs)
        changed["loss"] = recipe.loss.model_copy(update={name: loss.options(weight=1.0)})
    return recipe.model_copy(update=changed)


def _find_recipe(architecture: str) -> str | None:
    """A shipped recipe that trains networks of this architecture for INT8."""
    recipes = ((name, load_recipe(name)) for name in named_files("train"))
    return next(
        (name for name, one in recipes if one.quantization is not None and one.network.architecture == architecture),
        None,
    )


def prepare_training(
    checkpoint: Path,
    weights: Path,
    photographs: Path | None,
    *,
    side: int = 64,
) -> Start:
    """Calibrate a network for INT8 and write the weights that training begins with.

    Args:
        checkpoint: anything with weights: a published file, a run, a bundle.
        weights: the file to write, safetensors.
        photographs: folder of photographs in high resolution to calibrate on; None: the bundled ones.
        side: of the crops that are calibrated on, in low-resolution pixels.

    Raises:
        InputError: no such file or folder, or a network that exporting folds together (batch normalization).
        CheckpointError: no weights in it.
        GraphError: nothing of it may be INT8.
    """
    model = open_model(checkpoint)
    if model.arch is None or model.weights_path is None:
        raise CheckpointError(f"{checkpoint} holds no weights (it is a {model.kind}); give a checkpoint or a run")
    network, arch, sha256 = merge_branches(model.load_network()), merged_spec(model.arch), sha256_of(model.weights_path)
    options = Int8Options(learn_steps=0, bias_correction="off", crop_size=side)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "fp32.onnx"
        export_network_to_onnx(network, arch, graph, sha256)
        task = make_task(graph, graph, options, calibration=photographs, keep_fp32=())
    placement = place_quantization(task.model)
    count = len(placement.candidates)
    _LOG.info("calibrate %d convolutions on %d crops in %s", count, options.crops, task.engine_name)
    factors, limits = calibrate_ranges(task, placement)
    state = _read_evened(task, factors, network)
    modules = find_modules(task.model, placement)
    steps = {name: float(choose_scale(limits[data])) for data, name in modules.items() if f"{name}.weight" in state}
    _require_alike(checkpoint, task, network, arch, state)
    save_generator(weights, state, arch)
    return Start(steps, sha256)


def _read_evened(
    task: QuantizationTask, factors: dict[str, tuple[float, ...]], network: nn.Module
) -> dict[str, Tensor]:
    """The network's state with the weights of the graph whose channels are evened out."""
    import onnx

    even = {tensor.name: tensor for tensor in apply_factors(task.model, factors).graph.initializer}
    state = dict(network.state_dict())
    for key, old in state.items():
        if key in even and tuple(even[key].dims) == tuple(old.shape):
            state[key] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(even[key])))
    return state


def _require_alike(
    checkpoint: Path, task: QuantizationTask, network: nn.Module, arch: ArchSpec, state: dict[str, Tensor]
) -> None:
    evened = build_network(arch).eval()
    evened.load_state_dict(state)
    lr_NCHW = torch.from_numpy(next(task.stream_inputs()))
    with torch.inference_mode():
        off = float((evened(lr_NCHW) - network(lr_NCHW)).abs().max())
    if not off <= _ALIKE:
        raise InputError(
            f"{checkpoint} cannot be trained for INT8: the weights of its graph are not those of its convolutions "
            f"(outputs differ by {off:.2g}), as where batch normalization is folded into them; take a network without"
        )
