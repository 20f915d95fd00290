"""PyTorch: the reference (fp32) and what the other backends are measured against."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Collection
from typing import TYPE_CHECKING

from sr_deploy.backends.choice import BackendChoice, Precision
from sr_deploy.backends.description import DEFAULT_LAYOUT, Auto, Backend, RunOptions, Variant
from sr_deploy.deps import Package, is_installed, require
from sr_deploy.gpus import visible_gpus

if TYPE_CHECKING:
    from sr_deploy.model import Model
    from sr_deploy.runners.protocol import Runner

PACKAGE = Package("torch", "pip install torch")
_TRUE: dict[Precision, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
_BF16, _FP16 = BackendChoice("torch", "bf16"), BackendChoice("torch", "fp16")


def _open(model: Model, choice: BackendChoice, options: RunOptions) -> Runner:
    from sr_deploy.backends.torch.runner import TorchRunner

    return TorchRunner(
        model,
        choice,
        options.device,
        options.threads,
        channels_last=options.variant != DEFAULT_LAYOUT,
        compiled=options.variant == "compile",
        cuda_graphs=options.variant is None,
    )


def _why_absent(choice: BackendChoice) -> str:
    return f"{choice} does not exist: torch runs fp32, fp16 and bf16; {choice.precision} runs from an ONNX graph"


def _describe_runs() -> tuple[str, ...]:
    torch = require(PACKAGE, "the torch backend")
    gpus = [f"cuda:{index} fp32 bf16 fp16" for index in range(torch.cuda.device_count())]
    return ("cpu fp32 bf16 fp16 (slow)", *gpus)


def _find_verified(_held: Collection[Precision], precision: Precision) -> tuple[Precision, ...]:
    """Its FP32 is what others are compared with; in 16 bit it computes what no graph backend does on a CPU."""
    return (precision,) if precision in ("fp16", "bf16") else ()


def _why_untimed(choice: BackendChoice) -> str | None:
    from sr_deploy.measure.machine import has_multiplier

    if visible_gpus():
        return None
    if choice == _FP16:
        return "half precision on a CPU shows its error, not its speed"
    if choice == _BF16 and not has_multiplier("bf16"):
        return "this CPU has no bf16 instructions: its pace says nothing"
    return None


@functools.cache
def _why_not_compiled(_choice: BackendChoice) -> str | None:
    if visible_gpus():
        return None if is_installed("triton") else "needs triton, which CUDA builds of torch bring; install one"
    compilers = [os.environ.get("CXX", ""), "g++", "clang++"]
    if any(name and shutil.which(name) for name in compilers):
        return None
    return "needs a C++ compiler, which this machine lacks; on Debian: apt-get install g++"


def why_not_eager(choice: BackendChoice) -> str | None:
    """Why there is nothing to compare on this machine: what launches kernels one by one without being told."""
    return None if visible_gpus() else f"is {choice} on a machine without a GPU: leave +eager out"


BACKEND = Backend(
    name="torch",
    package=PACKAGE,
    artifact="weights",
    precisions={"cpu": _TRUE, "cuda": _TRUE},
    open=_open,
    order=0,
    is_reference=True,
    why_absent=_why_absent,
    describe_runs=_describe_runs,
    uniform=("fp32", "fp16", "bf16"),
    # PyTorch's true half convolutions on a CPU take ten times as long as FP32 ones (measured).
    slow=("fp16",),
    why_untimed=_why_untimed,
    auto={"cpu": Auto(2, (_BF16,)), "cuda": Auto(1, (_FP16, _BF16))},
    variants=(
        Variant(DEFAULT_LAYOUT),
        # Through torch.compile.
        Variant(
            "compile",
            why_not=_why_not_compiled,
            is_listed=lambda: True,
            why_left_out="compiling takes up to a minute for each shape",
        ),
        # Without CUDA graphs.
        Variant("eager", why_not=why_not_eager, is_listed=lambda: bool(visible_gpus())),
    ),
    find_verified=_find_verified,
    is_on_device=True,
)
