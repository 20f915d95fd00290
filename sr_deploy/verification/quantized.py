"""How an INT8 or FP8 graph is quantized, against what the report of its search and the FP32 graph hold. No torch here.

Quantizers are not looked through here but read: steps, zero points and types of every one, which layers have them, and
the biases that were corrected for what they cost. What the report says is so held to the graph, number for number.
Whether it is good is measured (`calibration`), since an attacker who changes the graph can change that file too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.export.int8.formats import FORMATS, NumberFormat
from sr_deploy.export.int8.joins import list_joined
from sr_deploy.export.int8.search_report import report_name
from sr_deploy.graph.load import infer_types, name_of
from sr_deploy.verification.align import Alignment, GraphView, describe_node
from sr_deploy.verification.storage import Storage, judge_way

if TYPE_CHECKING:
    from onnx import NodeProto

    from sr_deploy.export.int8.search_report import Int8Report, LayerReport

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def is_corrected_bias(report: Int8Report, node: NodeProto, position: int) -> bool:
    """Whether an input is the bias of a convolution that the report records as quantized, and so held to that."""
    return position == 2 and node.op_type in _CONVOLUTIONS and name_of(node) in _list_quantized(report)


def list_quantization(
    reference: GraphView, candidate: GraphView, alignment: Alignment, storage: Storage, report: Int8Report | None
) -> Iterator[str]:
    """What is wrong with the quantization of a graph, one line each, each naming the layer.

    Args:
        reference: the FP32 graph with its channels evened out (`audit.load_reference`).
        candidate: the quantized graph.
        alignment: of the two.
        storage: what its values are stored in between.
        report: `int8.json` or `fp8.json`; None: there is none.
    """
    if report is None:
        yield "nothing records how it was quantized (int8 or fp8 of the manifest); export the bundle again"
        return
    name, file = report.options.format, report_name(report.options.format)
    layers = {layer.name: layer for layer in report.layers}
    pairs = [(node, other) for node, other in alignment.pairs if other.op_type in _CONVOLUTIONS]
    types = infer_types(candidate.model, stated=False)
    for node, other in pairs:
        layer = layers.get(name_of(node))
        if layer is None:
            yield f"{file} says nothing of {describe_node(other)}"
            continue
        quantized = bool(_quantizers(candidate, other.input[1]))
        if quantized != (layer.precision == name):
            seen = name if quantized else "float"
            yield f"{describe_node(other)} computes in {seen}, and {file} records {layer.precision}"
        elif quantized:
            yield from _Layer(reference, candidate, node, other, layer, storage, types, FORMATS[name]).judge(report)
    for unknown in sorted(layers.keys() - {name_of(node) for node, _ in pairs}):
        yield f"{file} records {unknown!r}, which is not a convolution of the graph"
    names = Counter(layer.name for layer in report.layers)
    for twice in sorted(one for one, times in names.items() if times > 1):
        yield f"{file} records {twice!r} {names[twice]} times, and each layer has one record"


def _list_quantized(report: Int8Report) -> set[str]:
    return {layer.name for layer in report.layers if layer.precision != "float"}


def _quantizers(view: GraphView, name: str) -> list[NodeProto]:
    return [node for node in view.chain(name) if node.op_type != "Cast"]


@dataclass(frozen=True)
class _Layer:
    """One convolution that both the graph and the report have quantized."""

    reference: GraphView
    candidate: GraphView
    due: NodeProto
    node: NodeProto
    layer: LayerReport
    storage: Storage
    types: dict[str, int]
    numbers: NumberFormat

    @property
    def file(self) -> str:
        """The report's name."""
        return report_name(self.numbers.name)

    def judge(self, report: Int8Report) -> Iterator[str]:
        if self.layer.step is None or self.layer.zero_point is None:
            yield f"{self.file} does not record the step of {describe_node(self.node)}; export the bundle again"
            return
        if self.layer.zero_point != 0:
            yield f"{self.file} records zero point {self.layer.zero_point} for {describe_node(self.node)}; 0 is due"
        yield from self._judge_type()
        yield from self._judge_data(self.node.input[0])
        chain = self.candidate.chain(self.node.input[1])
        if [one.op_type for one in chain] != ["DequantizeLinear"]:
            yield f"the weight of {describe_node(self.node)} comes through {len(chain)} nodes where 1 is due"
        for one in chain:
            yield from self._judge_zero(one)
        weight = self.candidate.constant(self.node.input[1])
        if weight is not None and weight.stored.dtype != self.numbers.dtype:
            yield f"the weight of {describe_node(self.node)} is {weight.stored.dtype}, not {self.numbers.dtype}"
        yield from self._judge_bias(report)

    def _judge_type(self) -> Iterator[str]:
        due = self.storage.type_of(1, held=self.due.output[0] in self.storage.held)
        for position in (0, 1):
            if self.types.get(self.node.input[position]) != due:
                yield f"input {position} of {describe_node(self.node)} is not dequantized to the type it computes in"

    def _judge_data(self, name: str) -> Iterator[str]:
        """What is read as a DequantizeLinear of a QuantizeLinear, or of what joins several or repeats one."""
        chain = self.candidate.chain(name)
        if not chain or chain[0].op_type != "DequantizeLinear":
            yield f"the data of {describe_node(self.node)} is not quantized, though its weight is"
            return
        yield from self._judge_quantizer(chain[0])
        yield from self._judge_quantized(chain[0].input[0])

    def _judge_quantized(self, name: str) -> Iterator[str]:
        chain = self.candidate.chain(name)
        parts = () if chain else list_joined(self.candidate.producer(name))
        for part in parts:
            yield from self._judge_quantized(part)
        if parts:
            return
        if not chain or chain[0].op_type != "QuantizeLinear":
            yield f"the data of {describe_node(self.node)} comes through no QuantizeLinear of its own"
            return
        yield from self._judge_quantizer(chain[0])
        if self.types.get(chain[0].output[0]) != self.numbers.onnx_type:
            due = self.numbers.name
            yield f"{describe_node(chain[0])} before {describe_node(self.node)} does not quantize to {due}"
        read = chain[0].input[0]
        for wrong in judge_way(chain[1:], self.types, read, self.storage.float_type):
            yield f"the input of {describe_node(chain[0])} before {describe_node(self.node)} {wrong}"

    def _judge_quantizer(self, node: NodeProto) -> Iterator[str]:
        steps = np.ravel(self.candidate.read_scale(node))
        if steps.size != 1 or float(steps[0]) != self.layer.step:
            shown = ", ".join(f"{float(step):.7g}" for step in steps[:3])
            yield (
                f"{describe_node(node)} before {describe_node(self.node)} has a step of {shown} where "
                f"{self.file} records {self.layer.step:.7g}"
            )
        yield from self._judge_zero(node)

    def _judge_zero(self, node: NodeProto) -> Iterator[str]:
        zeros = np.ravel(self.candidate.read_zero(node))
        wrong = zeros[zeros != 0]  # NaN too, of zero points that are computed
        if wrong.size:
            yield (
                f"{describe_node(node)} before {describe_node(self.node)} has {wrong.size} of {zeros.size} zero points "
                f"that are not 0, first {wrong[0]:g}"
            )

    def _judge_bias(self, report: Int8Report) -> Iterator[str]:
        """The graph's against the report, and that against the FP32 graph's with the recorded shift."""
        where = f"the bias of {describe_node(self.node)}"
        seen, due = (_read_bias(view, node) for view, node in ((self.candidate, self.node), (self.reference, self.due)))
        recorded = None if self.layer.bias is None else np.array(self.layer.bias, np.float32)
        if (seen is None) != (recorded is None):
            yield f"{where} is {'left out' if seen is None else 'there'}, and {self.file} records otherwise"
        elif seen is not None and recorded is not None:
            yield from _compare_bias(where, seen, recorded.astype(seen.dtype), f"{self.file} records")
        if recorded is None or seen is None:
            return
        shift = np.array(report.shifts.get(self.layer.name, np.zeros(len(recorded))), np.float32)
        plain = np.zeros(len(recorded), np.float32) if due is None else due.astype(np.float32)
        if shift.shape != plain.shape or plain.shape != recorded.shape:
            yield f"{where} has {len(plain)} values, and {self.file} records {len(recorded)} and {len(shift)} shifts"
        else:
            yield from _compare_bias(f"in {self.file} {where}", recorded, plain + shift, "with its shift")


def _read_bias(view: GraphView, node: NodeProto) -> NDArray[np.generic] | None:
    constant = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return None if constant is None else constant.stored


def _compare_bias(where: str, seen: NDArray[np.generic], due: NDArray[np.generic], source: str) -> Iterator[str]:
    if seen.shape != due.shape:
        yield f"{where} has shape {seen.shape} where {source} {due.shape}"
        return
    wrong = np.flatnonzero(~(seen == due))
    if wrong.size:
        place = int(wrong[0])
        yield (
            f"{where}: {wrong.size} of {seen.size} values are wrong, first at {place}: {float(seen[place]):.7g} where "
            f"{source} {float(due[place]):.7g}"
        )
