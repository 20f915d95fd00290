"""Who computes: one module or folder for each backend, and `registry`, which finds them by their names."""

from __future__ import annotations

from sr_deploy.backends.choice import PRECISIONS, QUANTIZED, BackendChoice, Precision

__all__ = ["PRECISIONS", "QUANTIZED", "BackendChoice", "Precision"]
