"""Where something was measured: every table names its machine and the versions. No torch here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel

from sr_deploy.backends import Precision
from sr_deploy.backends.registry import list_backends

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_GPU_QUERY_SECONDS = 10
# Instruction sets that decide how fast convolutions run, as the kernel spells them (x86, then ARM).
_TELLING_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimddp", "fphp", "i8mm", "bf16", "sve", "sve2"),
)
# What PyTorch needs to multiply matrices in a precision. Without it, it goes number by number; BF16 with AVX-512 alone
# is emulated: 62 GFLOP/s where FP32 has 349 (roofline of `sr-deploy bench`, Xeon with AVX-512 and VNNI, 2026-11-30).
_MULTIPLIERS: dict[Precision, frozenset[str]] = {
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "fphp"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "int8": frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}),
    "fp8": frozenset(),  # no processor's that PyTorch uses
}
_DISTRIBUTIONS = ("sr-deploy", "onnx", "onnxscript", "polygraphy", "numpy", "pyvips", "av")


class Machine(BaseModel, frozen=True, extra="forbid"):
    """The machine that measured."""

    cpu: str
    """Model name of the processor."""
    cores: int
    """Cores that this process may use."""
    memory_gib: float
    """Main memory; 0 if the system does not tell."""
    features: tuple[str, ...]
    """Instruction sets that matter for convolutions, as in `avx512f`, as far as the system tells."""
    gpus: tuple[str, ...]
    """NVIDIA GPUs with memory, driver and compute capability; empty if there is none."""
    os: str
    """Operating system and its version."""
    python: str
    """Version, as in `3.11.7`."""

    def title(self) -> str:
        """One line for people."""
        gpus = "; ".join(self.gpus) or "no NVIDIA GPU"
        features = f" ({', '.join(self.features)})" if self.features else ""
        plural = "s" if self.cores != 1 else ""
        return f"{self.cores} core{plural} of {self.cpu}{features}, {self.memory_gib:.0f} GiB, {gpus}"


def describe_machine() -> Machine:
    """Look at this machine. Takes milliseconds, or a second where nvidia-smi has to be asked."""
    cpuinfo = _read_colon_file(_CPUINFO)
    present = cpu_features()
    return Machine(
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine() or "unknown",
        cores=usable_cores(),
        memory_gib=round(memory_bytes() / 2**30, 1),
        features=tuple(name for name in _TELLING_FEATURES if name in present),
        gpus=_query_gpus(),
        os=_os_title(),
        python=platform.python_version(),
    )


def cpu_features() -> frozenset[str]:
    """Instruction sets of the processor, as the kernel spells them; empty where the system does not tell."""
    cpuinfo = _read_colon_file(_CPUINFO)
    return frozenset((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())


def has_multiplier(precision: Precision) -> bool:
    """Whether PyTorch multiplies matrices of that precision with the CPU's own instructions, as far as is told.

    Where not, its pace in that precision stands for nothing.
    """
    return precision not in _MULTIPLIERS or not _MULTIPLIERS[precision].isdisjoint(cpu_features())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tool_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a measurement, by distribution. Nothing is imported."""
    versions = {}
    of_backends = (name for backend in list_backends() for name in backend.package.names)
    for name in (*_DISTRIBUTIONS, *of_backends):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read_colon_file(path: Path) -> dict[str, str]:
    """First value of each `key: value` line; empty where the system has no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            pairs.setdefault(key.strip(), value.strip())
    return pairs


def memory_bytes() -> int:
    """Main memory; 0 if the system does not tell."""
    total = _read_colon_file(_MEMINFO).get("MemTotal", "")  # "16316412 kB"
    if total:
        return int(total.split()[0]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _query_gpus() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # nvidia-smi without a driver: a machine without a usable GPU
    return tuple(_gpu_title(line) for line in answer.stdout.splitlines() if line.count(",") == 3)


def _gpu_title(line: str) -> str:
    name, memory, driver, capability = (field.strip() for field in line.split(","))
    return f"{name}, {memory}, driver {driver}, sm{capability.replace('.', '')}"


def _os_title() -> str:
    try:
        release = platform.freedesktop_os_release()
        return f"{release.get('PRETTY_NAME', 'Linux')}, {platform.system()} {platform.release()}"
    except OSError:
        return f"{platform.system()} {platform.release()}"
