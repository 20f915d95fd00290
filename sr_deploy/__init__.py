"""sr-deploy: super-resolution networks, from training to a deployment that proves itself.

    >>> import sr_deploy
    >>> bundle = sr_deploy.export_bundle("realesr-animevideov3.pth").bundle  # doctest: +SKIP
    >>> upscaled = sr_deploy.Upscaler(bundle.path)(photograph)  # doctest: +SKIP

Nothing is imported before it is used: `import sr_deploy` costs nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sr_deploy.bench.run import bench_model
    from sr_deploy.bundle.trust import EngineTrust
    from sr_deploy.deploy import export_bundle
    from sr_deploy.evaluation.evaluate import evaluate_model
    from sr_deploy.model import open_model
    from sr_deploy.progress import Progress
    from sr_deploy.train.interpolate import interpolate_models
    from sr_deploy.upscale.image import Upscaler
    from sr_deploy.verification.verify import build_engines, verify_model

    __version__: str

# This is the first module of every command, worker and script, and what they start inherits these; whoever set one has
# the say.
_SETTINGS = {
    # Libraries that report their use to their makers unless they are told not to, one of them from its import on.
    # (OpenVINO has no such variable: see deps.)
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

# Whoever uses the package decides whether and where its log is seen; without this Python prints warnings on stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_MODULES = {
    "EngineTrust": "bundle.trust",
    "Progress": "progress",
    "Upscaler": "upscale.image",
    "bench_model": "bench.run",
    "build_engines": "verification.verify",
    "evaluate_model": "evaluation.evaluate",
    "export_bundle": "deploy",
    "interpolate_models": "train.interpolate",
    "open_model": "model",
    "verify_model": "verification.verify",
}
"""Where each public name is."""

__all__ = [
    "EngineTrust",
    "Progress",
    "Upscaler",
    "bench_model",
    "build_engines",
    "evaluate_model",
    "export_bundle",
    "interpolate_models",
    "open_model",
    "verify_model",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sr-deploy")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
