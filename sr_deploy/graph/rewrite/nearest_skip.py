"""A nearest enlargement that is added after a pixel shuffle is added before it, where the tensors are small.

The pixel shuffle by r puts channel k of the small tensor at pixel (i, j) of channel c in each r x r cell. The nearest
enlargement by r gives all pixels of that cell the value of channel c. So

    shuffle(x) + enlarge(y) = shuffle(x + P y)        P[k, c] = 1 where the shuffle puts k into channel c, else 0

and P is a 1x1 convolution, with a sum that backends fuse into the convolution that makes x. Exact: zeros and ones round
nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Shuffle, make_node, read_conv, read_enlargement, read_shuffle
from sr_deploy.graph.rewrite.spatial_dims import count_channels


def add_skip_before_shuffle(graph: EditableGraph) -> int:
    """Rewrite each sum of a pixel shuffle of a convolution and a nearest enlargement by the same factor."""
    count = 0
    for node in graph.of_type("Add"):
        for place in (0, 1):
            if _rewrite_sum(graph, node, place):
                count += 1
                break
    return count


def spread_channels(shuffle: Shuffle, channels: int) -> NDArray[np.float32]:
    """The 1x1 convolution's weight: channels * r^2 x channels x 1 x 1."""
    one_NC = np.eye(channels, dtype=np.float32)
    copies = shuffle.block**2
    spread = np.repeat(one_NC, copies, axis=0) if shuffle.mode == "CRD" else np.tile(one_NC, (copies, 1))
    return spread[:, :, None, None]


def _rewrite_sum(graph: EditableGraph, node: onnx.NodeProto, place: int) -> bool:
    shuffled, enlarged = node.input[place], node.input[1 - place]
    to_space, resize = graph.producer(shuffled, "DepthToSpace"), graph.producer(enlarged, "Resize", "Upsample")
    shuffle = read_shuffle(to_space)
    if to_space is None or resize is None or shuffle is None or not graph.is_private(shuffled):
        return False
    conv = read_conv(graph, graph.producer(to_space.input[0], "Conv"))
    channels = count_channels(graph, resize.input[0])
    if conv is None or channels is None or read_enlargement(graph, resize) != shuffle.block:
        return False
    if len(conv.weight) != channels * shuffle.block**2:
        return False
    result = node.output[0]
    weight = graph.add_constant(spread_channels(shuffle, channels), f"{result}/spread.weight")
    spread, total = graph.new_name(f"{result}/spread"), graph.new_name(f"{result}/small")
    new = [
        make_node(graph, "Conv", [resize.input[0], weight], spread, kernel_shape=(1, 1)),
        make_node(graph, "Add", [to_space.input[0], spread], total),
        make_node(graph, "DepthToSpace", [total], result, blocksize=shuffle.block, mode=shuffle.mode),
    ]
    graph.replace([to_space, node], new)
    return True
