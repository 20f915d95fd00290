from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.model import open_model
from sr_deploy.upscale import memory
from sr_deploy.upscale.memory import choose_tile, estimate_bytes_per_pixel

GIB = 2**30


@pytest.mark.parametrize(
    ("halo", "bytes_per_pixel", "free", "tile"),
    [
        (4, 1500.0, 16 * GIB, 256),
        (10, 1500.0, 16 * GIB, 288),  # (288 + 20)^2 is 1.14 times 288^2
        (18, 1500.0, 16 * GIB, 384),
        (40, 1500.0, 16 * GIB, 384),
        (18, None, 16 * GIB, 384),
        (18, 1500.0, None, 384),
        (18, 25_000.0, 4 * GIB, 256),  # 292^2 * 25 kB is 2.0 GiB, half of what there is
        (18, 25_000.0, GIB // 8, 64),  # nothing fits: begin small, and halve
    ],
)
def test_the_tile_weighs_the_halo_and_the_memory(
    halo: int, bytes_per_pixel: float | None, free: int | None, tile: int
) -> None:
    assert choose_tile(halo, bytes_per_pixel, free) == tile
    if bytes_per_pixel and free is not None and tile > 64:
        assert (tile + 2 * halo) ** 2 * bytes_per_pixel <= free / 2


def test_the_estimate_follows_the_widest_layer(make_bundle: Any, tmp_path: Path) -> None:
    """compact x4 with 8 features: the widest layer reads 8 and writes 48 planes of input size, or shuffles 48 twice."""
    bundle = make_bundle("compact-x4", tmp_path)
    by_graph = estimate_bytes_per_pixel(open_model(bundle.path))
    by_spec = estimate_bytes_per_pixel(open_model(bundle.path / "generator.safetensors"))
    assert by_spec == (8 + 48) * 4 * memory.WORKSPACE
    assert by_graph is not None
    assert by_spec <= by_graph <= 3 * by_spec


def test_memory_beyond_the_pictures_does_not_grow_with_them(make_bundle: Any, tmp_path: Path) -> None:
    """A picture 8 times as large needs what it and its result take, and not 4 more MiB."""
    pytest.importorskip("onnxruntime")
    bundle = make_bundle("compact-x2-gray", tmp_path)
    script = f"""
import resource, numpy as np
from sr_deploy.upscale.image import Upscaler
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def draw(height): return np.random.default_rng(0).integers(0, 256, (height, 1000, 1), np.uint8)
with Upscaler({str(bundle.path)!r}, backend="onnxruntime:fp32", tile=200) as upscale:
    small = draw(1000); upscale(small); small = None
    before = peak()
    large = draw(8000)
    sr = upscale(large)
    print(peak() - before - large.nbytes - sr.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 4 * 2**20
