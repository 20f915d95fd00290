"""Who computes: one module or folder for each backend, and the registry that finds them by their names."""

from __future__ import annotations

from sr_deploy.backends.choice import PRECISIONS, QUANTIZED, BackendChoice, Precision
from sr_deploy.backends.registry import parse_backend

__all__ = ["PRECISIONS", "QUANTIZED", "BackendChoice", "Precision", "parse_backend"]
