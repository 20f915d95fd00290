"""sr-deploy: super-resolution networks, from training to a deployment that proves itself.

    >>> import sr_deploy
    >>> bundle = sr_deploy.export("realesr-animevideov3.pth").bundle  # doctest: +SKIP
    >>> upscaled = sr_deploy.Upscaler(bundle.path)(photograph)  # doctest: +SKIP

Nothing is imported before it is used: `import sr_deploy` costs nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sr_deploy.bench.run import bench_model as bench
    from sr_deploy.bundle.trust import EngineTrust
    from sr_deploy.certification import build_and_record as build
    from sr_deploy.certification import verify_model as verify
    from sr_deploy.deploy import export_bundle as export
    from sr_deploy.evaluation import evaluate_model as evaluate
    from sr_deploy.model import open_model as load
    from sr_deploy.train.interpolate import interpolate_models as interpolate
    from sr_deploy.upscale.image import Upscaler

# Libraries that report their use to their makers unless they are told not to, one of them from its import on. This is
# the first module of every command, worker and script, and what they start inherits it; whoever set one has the say.
# (OpenVINO has no such variable: see deps.)
_REPORTS_OFF = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
for _name, _value in _REPORTS_OFF.items():
    os.environ.setdefault(_name, _value)

__all__ = ["EngineTrust", "Upscaler", "bench", "build", "evaluate", "export", "interpolate", "load", "verify"]


class _LazyName:
    """A public name that is imported at its first use.

    `export`, `verify` and `bench` are subpackages too, and importing one of them sets it on this package. A data
    descriptor on the package's class comes before what is set, so the names stay the functions.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __get__(self, package: ModuleType, _owner: type[ModuleType]) -> object:
        return getattr(importlib.import_module(self._module), self._name)

    def __set__(self, package: ModuleType, submodule: object) -> None:
        """Leave the name as it is: the submodule stays in `sys.modules`, where imports find it."""


class _Package(ModuleType):
    bench = _LazyName("sr_deploy.bench.run", "bench_model")
    build = _LazyName("sr_deploy.certification", "build_and_record")
    evaluate = _LazyName("sr_deploy.evaluation", "evaluate_model")
    export = _LazyName("sr_deploy.deploy", "export_bundle")
    interpolate = _LazyName("sr_deploy.train.interpolate", "interpolate_models")
    load = _LazyName("sr_deploy.model", "open_model")
    verify = _LazyName("sr_deploy.certification", "verify_model")
    EngineTrust = _LazyName("sr_deploy.bundle.trust", "EngineTrust")
    Upscaler = _LazyName("sr_deploy.upscale.image", "Upscaler")


sys.modules[__name__].__class__ = _Package
