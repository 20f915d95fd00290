"""Tiles with a halo as wide as the network sees give what the whole picture gives: without any difference.

Weights and inputs are integers, slopes and scales are halves, and torch computes in float64: every sum is exact in
any order, so the results are equal or the tiles are wrong. The last property is the same on the real backends, where
the order of sums depends on the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.arch.networks import msrresnet, rrdbnet
from sr_deploy.arch.registry import build_network, describe_cost, input_multiple
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.runners import open_runner
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.plan import TilePlan
from sr_deploy.upscale.tiles import join_tiles, plan_tiles, run_tiles

SPECS = {
    "compact-x4": ArchSpec(architecture="compact", scale=4, features=5, blocks=3),
    "compact-x2-gray": ArchSpec(architecture="compact", scale=2, channels=1, features=4, blocks=5),
    "compact-x1": ArchSpec(architecture="compact", scale=1, features=4, blocks=2),
    "rrdbnet-x4": ArchSpec(architecture="rrdbnet", scale=4, channels=1, features=4, blocks=1, growth=2),
    "rrdbnet-x2": ArchSpec(architecture="rrdbnet", scale=2, channels=1, features=4, blocks=1, growth=2),
    "rrdbnet-x1": ArchSpec(architecture="rrdbnet", scale=1, channels=1, features=4, blocks=1, growth=2),
    "srresnet-x4": ArchSpec(architecture="srresnet", scale=4, features=4, blocks=1),
    "msrresnet-x4": ArchSpec(architecture="msrresnet", scale=4, features=4, blocks=2),
}


class ExactRunner:
    """A network of integers in float64."""

    def __init__(self, spec: ArchSpec) -> None:
        torch.manual_seed(3)
        network = build_network(spec).eval().requires_grad_(False).double()
        for name, tensor in network.state_dict().items():
            if tensor.dim() == 4:  # two taps in each row of weights: sums stay far below 2 to the 53
                tensor.zero_()
                flat = tensor.view(tensor.shape[0], -1)
                for row in flat:
                    row[torch.randperm(len(row))[:2]] = torch.tensor([1.0, -1.0], dtype=torch.float64)
            elif tensor.dtype.is_floating_point and not name.endswith(("running_var", "running_mean")):
                tensor.fill_(0.5 if tensor.dim() == 1 and "act" in name else 1.0)
        for module in network.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight.fill_(0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
                module.running_var.fill_(1.0)
                module.running_mean.fill_(0.0)
        self.network = network
        self.shapes: set[tuple[int, ...]] = set()
        self.spec: Any = SimpleNamespace(scale=spec.scale, channels=spec.channels, input_multiple=input_multiple(spec))

    def infer(self, lr: Any) -> Any:
        self.shapes.add(lr.shape)
        with pytest.MonkeyPatch.context() as patch:  # only here: others export networks with the slopes that they have
            for module, name in ((rrdbnet, "_SLOPE"), (rrdbnet, "_RESIDUAL_SCALE"), (msrresnet, "_SLOPE")):
                patch.setattr(module, name, 0.5)
            return self.network(torch.from_numpy(lr).double()).numpy()


def join_exactly(runner: ExactRunner, lr: Any, plan: TilePlan) -> Any:
    scale = runner.spec.scale
    sr = np.full((1, lr.shape[1], plan.height * scale, plan.width * scale), np.nan)
    for piece in run_tiles(runner, lr, plan):  # type: ignore[arg-type]
        assert piece.sr.dtype == np.float64
        sr[:, :, piece.top : piece.top + piece.sr.shape[2], piece.left : piece.left + piece.sr.shape[3]] = piece.sr
    return sr


@pytest.fixture(scope="module", params=list(SPECS))
def exact(request: pytest.FixtureRequest) -> tuple[ExactRunner, int]:
    spec = SPECS[request.param]
    return ExactRunner(spec), describe_cost(spec).receptive_radius


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), tile=st.integers(1, 40), extra=st.integers(0, 3))
def test_tiles_are_the_whole_without_any_difference(
    exact: tuple[ExactRunner, int], height: int, width: int, tile: int, extra: int
) -> None:
    runner, radius = exact
    multiple = runner.spec.input_multiple
    height, width = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    lr = np.random.default_rng(height * 100 + width).integers(0, 8, (1, runner.spec.channels, height, width))
    lr = lr.astype(np.float32)
    whole = runner.infer(lr)
    runner.shapes.clear()
    plan = plan_tiles(height, width, tile=tile, halo=radius + extra, multiple=multiple)
    assert np.array_equal(join_exactly(runner, lr, plan), whole)
    assert len(runner.shapes) == 1


def test_the_radius_is_not_wider_than_needed(exact: tuple[ExactRunner, int]) -> None:
    """Else the property above would say nothing about the radius. Deep networks of integers forget the rim."""
    runner, radius = exact
    multiple = runner.spec.input_multiple
    side = (2 * radius + 24) // multiple * multiple
    lr = np.random.default_rng(1).integers(0, 8, (1, runner.spec.channels, side, side)).astype(np.float32)
    plan = plan_tiles(side, side, tile=8, halo=min(radius // 4, 2) // multiple * multiple, multiple=multiple)
    assert not np.array_equal(join_exactly(runner, lr, plan), runner.infer(lr))


@pytest.fixture(scope="module")
def real_runners(make_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Runner, int]]]:
    folder: Path = tmp_path_factory.mktemp("real")
    opened = []
    for name in ("compact-x4", "rrdbnet-x2"):
        bundle = make_bundle(name, folder)
        for backend in ("torch", "onnxruntime", "openvino"):
            pytest.importorskip(backend)
            opened.append(
                (open_runner(bundle.path, f"{backend}:fp32"), describe_cost(bundle.manifest.arch).receptive_radius)
            )
    yield opened
    for runner, _ in opened:
        runner.close()


@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(4, 40))
def test_backends_agree_with_themselves(
    real_runners: list[tuple[Runner, int]], height: int, width: int, tile: int
) -> None:
    for runner, radius in real_runners:
        multiple = runner.spec.input_multiple
        size = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        lr = np.random.default_rng(height).random((1, 3, *size), np.float32)
        plan = plan_tiles(*size, tile=tile, halo=radius, multiple=multiple)
        assert np.abs(join_tiles(runner, lr, plan) - runner.infer(lr)).max() <= 1e-5
