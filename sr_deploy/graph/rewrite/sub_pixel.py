"""Nearest x2 enlargement and a 3x3 convolution become 2x2 convolutions at the smaller size, and a pixel shuffle.

Let X be the small image, zero outside, and U its enlargement: U[p] = X[p // 2], zero outside too, since p = -1 gives
row -1 and p = 2H gives row H. The convolution of U with padding 1, at row 2i + a (columns alike), is

    Y[2i + a] = sum over u in (-1, 0, 1) of W[u] U[2i + a + u] = sum over u of W[u] X[i + (a + u) // 2]

    a = 0:  W[-1] X[i-1] + (W[0] + W[1]) X[i]           a = 1:  (W[-1] + W[0]) X[i] + W[1] X[i+1]

so each of the four phases (a, b) is a 2x2 convolution of X: 16 multiply-adds where there were 36, and X is read with
the zeros of its own border. Exact but for the rounding of the summed weights: half a unit in the last place of each.

One convolution computes all four. With padding 1 on every side its result Z has one row and one column more than X,
and Z_a[k] reads X[k-1] and X[k]; so Y[2i] = Z_0[i] and Y[2i + 1] = Z_1[i + 1]. A pixel shuffle D that takes the phases
in the other order, D[2k] = Z_1[k] and D[2k + 1] = Z_0[k], has Y[p] = D[p + 1]: all of D but its outermost pixels.

`transposed` writes the same sums as one transposed convolution of kernel 4, stride 2, padding 1, in which output row
2i + a meets X[m] with the tap a + 1 + 2 (i - m).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import (
    UNARY,
    Conv,
    make_node,
    read_conv,
    read_enlargement,
    repeat_node,
    round_weights,
    write_conv,
)

# The taps of the 3x3 kernel that meet each row of the 2x2 one: phase x row of the 2x2 kernel x tap.
_SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=np.float64)


def split_sub_pixels(graph: EditableGraph, form: Literal["shuffle", "transposed"]) -> int:
    """Rewrite each plain 3x3 convolution with padding 1 of a nearest x2 enlargement."""
    count = 0
    for node in graph.of_type("Conv"):
        conv = read_conv(graph, node)
        resize = graph.producer(node.input[0], "Resize", "Upsample")
        if conv is None or resize is None or not _fits(graph, conv, resize):
            continue
        if form == "shuffle":
            _write_shuffle(graph, conv, resize.input[0])
        else:
            graph.replace([node], [_make_transposed(graph, conv, resize.input[0])])
        count += 1
    return count


def find_phase_kernels(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each phase (a, b) its kernel: 2 x 2 x O x I x 2 x 2."""
    kernels: NDArray[np.float64] = np.einsum("auh,bvw,oihw->aboiuv", _SUMS, _SUMS, weight.astype(np.float64))
    return kernels


def _fits(graph: EditableGraph, conv: Conv, resize: onnx.NodeProto) -> bool:
    return (
        conv.is_plain
        and conv.weight.shape[2:] == (3, 3)
        and conv.pads == (1, 1, 1, 1)
        and read_enlargement(graph, resize) == 2
    )


def _write_shuffle(graph: EditableGraph, conv: Conv, source: str) -> None:
    """The activation that follows goes before the shuffle, where backends fuse it with the convolution."""
    result = conv.node.output[0]
    swapped = find_phase_kernels(conv.weight)[::-1, ::-1]
    weight = round_weights(swapped.reshape(-1, *conv.weight.shape[1:2], 2, 2))
    bias = None if conv.bias is None else np.tile(conv.bias, 4)
    phases, shuffled = graph.new_name(f"{result}/phases"), graph.new_name(f"{result}/shuffled")
    new = [write_conv(graph, replace(conv, weight=weight, bias=bias), source, phases)]
    old = [conv.node]
    activation = graph.only_user(result, *UNARY)
    if activation is not None:
        old.append(activation)
        result, plain = activation.output[0], phases
        phases = graph.new_name(f"{plain}/activated")
        new.append(repeat_node(graph, activation, [plain], phases))
    new.append(make_node(graph, "DepthToSpace", [phases], shuffled, blocksize=2, mode="DCR"))
    new.append(_make_crop(graph, shuffled, result))
    graph.replace(old, new)


def _make_crop(graph: EditableGraph, source: str, result: str) -> onnx.NodeProto:
    bounds = [
        graph.add_constant(np.array(value, dtype=np.int64), f"{result}/{name}")
        for name, value in (("starts", [1, 1]), ("ends", [-1, -1]), ("axes", [2, 3]))
    ]
    return make_node(graph, "Slice", [source, *bounds], result)


def _make_transposed(graph: EditableGraph, conv: Conv, source: str) -> onnx.NodeProto:
    kernels = find_phase_kernels(conv.weight)
    out_channels, in_channels = conv.weight.shape[:2]
    weight = np.zeros((in_channels, out_channels, 4, 4))
    for a, b, u, v in np.ndindex(2, 2, 2, 2):
        # Row u of phase a's kernel meets X[i + u - 1 + a].
        weight[:, :, 3 - a - 2 * u, 3 - b - 2 * v] = kernels[a, b, :, :, u, v].T
    inputs = [source, graph.add_constant(round_weights(weight), conv.node.input[1])]
    if conv.bias is not None:
        inputs.append(conv.node.input[2])
    sizes = {"kernel_shape": (4, 4), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    return make_node(graph, "ConvTranspose", inputs, conv.node.output[0], **sizes)
