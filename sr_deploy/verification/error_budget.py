"""Runs the chains of the error budget: graphs, engines, the tiles that `upscale` cuts, the file that it writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.registry import builder_names, get_backend, get_reference
from sr_deploy.bundle import ErrorBudget, utc_now
from sr_deploy.errors import BackendError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.convert import to_nchw
from sr_deploy.model import Model
from sr_deploy.runners import open_runner, why_not_runnable
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.io_conversion import snap_input
from sr_deploy.runners.parity import describe_reference, open_reference
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.tiles import MAX_HALO, plan_tiles, run_tiles
from sr_deploy.verification.budget_stages import (
    Stage,
    choose_images,
    describe_images,
    make_stages,
    tile_side,
    write_and_read,
)
from sr_deploy.verification.entry import name_machine

_LOG = logging.getLogger(__name__)


def measure_error_budgets(model: Model) -> list[ErrorBudget]:
    """The error budget by stage of each precision that has a graph and runs here.

    Args:
        model: a bundle or a graph.
    """
    cost = find_cost(model)
    halo = MAX_HALO if cost is None or cost.receptive_radius is None else min(cost.receptive_radius, MAX_HALO)
    chains = [chain for precision in model.precisions if (chain := _list_chain(model, precision))]
    if not chains:
        return []
    error_budgets = []
    with open_reference(model) as oracle:
        if any(one.min.n > 1 for one in oracle.spec.profiles):
            return []  # a graph that takes batches only makes no picture
        photographs = choose_images(
            model.channels,
            model.scale,
            model.input_multiple,
            halo=halo,
            multiply_adds=0.0 if cost is None else cost.multiply_adds,
            fixed=_find_fixed_sides(oracle),
            least=next(((one.min.h, one.min.w) for one in oracle.spec.profiles), (1, 1)),
        )
        inputs = [snap_input(one.network_input, model.input_dtype) for one in photographs]
        first = Stage(describe_reference(model).title, str(oracle.spec), [oracle.infer(lr) for lr in inputs])
    known: dict[BackendChoice, Stage] = {}
    for chain in chains:
        try:
            stages, machine = _run_chain(model, chain, inputs, known, halo)
        except BackendError as error:  # its entry in the certificate says so too
            _LOG.warning("no error budget by stage for %s: %s", chain[-1], error)
            continue
        graph = model.graph_path(chain[-1].precision)
        error_budgets.append(
            ErrorBudget(
                precision=chain[-1].precision,
                file=graph.name,
                sha256=_hash_of(model, chain[-1].precision, graph),
                machine=machine,
                inputs=describe_images(photographs),
                measured_at=utc_now(),
                stages=make_stages([first, *stages], [to_nchw(one.hr) for one in photographs]),
            )
        )
    return error_budgets


def _find_fixed_sides(runner: Runner) -> tuple[int | None, int | None]:
    """Height and width that a runner's graph has; None where it takes any."""
    taken = next(iter(runner.spec.profiles), None)
    if taken is None:
        return None, None
    height, width = (low if low == high else None for low, high in zip(taken.min[1:], taken.max[1:], strict=True))
    return height, width


def _list_chain(model: Model, precision: Precision) -> list[BackendChoice]:
    """The graphs and engines from FP32 to a precision, those that run here."""
    wanted = [
        BackendChoice(get_reference("graph").name, one)
        for one in dict.fromkeys(("fp32", precision))
        if one in model.precisions
    ]
    wanted += [BackendChoice(backend, precision) for backend in builder_names()]
    chain = [choice for choice in wanted if why_not_runnable(model, choice) is None]
    return chain if any(choice.precision == precision for choice in chain) else []


def _run_chain(
    model: Model,
    chain: Sequence[BackendChoice],
    inputs: Sequence[NDArray[np.float32]],
    known: dict[BackendChoice, Stage],
    halo: int,
) -> tuple[list[Stage], str]:
    """The stages after the oracle, and the machine of the last runner."""
    for choice in chain[:-1]:
        if choice not in known:
            with open_runner(model, choice) as runner:
                known[choice] = _run_stage(model, runner, inputs)
    with open_runner(model, chain[-1]) as runner:
        known.setdefault(chain[-1], _run_stage(model, runner, inputs))
        side = tile_side(runner.spec.input_multiple)
        tiled = [_upscale_tiled(runner, lr, side, halo) for lr in inputs]
        machine = name_machine(runner.spec)
    stages = [known[choice] for choice in chain]
    stages.append(Stage("tiled", f"tiles of {side} pixels and {halo} around them", tiled))
    stages.append(Stage("8-bit file", "written as PNG and read back", write_and_read(tiled)))
    return stages, machine


def _run_stage(model: Model, runner: Runner, inputs: Sequence[NDArray[np.float32]]) -> Stage:
    spec = runner.spec
    kind = "ONNX" if get_backend(spec.backend).artifact == "graph" else "engine"
    path = spec.artifact
    name = None if path is None else _relative(model, path)
    return Stage(f"{kind} {spec.precision.upper()}", str(spec), [runner.infer(lr) for lr in inputs], name)


def _upscale_tiled(runner: Runner, lr_NCHW: NDArray[np.float32], side: int, halo: int) -> NDArray[np.float32]:
    """As `upscale` does it, without rounding to 8 bit."""
    spec = runner.spec
    height, width = lr_NCHW.shape[2:]
    plan = plan_tiles(height, width, tile=side, halo=halo, multiple=spec.input_multiple, profiles=spec.profiles)
    sr_NCHW = np.empty((1, spec.channels, height * spec.scale, width * spec.scale), np.float32)
    for piece in run_tiles(runner, lr_NCHW, plan):
        h, w = piece.sr.shape[2:]
        sr_NCHW[:, :, piece.top : piece.top + h, piece.left : piece.left + w] = piece.sr
    return sr_NCHW


def _hash_of(model: Model, precision: Precision, path: Path) -> str:
    record = model.bundle.manifest.graph(precision) if model.bundle is not None else None
    return sha256_of(path) if record is None else record.sha256


def _relative(model: Model, path: Path) -> str:
    return path.relative_to(model.bundle.path).as_posix() if model.bundle is not None else path.name
