"""How large a tile may be: what the network needs for a pixel, and the memory there is. No torch for CPUs here."""

from __future__ import annotations

import math

from sr_deploy.errors import GraphError
from sr_deploy.measure.memory import find_available_memory
from sr_deploy.model import Model

MAX_OVERHEAD = 1.15
"""Tiles are made large enough that the halo adds at most 15 % to the work, while memory allows it."""
MAX_TILE = 384
"""Beyond it little is gained, and PyTorch on a CPU takes twice the time for a pixel in windows of 548 that it takes in
those of 420 (compact network of 64 features, docs/tiles.md)."""
MIN_TILE = 64
SHARE = 0.5
"""Of the free memory; the rest is for the image and other processes."""
WORKSPACE = 3.0
"""Memory that a runner takes, in units of what its widest layer reads and writes: tensors that are kept for later
layers, scratch space of convolutions, and blocks that an allocator does not give back. Measured: 1.5 to 2.7."""


def choose_tile(halo: int, bytes_per_pixel: float | None, free: int | None) -> int:
    """Core of a tile, a multiple of 32.

    Args:
        halo: on each side of it.
        bytes_per_pixel: that the runner needs for each pixel of a window; None: unknown.
        free: bytes; None: unknown.

    Returns:
        What keeps the halo's share of the work small, as far as memory goes; `MIN_TILE` at least: should that be
        too much, it is halved when it fails.
    """
    # (core + 2 halo)^2 = MAX_OVERHEAD core^2
    wanted = max(256, math.ceil(2 * halo / (math.sqrt(MAX_OVERHEAD) - 1) / 32) * 32)
    core = min(wanted, MAX_TILE)
    if bytes_per_pixel and free is not None:
        window = int(math.sqrt(SHARE * free / bytes_per_pixel))
        core = min(core, (window - 2 * halo) // 32 * 32)
    return max(core, MIN_TILE)


def estimate_bytes_per_pixel(model: Model) -> float | None:
    """Bytes that FP32 inference needs for each pixel of a window; None if neither a graph nor a spec tells.

    An estimate for the first try: a tile that is too large all the same is halved.
    """
    widest: float | None = None
    if model.precisions:
        widest = _find_widest(model)
    elif model.arch is not None:
        from sr_deploy.arch.registry import list_convolutions

        convolutions = list_convolutions(model.arch)
        widest = max(float((one.in_channels + one.out_channels) * one.resolution**2) * 4 for one in convolutions)
    return None if widest is None else widest * WORKSPACE


def _find_widest(model: Model) -> float | None:
    """What the widest layer of a graph reads and writes, for each pixel of an input that it takes."""
    from sr_deploy.graph.read import describe_layers, read_graph

    path = model.graph_path(model.precisions[0])
    n, _, fixed_h, fixed_w = (model.graph_info or read_graph(path)).input_shape
    side = 16 * model.input_multiple
    shape = n or 1, fixed_h or side, fixed_w or side
    try:
        layers = describe_layers(path, shape)
    except GraphError:  # shapes inside it are unknown
        return None
    return max((layer.bytes_read + layer.bytes_written for layer in layers), default=0) / math.prod(shape)


def free_memory(device: str) -> int | None:
    """Bytes that a runner on `device` can take now; None if the system does not tell."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return find_available_memory()
