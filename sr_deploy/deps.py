"""Optional packages: imported when needed, and named with the command that installs them when absent."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sr_deploy.errors import MissingDependencyError


@dataclass(frozen=True)
class Package:
    """An optional package."""

    module: str
    """Name under which it is imported."""
    install: str
    """The command that brings it."""
    distributions: tuple[str, ...] = ()
    """Names under which it is published, the usual one first; empty: the module's."""
    reporter: str | None = None
    """Module that is imported along with it and tells its maker over the network that it is used, without asking. It is
    kept out."""
    purpose: str = ""
    """What it is for, as `sr-deploy doctor` says it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which it is published."""
        return self.distributions or (self.module,)


_OURS = "pip install sr-deploy"
_PACKAGES = {
    one.module: one
    for one in (
        Package("onnx", _OURS, purpose="exporting and reading graphs"),
        Package("onnxscript", _OURS, purpose="exporting graphs"),
        Package("polygraphy", _OURS, purpose="building TensorRT engines"),
        Package("safetensors", _OURS, purpose="reading and writing weights"),
        Package("pyvips", "pip install 'pyvips[binary]'", purpose="reading and writing pictures"),
        Package("av", "pip install av", purpose="reading and writing video"),
        Package(
            "skimage",
            "pip install scikit-image",
            ("scikit-image",),
            purpose="photographs for the demo, for verify and for bench",
        ),
        Package("tensorboard", "pip install 'sr-deploy[train]'", purpose="curves of a training run"),
        Package("wandb", "pip install 'sr-deploy[wandb]'"),
        Package("ray", "pip install 'sr-deploy[ray]'"),
        Package("ray.data", "pip install 'sr-deploy[ray]'", ("ray",)),
        Package("cryptography", "pip install 'sr-deploy[signing]'"),
    )
}
"""Those of no backend, which brings its own."""


def list_packages() -> tuple[Package, ...]:
    """What `sr-deploy doctor` looks for beside the backends' own."""
    return tuple(one for one in _PACKAGES.values() if one.purpose)


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def _find_package(package: Package | str) -> Package:
    return _PACKAGES[package] if isinstance(package, str) else package


def install_command(package: Package | str) -> str:
    """The command that brings a package, given by itself or by the name of one of those known here."""
    return _find_package(package).install


def installed_version(package: Package | str) -> str | None:
    """Version of a package, or None if it is absent. Nothing is imported.

    That of the distribution that brings it; where another one does (NVIDIA's containers, JetPack, wheels for another
    CUDA), what its source says.

    Args:
        package: itself, or the import name of one of those known here.
    """
    package = _find_package(package)
    for name in package.names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return _read_version(package.module)


def why_absent(package: Package) -> str | None:
    """That a package is not installed, with the command that brings it; None if it is there. Nothing is imported."""
    return None if is_installed(package.module) else f"{package.module} is not installed; run: {package.install}"


def _read_version(module: str, depth: int = 3) -> str | None:
    """`__version__` as a module's source assigns it, or that of the module that it imports it from."""
    spec = importlib.util.find_spec(module) if is_installed(module.partition(".")[0]) else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        body = ast.parse(Path(spec.origin).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str() as version)):
                return version
            case ast.ImportFrom(module=str() as other, names=names, level=0) if depth and any(
                one.name == "__version__" for one in names
            ):
                return _read_version(other, depth - 1)
    return None


def require(package: Package | str, purpose: str) -> ModuleType:
    """Import a package, or say what is missing. What it would report about its use is not sent.

    Args:
        package: itself, or the import name of one of those known here.
        purpose: what it is needed for, as in "training shows its curves in TensorBoard with it".

    Raises:
        MissingDependencyError: absent, or present and broken; the message has the command that installs it.
    """
    package = _find_package(package)
    try:
        with _unreported(package):
            return importlib.import_module(package.module)
    except ImportError as error:
        found = "is not installed" if not is_installed(package.module) else f"does not load ({error})"
        raise MissingDependencyError(
            f"{purpose} needs {package.module}, which {found}; run: {package.install}"
        ) from error


@contextlib.contextmanager
def _unreported(package: Package) -> Iterator[None]:
    """Let its reporter look absent while a package is imported for the first time."""
    reporter = package.reporter
    if reporter is None or package.module in sys.modules:
        yield
        return
    before = sys.modules.pop(reporter, None)
    sys.modules[reporter] = None  # type: ignore[assignment] # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[reporter]
        if before is not None:
            sys.modules[reporter] = before
