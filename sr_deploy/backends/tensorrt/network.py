"""What a parsed strongly typed network declares: the precision of each of its layers."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

from sr_deploy.backends import Precision
from sr_deploy.engine.precision import PRECISION_OF_TYPE
from sr_deploy.errors import BackendError


# The SDK's own objects have no types for a checker: the bindings are compiled and optional.
def count_types(sdk: ModuleType, network: Any) -> tuple[dict[str, int], dict[str, int]]:  # noqa: ANN401
    """Layers, and convolutions among them, by the type of their first output, as in `{"HALF": 40, "FLOAT": 2}`."""
    layers: Counter[str] = Counter()
    convolutions: Counter[str] = Counter()
    for layer in map(network.get_layer, range(network.num_layers)):
        kind = layer.get_output(0).dtype.name
        layers[kind] += 1
        if layer.type in (sdk.LayerType.CONVOLUTION, sdk.LayerType.DECONVOLUTION):
            convolutions[kind] += 1
    return dict(layers), dict(convolutions)


def list_precisions(sdk: ModuleType, network: Any) -> dict[str, Precision]:  # noqa: ANN401
    """Precision of every layer that multiplies and adds, by the name of the ONNX node that it comes from.

    A layer whose image and weights both come from dequantization computes in what its weights are dequantized from,
    INT8 or FP8: that is how a graph says it. Others compute in the type of their image.

    Raises:
        BackendError: a type that is none of ours.
    """
    kinds = (sdk.LayerType.CONVOLUTION, sdk.LayerType.DECONVOLUTION, sdk.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized = {
        layer.get_output(index).name: layer.get_input(0).dtype.name
        for layer in layers
        if layer.type == sdk.LayerType.DEQUANTIZE
        for index in range(layer.num_outputs)
    }
    found: dict[str, Precision] = {}
    for layer in layers:
        if layer.type not in kinds:
            continue
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        operands = [tensor for tensor in inputs[:2] if tensor is not None]
        kind = operands[0].dtype.name
        if len(operands) == 2 and all(tensor.name in dequantized for tensor in operands):
            kind = dequantized[operands[1].name]
        if kind not in PRECISION_OF_TYPE:
            raise BackendError(f"layer {layer.name!r} computes in {kind}; known: {', '.join(PRECISION_OF_TYPE)}")
        found[layer.name] = PRECISION_OF_TYPE[kind]
    return found
