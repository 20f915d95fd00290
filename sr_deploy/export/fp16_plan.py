"""Which layers of a network stay in FP32 when the rest becomes FP16, found on pictures before anything is converted.

Four reasons keep a layer in FP32:

- **range**: a feature map comes near FP16's greatest number (65504) on any picture, or is so small throughout that FP16
  has no digits for it. What makes it and what reads it stay;
- **weights**: one of its constants is beyond FP16's range or too small for it;
- **loss**: with inputs, weights and result in FP16 and its sums in FP32 the layer is off by more than `MAX_LAYER_LOSS`.
  It stays, and so does what makes its input.
- **places**: its result says where a GridSample reads from: half precision has no half pixels from 1024 on.

The pictures are photographs and extremes made of them: black, white, nearly dark, saturated, colored noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.export.casts import FP32_INPUTS, list_place_layers
from sr_deploy.export.float_format import FP16, FP16_MAX, why_not_representable
from sr_deploy.export.fp16_probe import Probe, measure_layers
from sr_deploy.graph.load import load_model, name_of

if TYPE_CHECKING:
    import onnx

RANGE_MARGIN = 4.0
"""Feature maps may reach FP16's greatest number divided by this: other pictures go beyond those that were measured."""
MAX_LAYER_LOSS = 2.0**-7
"""Norm of a layer's error over norm of its result, on the worst picture. Rounding alone costs 2^-12 on average; more
than this (0.8 %) means that large terms cancel or that the whole layer has gone subnormal."""
SLACK = 4.0
"""Bounds that a plan is checked with are so many times stricter than those that it is made with."""
CROPS = 4
"""Photographs that are measured."""
SIDE = 24
"""Height and width of each, in low-resolution pixels."""
_SEED = 0
_STREAM = 9


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in FP32."""

    name: str
    """Its name, or that of its first output."""
    op: str
    """ONNX operator, as in `Conv`."""
    reason: str
    """Why, as in `its result reaches 1.2e+05`."""


@dataclass(frozen=True)
class Fp16Plan:
    """What was measured, and what follows from it."""

    kept: tuple[KeptNode, ...]
    """Nodes that stay in FP32, in the graph's order; empty: all layers become FP16."""
    greatest: float
    """Greatest magnitude of any feature map."""
    greatest_at: str
    """The node that makes it."""
    worst_loss: float
    """Greatest loss of a layer that becomes FP16, as `MAX_LAYER_LOSS` has it."""
    worst_loss_at: str
    """Name of the layer with the worst loss."""
    pictures: int
    """Inputs that it was measured on."""
    source: str
    """Where the photographs come from."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the kept nodes."""
        return tuple(one.name for one in self.kept)


def plan_graph(path: Path, channels: int, scale: int, folder: Path | None = None) -> Fp16Plan:
    """Plan the FP16 twin of a graph on photographs.

    Args:
        path: the FP32 graph.
        channels: of its input.
        scale: of the network: photographs are shrunk by it.
        folder: of photographs; None: the bundled ones.

    Raises:
        InputError: no photograph in the folder, or all of them are too small.
        GraphError: a feature map or a weight is not a finite number.
        BackendError: ONNX Runtime does not run the graph.
    """
    pictures, source = _cut_images(channels, scale, folder)
    return plan_fp16(load_model(path), lambda: pictures, source)


def list_unneeded(model: onnx.ModelProto, planned: Collection[str], channels: int, scale: int) -> list[str]:
    """Planned nodes that nothing keeps in FP32 on the bundled photographs, one line each.

    A plan may have been made on other photographs, which drive layers nearer to their limits: a node is needed if it
    would be with bounds that are `SLACK` times stricter.

    Args:
        model: the FP32 graph, with FP32 input and output.
        planned: names of the nodes.
        channels: of its input.
        scale: of the network.

    Raises:
        GraphError, BackendError: as `plan_graph`.
    """
    if not planned:
        return []
    pictures, _ = _cut_images(channels, scale, None)
    again = plan_fp16(model, lambda: pictures, slack=SLACK)
    return [
        f"{name} is planned in FP32, and nothing asks for it: FP16 ends at {FP16_MAX:.0f} and values reach "
        f"{again.greatest:.4g}; layers that are not near its limits lose {100 * again.worst_loss:.2g} % at most"
        for name in planned
        if name not in again.names
    ]


def _cut_images(channels: int, scale: int, folder: Path | None) -> tuple[tuple[NDArray[np.float32], ...], str]:
    """Crops of photographs and extremes made of them, and where the photographs come from."""
    from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images

    photographs = find_calibration_images(folder)
    shape = CropShape(side=SIDE, scale=scale, channels=channels, seed=_SEED)
    crops = [crop.network_input for crop in cut_crops(photographs.calibration, CROPS, shape, _STREAM)]
    return (*crops, *make_extremes(crops)), photographs.source


def make_extremes(crops: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Inputs that no photograph holds: black, white, a nearly dark and a saturated photograph, noise of 0 and 1.

    Args:
        crops: 1 x C x H x W in [0, 1] each, at least one.
    """
    first = next(iter(crops))
    yield np.zeros_like(first)
    yield np.ones_like(first)
    yield (np.rint(first * 8) / 255).astype(np.float32)
    yield (first > np.median(first)).astype(np.float32)
    yield np.random.Generator(np.random.Philox(_SEED)).integers(0, 2, first.shape).astype(np.float32)


def plan_fp16(
    model: onnx.ModelProto,
    inputs: Callable[[], Iterable[NDArray[np.float32]]],
    source: str = "the pictures given",
    *,
    slack: float = 1.0,
) -> Fp16Plan:
    """Plan the FP16 twin of a graph.

    Args:
        model: FP32, with its weights; left as it is.
        inputs: gives the pictures, 1 x C x H x W in [0, 1] each.
        source: where they come from, for people.
        slack: bounds are so many times stricter, and nothing that a laxer bound keeps is left out.

    Raises:
        GraphError: a feature map or a weight is not a finite number.
        BackendError: ONNX Runtime does not run the graph.
    """
    probe = measure_layers(model, inputs())
    reasons = _keep_for_weights(model.graph)
    for name in list_place_layers(model):
        reasons[name].append("its result is a place to read from, or a size")
    _keep_for_maps(model.graph, probe, reasons, slack)
    _keep_for_loss(model.graph, probe, reasons, slack)
    kept = tuple(
        KeptNode(name_of(node), node.op_type, "; ".join(dict.fromkeys(reasons[name_of(node)])))
        for node in model.graph.node
        if name_of(node) in reasons
    )
    makers = {name: name_of(node) for node in model.graph.node for name in node.output}
    greatest_at = max(probe.greatest, key=lambda name: probe.greatest[name], default="")
    losses = {name: loss for name, loss in probe.loss.items() if name not in reasons}
    worst = max(losses, key=lambda name: losses[name], default="")
    return Fp16Plan(
        kept=kept,
        greatest=probe.greatest.get(greatest_at, 0.0),
        greatest_at=makers.get(greatest_at, ""),
        worst_loss=losses.get(worst, 0.0),
        worst_loss_at=worst,
        pictures=probe.pictures,
        source=source,
    )


def _keep_for_weights(graph: onnx.GraphProto) -> dict[str, list[str]]:
    import onnx

    reasons: dict[str, list[str]] = defaultdict(list)
    unfit = {}
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            try:
                reason = why_not_representable(onnx.numpy_helper.to_array(tensor), FP16)
            except GraphError as error:
                raise GraphError(f"tensor {tensor.name!r} {error}") from None
            if reason is not None:
                unfit[tensor.name] = reason
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in unfit and position not in FP32_INPUTS.get(node.op_type, ()):
                reasons[name_of(node)].append(f"its constant {name} {unfit[name]}")
    return reasons


def _keep_for_maps(graph: onnx.GraphProto, probe: Probe, reasons: dict[str, list[str]], slack: float) -> None:
    """Feature maps that FP16 cannot store: what makes them and what reads them stays."""
    unfit: dict[str, str] = {}
    for name, greatest in probe.greatest.items():
        if not np.isfinite(greatest):
            raise GraphError(
                f"feature map {name!r} holds numbers that are not finite on the pictures it was measured on; the "
                "weights are damaged, train or fetch anew"
            )
        if greatest > FP16_MAX / (RANGE_MARGIN * slack):
            margin = RANGE_MARGIN * slack
            unfit[name] = f"reaches {greatest:.3g}, more than 1/{margin:.0f} of FP16's {FP16_MAX:.0f}"
        elif probe.rounding[name] > FP16.max_relative_error / slack:
            unfit[name] = f"is too small for FP16 (greatest value {greatest:.3g})"
    for node in graph.node:
        for what, names in (("result", node.output), ("input", node.input)):
            found = [unfit[name] for name in names if name in unfit]
            if found:
                reasons[name_of(node)].append(f"its {what} {found[0]}")
                break


def _keep_for_loss(graph: onnx.GraphProto, probe: Probe, reasons: dict[str, list[str]], slack: float) -> None:
    """Layers that multiply and add badly in FP16: they stay, and so does what makes their input."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        loss = probe.loss.get(name_of(node), 0.0)
        # Stricter bounds give other reasons to a layer that lost too much before: what feeds it is kept then too.
        if loss <= MAX_LAYER_LOSS / slack or (slack == 1 and name_of(node) in reasons):
            continue
        reasons[name_of(node)].append(f"FP16 would change its result by {100 * loss:.2g} %")
        before = makers.get(node.input[0])
        if before is not None:
            reasons[name_of(before)].append(f"it feeds {name_of(node)}, which FP16 would change by {100 * loss:.2g} %")
