"""From a PyTorch network to a clean ONNX graph: dynamic shapes, no trace of the machine, the same bytes each time."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Precision
from sr_deploy.errors import OutputError
from sr_deploy.export.cleanup import clean_graph
from sr_deploy.export.write import write_graph

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
"""Taken by TensorRT 10 and 11, TensorRT-RTX, ONNX Runtime and OpenVINO; newest that PyTorch 2.11 to 2.13 writes
without converting."""

INPUT_NAME = "lr"
OUTPUT_NAME = "sr"


def export_network_to_onnx(network: nn.Module, arch: ArchSpec, path: Path, source_sha256: str) -> None:
    """Write the FP32 graph of a generator, as `export_network` makes it. The same weights give the same bytes.

    Args:
        network: the generator; it is left as it is.
        arch: what it is; stored in the graph.
        path: the file to write.
        source_sha256: hash of the checkpoint; stored in the graph.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    write_graph(export_network(network, arch, source_sha256), path)


def export_network(network: nn.Module, arch: ArchSpec, source_sha256: str) -> onnx.ModelProto:
    """The FP32 graph of a generator.

    The graph takes `lr`, N x C x H x W in [0, 1] with N, H and W free (H and W multiples of the network's), and gives
    `sr`, N x C x (H * scale) x (W * scale). BatchNorm and pixel-unshuffle are folded into convolutions, so a pixel
    shuffle is one DepthToSpace and an upsampling one Resize.

    Args:
        network: the generator; it is left as it is.
        arch: what it is; stored in the graph.
        source_sha256: hash of the checkpoint; stored in the graph.
    """
    from sr_deploy.arch.fold import fold_for_export
    from sr_deploy.arch.registry import input_multiple

    multiple = input_multiple(arch)
    graph = trace_network(fold_for_export(network).eval(), arch.channels, multiple)
    clean_graph(graph, scale=arch.scale)
    set_metadata(graph, describe_graph(arch, multiple, "fp32", source_sha256))
    return graph


def describe_graph(arch: ArchSpec, multiple: int, precision: Precision, source_sha256: str) -> dict[str, str]:
    """What a graph says of itself in its `metadata_props`."""
    return {
        "sr_deploy.arch": arch.model_dump_json(),
        "sr_deploy.scale": str(arch.scale),
        "sr_deploy.input_multiple": str(multiple),
        "sr_deploy.precision": precision,
        "sr_deploy.ends": "fp32",
        "sr_deploy.colour": "RGB" if arch.channels == 3 else "gray",
        "sr_deploy.value_range": "[0, 1]",
        "sr_deploy.source_sha256": source_sha256,
    }


def set_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Replace the model's metadata, in the order of the keys."""
    del model.metadata_props[:]
    for key in sorted(entries):
        model.metadata_props.add(key=key, value=entries[key])


def trace_network(network: nn.Module, channels: int, multiple: int) -> onnx.ModelProto:
    """PyTorch's own export, with free N, H and W and none of its chatter.

    Args:
        network: in evaluation mode, folded for export.
        channels: of the input.
        multiple: what H and W are multiples of.
    """
    import torch

    # Any shape would do, as long as no axis is 1, which the tracer takes for fixed.
    example_NCHW = torch.zeros(2, channels, 8 * multiple, 12 * multiple)
    axes = {0: torch.export.Dim("n"), 2: multiple * torch.export.Dim("h"), 3: multiple * torch.export.Dim("w")}
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (example_NCHW,),
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=(axes,),
        )
    if program is None:
        raise OutputError("internal: torch.onnx.export gave no graph; report this with the versions of `doctor`")
    model: onnx.ModelProto = program.model_proto
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    # It warns of a missing torchvision and of its own deprecated calls: nothing that a user could act upon.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
