"""Records the names and signatures of an SDK's Python bindings, for tests of machines that do not have that SDK.

    python -m tests.unit.gpu.record_bindings tensorrt-cu13-bindings 11.4.0.106 tests/unit/gpu/bindings

The wheel holds the bindings alone, 1 MiB. They open three libraries of NVIDIA's, of many gigabytes, which are not
needed to look: libraries that are made here with the C compiler, with the few functions that the bindings ask for, do.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

STUB = Path(__file__).with_name("stub_sdk.py")

_FUNCTIONS = (
    *(f"create{kind}_INTERNAL" for kind in ("InferBuilder", "InferRefitter", "InferRuntime", "NvOnnxParser")),
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_SOURCES = Path(__file__).parents[3] / "sr_deploy"


def describe(sdk: ModuleType) -> dict[str, dict[str, list[str]]]:
    """Classes whose names stand in the sources, their members, and the signatures that their documentation tells."""
    words = set(re.findall(r"\w+", "".join(path.read_text() for path in [*_SOURCES.rglob("*.py"), STUB])))
    kinds = {name: kind for name, kind in vars(sdk).items() if inspect.isclass(kind) and name in words}
    return {name: _describe_class(kind) for name, kind in sorted(kinds.items())}


def _describe_class(kind: type) -> dict[str, list[str]]:
    names = sorted(name for name in set(dir(kind)) - set(dir(object)) if not name.startswith("_"))
    return {name: _read_signatures(kind, name) for name in [*names, "__init__"]}


def _read_signatures(kind: type, name: str) -> list[str]:
    lines = (getattr(getattr(kind, name), "__doc__", None) or "").splitlines()
    told = [re.sub(r"^\d+\. ", "", line.strip()) for line in lines if f"{name}(self: " in line]
    return [re.sub(r"\w+(\.\w+)+\.(?=[A-Z])", "", line) for line in told]


def record(package: str, version: str) -> str:
    """`describe` of the bindings in a wheel, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
        (place / "stub.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
        for library in _LIBRARIES:
            target = f"lib{library}.so.{version.partition('.')[0]}"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", target, "stub.c"], cwd=folder, check=True)
        done = subprocess.run(
            [sys.executable, "-m", "tests.unit.gpu.record_bindings", "--describe"],
            env=os.environ | {"LD_LIBRARY_PATH": folder, "PYTHONPATH": os.pathsep.join((folder, *sys.path))},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return done.stdout


if __name__ == "__main__":
    if sys.argv[1:] == ["--describe"]:
        found = describe(importlib.import_module("tensorrt_bindings"))
        print(json.dumps(found, indent=0))
    else:
        path = Path(sys.argv[3]) / f"{sys.argv[1]}-{sys.argv[2]}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(record(sys.argv[1], sys.argv[2]))
