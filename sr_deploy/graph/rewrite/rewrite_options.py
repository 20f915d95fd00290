"""Which rewrites are applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RewriteOptions:
    """One field for each rewrite. All are exact up to the rounding that their module states."""

    unshuffle: bool = True
    """Pixel-unshuffles become part of the convolution that follows."""
    average_pool: bool = True
    """Means of 2x2 pixels at the end become part of the tail (an x4 network used at x2)."""
    scales: bool = True
    """Factors after convolutions become part of their weights."""
    residual_taps: bool = False
    """Residuals become taps of convolutions that read them anyway. For FP32 alone: see the module."""
    sub_pixel: Literal["off", "shuffle", "transposed"] = "off"
    """Nearest x2 and a 3x3 convolution become 2x2 convolutions: with a pixel shuffle, or as a transposed one."""
    nearest_skip: bool = True
    """Nearest enlargements that are added after a pixel shuffle are added before it."""
    narrow_output: bool = True
    """Convolutions to few channels compute 2x2 pixels at once."""
    prelu: Literal["keep", "decompose"] = "keep"
    """`decompose` writes PRelu as convolution, Relu and sum: faster in ONNX Runtime on a CPU, slower in OpenVINO."""
    concat: int | None = None
    """Convolutions of concatenations become sums of convolutions of the parts; the first `concat` parts
    stay concatenated (0: none). None leaves concatenations."""
    channels: int = 1
    """Feature maps are padded to a multiple of so many channels; 1 leaves them."""


DEFAULT = RewriteOptions()
"""What a graph's file is given: what is faster or equal in every CPU backend that was measured, and nothing that is
worse to convert to FP16 or to quantize than the plain graph."""

FOR_OPENVINO = RewriteOptions(residual_taps=True, sub_pixel="transposed", concat=2)
"""What OpenVINO runs fastest in FP32 on a CPU, by `benchmarks/graph_rewrites.py`. Its runner adds it."""

FOR_OPENVINO_BF16 = RewriteOptions(sub_pixel="transposed", concat=2)
"""The same for bf16, without weights of 1 + w, of which 8 bits of mantissa leave little. Its runner adds it."""

FOR_ONNXRUNTIME = RewriteOptions(residual_taps=True, prelu="decompose")
"""What ONNX Runtime runs fastest in FP32 on a CPU, by the same script. Its runner adds it."""

NOTHING = RewriteOptions(unshuffle=False, average_pool=False, scales=False, nearest_skip=False, narrow_output=False)
"""No rewrite at all: a start for choosing single ones."""
