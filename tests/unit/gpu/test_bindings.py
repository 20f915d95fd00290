"""What sr-deploy calls of NVIDIA's is in the bindings: TensorRT 10.13 and 11.4 as recorded, RTX as installed.

The stub SDK stands between: what the code calls on objects is in the stub, or its tests fail, and what is in the stub
is here held against the real names, with the names of parameters.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gpu import stub_sdk
from tests.unit.gpu.record_bindings import describe

ROOT = Path(__file__).parents[3] / "sr_deploy"
RECORDED = sorted((Path(__file__).parent / "bindings").glob("*.json"))
RTX = {"ComputeCapability", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "IRuntimeCache"}
"""Classes of TensorRT-RTX alone; the code looks for them before it uses them, or knows which SDK it has."""
RTX_MEMBERS = {
    ("IRuntimeConfig", name)
    for name in (
        "create_runtime_cache",
        "set_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    )
}
Names = dict[str, dict[str, list[str]]]


@pytest.fixture(params=["10.13", "11.4", "rtx"])
def bindings(request: pytest.FixtureRequest) -> tuple[bool, Names]:
    """Whether they are of TensorRT-RTX, and their names."""
    if request.param == "rtx":
        return True, describe(pytest.importorskip("tensorrt_rtx"))
    (path,) = (path for path in RECORDED if f"bindings-{request.param}." in path.name)
    names: Names = json.loads(path.read_text())
    return False, names


def stub_classes() -> dict[str, type]:
    named = vars(stub_sdk).items()
    return {name: kind for name, kind in named if inspect.isclass(kind) and kind.__module__ == stub_sdk.__name__}


def test_what_the_stub_has_is_in_the_bindings(bindings: tuple[bool, Names]) -> None:
    rtx, real = bindings
    assert not (real.keys() & RTX if not rtx else RTX - real.keys())
    checked = 0
    for name, kind in stub_classes().items():
        if name == "Stub" or (name in RTX and not rtx):
            continue
        members = [*kind.__members__] if issubclass(kind, enum.Enum) else list_members(kind)
        for member in members:
            if (name, member) in RTX_MEMBERS and not rtx:
                assert member not in real[name]
                continue
            assert member in real[name], f"{name}.{member}"
            checked += 1
    assert checked > 30


def list_members(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


def test_parameters_have_the_names_of_the_bindings(bindings: tuple[bool, Names]) -> None:
    rtx, real = bindings
    checked = 0
    for name, kind in stub_classes().items():
        for member, function in vars(kind).items():
            known = name in real and (rtx or (name, member) not in RTX_MEMBERS)
            if not inspect.isfunction(function) or member.startswith("_") or not known or name == "Stub":
                continue
            mine = [*inspect.signature(function).parameters][1:]
            theirs = [re.findall(r"[(,] *(\w+):", signature)[1:] for signature in real[name][member]]
            assert mine in theirs, f"{name}.{member}: {mine} is none of {theirs}"
            checked += 1
    assert checked >= 18


def list_calls() -> set[tuple[str, ...]]:
    """Names after `sdk.`, and members of what a function says to be a class of the SDK, in all sources."""
    found: set[tuple[str, ...]] = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ("openvino" not in path.parts):
                names = ast.unparse(node).split(".")
                if names[0] == "sdk" and not names[1].startswith("__"):
                    found.add(tuple(names[1:3]))
            if isinstance(node, ast.FunctionDef):
                found |= set(list_members_used(node))
    return found


def list_members_used(function: ast.FunctionDef) -> Any:
    for argument in (*function.args.args, *function.args.kwonlyargs):
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if kind.startswith("trt."):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == argument.arg:
                    yield kind.split(".")[1], node.attr


def test_what_the_sources_name_is_in_the_bindings(bindings: tuple[bool, Names]) -> None:
    rtx, real = bindings
    calls = list_calls()
    assert ("ICudaEngine", "create_runtime_config") in calls
    assert len(calls) > 35
    missing = {
        call
        for call in calls
        if call[0] not in real or (len(call) > 1 and call[1] not in real[call[0]] and call[1] != "__members__")
    }
    lacking = {call for call in calls if call[0] in RTX or call in RTX_MEMBERS}
    assert missing == (set() if rtx else lacking)


def test_which_sdk_it_is_is_told_by_a_name_that_the_other_lacks(bindings: tuple[bool, Names]) -> None:
    """`make_context` asks for it."""
    rtx, real = bindings
    assert ("CudaGraphStrategy" in real) == rtx


def test_memory_of_the_users_is_taken_by_both_kinds_of_contexts(bindings: tuple[bool, Names]) -> None:
    _, real = bindings
    context = real["IExecutionContext"]
    assert re.search(r"memory: [\w.]+, size: [\w.]+\) -> None", context["set_device_memory"][0])
    wanted = real["ICudaEngine"]["create_execution_context"]
    assert any("strategy: ExecutionContextAllocationStrategy" in signature for signature in wanted)
    assert any("runtime_config: IRuntimeConfig" in signature for signature in wanted)
