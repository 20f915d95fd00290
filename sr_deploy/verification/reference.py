"""What outputs are judged by, each computed once, and how far FP32 itself is from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_reference, name_float64
from sr_deploy.bundle import Profile, Shape
from sr_deploy.bundle.tolerance import Fp32Rounding
from sr_deploy.errors import BackendError
from sr_deploy.graph.io_dtype import Dtype
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.model import Model
from sr_deploy.runners import open_runner
from sr_deploy.runners.io_conversion import rounding_of, snap_input
from sr_deploy.runners.parity import Reference, describe_reference, open_default_layout, open_reference
from sr_deploy.runners.protocol import Runner
from sr_deploy.verification.contents import PHOTOGRAPH, draw_content
from sr_deploy.verification.grid import Cost, Point

if TYPE_CHECKING:
    from sr_deploy.runners.float64 import Float64Network

FLOAT64_INPUT = 40e9
"""What one input may cost in float64, in multiply-adds: some ten seconds on two cores."""
_PLAIN_SIDE = 32
_FLOAT64_MEMORY = 4
"""How many times the memory of FP32 an input takes in float64: twice for what is kept, and PyTorch writes each
convolution's input down once for each of its weights."""


@dataclass(frozen=True)
class Expected:
    """One input and what is due for it."""

    lr_NCHW: NDArray[np.float32]
    """The input, in [0, 1]."""
    sr_NCHW: NDArray[np.floating]
    """The reference's output, not clamped; float64 or float32."""
    reference: str | None = None
    """Who computed it, where that is not whom the entry names."""


def describe_exact(model: Model) -> Reference:
    """What a model's artifacts are judged by: PyTorch in float64, or a substitute where there are no weights.

    Raises:
        InputError: neither weights nor an ONNX graph.
    """
    reference = describe_reference(model)
    return replace(reference, title=name_float64()) if model.has_weights else reference


class ReferenceOutputs(ExitStack):
    """What the reference makes of each input.

    PyTorch in float64 on the CPU; where an input costs or takes too much, in FP32 in the default memory layout. For a
    graph without weights, ONNX Runtime as `runners.parity.open_reference` opens it. Use it as a context manager.
    """

    def __init__(self, model: Model, cost: Cost | None = None, max_pixels: float | None = None) -> None:
        """Nothing is loaded yet but a graph.

        Args:
            model: whose reference.
            cost: of one input pixel; None: unknown, and every input may be run in float64.
            max_pixels: of an input, batch included, that the memory holds in FP32; None: unknown.
        """
        super().__init__()
        self.reference = describe_exact(model)
        self._model = model
        self._cost = cost
        self._max_pixels = max_pixels
        self._runners: dict[str, Runner] = {}
        self._float64: Float64Network | None = None
        self._known: dict[Point, Expected | BackendError] = {}
        self._roundings: dict[Point, Fp32Rounding] = {}
        self.dtype: Dtype = "float32"
        self.profiles: tuple[Profile, ...] = ()
        if not model.has_weights:
            spec = self._open("graph").spec
            self.dtype, self.profiles = spec.dtype, spec.profiles
        self.rounding = rounding_of(self.dtype)
        side = -(-_PLAIN_SIDE // model.input_multiple) * model.input_multiple
        self.plain_point = Point(Shape(1, side, side), PHOTOGRAPH)
        """A small photograph, used where an input is too large for float64."""

    def find(self, point: Point) -> Expected:
        """Input and the reference's output.

        Raises:
            BackendError: the reference does not take this input.
        """
        if point not in self._known:
            try:
                self._known[point] = self._compute(point)
            except BackendError as error:
                self._known[point] = error
        known = self._known[point]
        if isinstance(known, BackendError):
            raise known
        return known

    def measure_rounding(self, point: Point) -> Fp32Rounding | None:
        """How far PyTorch's FP32 is from the reference on an input that `find` gave: the worse of both memory layouts.

        Of an input that is too large for float64 it is what the layouts differ by, and no less than the rounding on
        `plain_point`. None: there are no weights.
        """
        if not self._model.has_weights:
            return None
        if point not in self._roundings:
            expected = self.find(point)
            layouts = ["channels last"] if expected.reference is not None else ["channels last", "default layout"]
            found = [self._compare(layout, expected) for layout in layouts]
            if expected.reference is not None and point != self.plain_point:
                found += [self.measure_rounding(self.plain_point) or found[0]]
            self._roundings[point] = _take_worst(found)
        return self._roundings[point]

    def _compare(self, layout: str, expected: Expected) -> Fp32Rounding:
        comparison = compare_outputs(self._open(layout).infer(expected.lr_NCHW), expected.sr_NCHW)
        if not np.isfinite(comparison.max_abs):  # FP32 does not hold its values: that excuses nothing
            return Fp32Rounding(max_abs=0.0, psnr_db=None)
        return Fp32Rounding(max_abs=comparison.max_abs, psnr_db=comparison.psnr_db)

    def _compute(self, point: Point) -> Expected:
        model = self._model
        lr_NCHW = snap_input(draw_content(point.content, point.shape, model.channels, model.scale), model.input_dtype)
        if not model.has_weights:
            return Expected(lr_NCHW, self._open("graph").infer(lr_NCHW))
        if self.fits_float64(point):
            try:
                return Expected(lr_NCHW, self._open_float64().infer(lr_NCHW))
            except BackendError:  # no memory, or an input that the network does not take: then FP32 says so
                pass
        return Expected(
            lr_NCHW, self._open("default layout").infer(lr_NCHW), str(BackendChoice(get_reference("weights").name))
        )

    def fits_float64(self, point: Point) -> bool:
        """Whether an input is small enough for float64, in time and memory."""
        pixels = point.shape.n * point.shape.h * point.shape.w
        if self._max_pixels is not None and pixels * _FLOAT64_MEMORY > self._max_pixels:
            return False
        return self._cost is None or pixels * self._cost.multiply_adds <= FLOAT64_INPUT

    def _open_float64(self) -> Float64Network:
        if self._float64 is None:
            from sr_deploy.runners.float64 import Float64Network

            self._float64 = Float64Network(self._model)
        return self._float64

    def _open(self, name: str) -> Runner:
        """Each once, and none that is not needed."""
        if name not in self._runners:
            self._runners[name] = self.enter_context(_OPEN[name](self._model))
        return self._runners[name]


def _open_channels_last(model: Model) -> Runner:
    return open_runner(model, BackendChoice(get_reference("weights").name))


_OPEN: Mapping[str, Callable[[Model], Runner]] = MappingProxyType(
    {"graph": open_reference, "default layout": open_default_layout, "channels last": _open_channels_last}
)


def _take_worst(roundings: list[Fp32Rounding]) -> Fp32Rounding:
    psnrs = [one.psnr_db for one in roundings if one.psnr_db is not None]
    return Fp32Rounding(max_abs=max(one.max_abs for one in roundings), psnr_db=min(psnrs) if psnrs else None)
