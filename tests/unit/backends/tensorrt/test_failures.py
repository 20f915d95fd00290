"""Builds that fail for every reason that can be provoked here: the message says which, the bundle is untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from sr_deploy.backends import builders
from sr_deploy.backends.tensorrt.explain import FAILURE_MARK, explain_failure
from sr_deploy.backends.tensorrt.progress import PROGRESS_MARK
from sr_deploy.bundle import EngineOptions, Profile, parse_profile
from sr_deploy.cli import main
from sr_deploy.engine.bundle import build_engines
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError, InputError, SrDeployError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
CAPABILITIES = ("sm89",)


def list_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(make_bundle, tmp_path_factory):
    """A bundle with an engine, and its files."""
    bundle = make_bundle("compact-x4", tmp_path_factory.mktemp("failures"))
    build_engines(bundle, "tensorrt-rtx", compute_capabilities=CAPABILITIES)
    return bundle, list_files(bundle.path)


def fail(bundle, **changes) -> SrDeployError:
    wanted = {"backend": "tensorrt-rtx", "compute_capabilities": CAPABILITIES, **changes}
    with pytest.raises(SrDeployError) as caught:
        build_engines(bundle, **wanted)
    assert "\n" not in str(caught.value)
    return caught.value


def make_odd_graph(path: Path) -> None:
    """A convolution and then an operator that no SDK knows."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"]) for name in ("lr", "sr")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 1, 1], [0.5] * 9)
    nodes = [
        helper.make_node("Conv", ["lr", "w"], ["conv"], name="conv_0"),
        helper.make_node("Sharpen", ["conv"], ["sr"], domain="com.example", name="sharpen_7"),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@needs_rtx
def test_an_unsupported_layer_is_named_with_its_onnx_node(make_bundle, tmp_path):
    make_odd_graph(tmp_path / "odd.onnx")
    bundle = make_bundle("compact-x4", tmp_path, graph=tmp_path / "odd.onnx")
    before = list_files(bundle.path)
    error = fail(bundle)
    assert isinstance(error, BackendError)
    assert str(error).startswith(
        "tensorrt-rtx could not build an engine from model.fp32.onnx: it does not take the ONNX node 'sharpen_7' "
        "(Sharpen): "
    )
    assert list_files(bundle.path) == before


@needs_rtx
def test_too_little_workspace_names_the_option_and_the_shape(built):
    bundle, before = built
    profiles = (parse_profile("tile=1x8x8,1x16x16,1x32x32"), parse_profile("batch=1x8x8,4x32x32,4x64x64"))
    error = fail(bundle, options=EngineOptions(workspace_gib=1e-5), profiles=profiles)
    assert "no kernel fits a workspace of 1e-05 GiB; raise --workspace" in str(error)
    assert "lower the largest shape, 4x64x64 of profile 'batch'" in str(error)
    assert list_files(bundle.path) == before


@needs_rtx
def test_a_profile_beyond_the_sdks_limits_is_no_engine(built, monkeypatch):
    # 128 GiB a tensor is our own limit; beyond, the SDK warns and gives an engine that cannot run its largest shape
    monkeypatch.setattr("sr_deploy.engine.place.check_profiles", lambda profiles, arch: None)
    bundle, before = built
    error = fail(bundle, profiles=(parse_profile("huge=1x8x8,1x16x16,1024x65536x65536"),))
    assert "a tensor is beyond TensorRT's limit; lower the largest shape, 1024x65536x65536 of profile 'huge'" in str(
        error
    )
    assert list_files(bundle.path) == before


@needs_rtx
def test_an_unsupported_gpu_is_refused_with_those_that_are_supported(built):
    bundle, before = built
    error = fail(bundle, compute_capabilities=("9.0",))
    assert isinstance(error, InputError)
    assert "tensorrt-rtx does not build for compute capability 'sm90'; known: sm75 (Turing), " in str(error)
    assert "sm89 (Ada)" in str(error)
    assert "sm120 (Blackwell RTX)" in str(error)
    assert "for other GPUs there is the backend tensorrt" in str(error)
    assert list_files(bundle.path) == before
    with pytest.raises(BackendError, match=r"NVIDIA H200 \(sm90\); it runs on sm75 \(Turing\), "):
        builders.check_gpu("tensorrt-rtx", Gpu("NVIDIA H200", "sm90"))
    builders.check_gpu("tensorrt-rtx", Gpu("NVIDIA L4", "sm89"))


def run_blocked(bundle: Path, code: str) -> subprocess.CompletedProcess[str]:
    arguments = ["build", str(bundle), "--backend", "tensorrt-rtx"]
    script = f"{textwrap.dedent(code)}\nfrom sr_deploy.cli import main\nraise SystemExit(main({arguments!r}))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@needs_rtx
def test_a_missing_library_comes_with_the_command_that_installs_it(built):
    bundle, before = built
    blocked = """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "tensorrt_rtx" else find(name, package)
    """
    done = run_blocked(bundle.path, blocked)
    assert done.returncode == 1
    assert "tensorrt_rtx is not installed; run: pip install 'sr-deploy[rtx]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list_files(bundle.path) == before


@needs_rtx
def test_a_library_that_does_not_load_comes_with_the_command_too(tmp_path):
    # The package is there, a shared library of it is not: its import ends in an OSError, as ctypes gives it.
    package = tmp_path / "tensorrt_rtx"
    package.mkdir()
    (package / "__init__.py").write_text("import ctypes\nctypes.CDLL('libnowhere.so.1')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from sr_deploy.backends.registry import get_builder\nget_builder('tensorrt-rtx').select_sdk()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "sr_deploy.errors.MissingDependencyError: the tensorrt-rtx backend needs tensorrt_rtx, which"
    )
    assert "libnowhere.so.1" in last
    assert last.endswith("run: pip install 'sr-deploy[rtx]'")


def find_worker() -> int | None:
    """Process of the builder that this process has started."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"sr_deploy.backends.tensorrt.build_worker" in command:
            return int(status.parent.name)
    return None


@needs_rtx
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the builder's process in /proc")
def test_a_killed_builder_takes_nothing_with_it(built):
    bundle, before = built
    killed = []

    def kill(_: object) -> None:
        worker = find_worker()
        if worker is not None and not killed:
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    error = fail(bundle, options=EngineOptions(optimization_level=1), on_progress=kill)
    assert killed
    assert "the builder was ended by SIGKILL, perhaps for want of memory" in str(error)
    assert "lower the largest shape, 1x32x32 of profile 'tile'" in str(error)
    assert list_files(bundle.path) == before
    assert find_worker() is None


@needs_rtx
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the builder's process in /proc")
def test_an_interrupted_build_leaves_no_builder_behind(built):
    bundle, before = built

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(
            bundle,
            "tensorrt-rtx",
            compute_capabilities=CAPABILITIES,
            options=EngineOptions(optimization_level=2),
            on_progress=interrupt,
        )
    assert find_worker() is None
    assert list_files(bundle.path) == before


@needs_rtx
def test_the_command_refuses_what_the_backend_lacks_and_touches_nothing(built, capsys):
    bundle, before = built
    arguments = ["build", str(bundle.path), "--backend", "tensorrt-rtx"]
    assert main([*arguments, "--version-compatible"]) == 1
    assert "tensorrt-rtx has no --version-compatible" in capsys.readouterr().err
    assert main([*arguments, "--workspace", "0"]) == 1
    assert "workspace_gib of the builder is 0" in capsys.readouterr().err
    assert main([*arguments, "--optimization-level", "9"]) == 2
    assert main(["build", str(bundle.path), "--backend", "none"]) == 1
    assert "has nothing to do" in capsys.readouterr().err
    assert list_files(bundle.path) == before


def request() -> EngineRequest:
    profiles: tuple[Profile, ...] = (parse_profile("tile=1x8x8,1x16x16,2x32x32"),)
    return EngineRequest(
        graph=Path("g.onnx"), graph_sha256="0" * 64, precision="fp32", backend="tensorrt-rtx", profiles=profiles
    )


LOWER = "lower the largest shape, 2x32x32 of profile 'tile', and upscale in tiles"


@pytest.mark.parametrize(
    ("returncode", "output", "expected"),
    [
        (-9, "", f"the builder was ended by SIGKILL, perhaps for want of memory ({LOWER}); its last lines: none"),
        (-11, "a\n", "the builder was ended by SIGSEGV; its last lines: a"),
        (3, "a\n\nb\nc\nd\n", "the builder ended with code 3; its last lines: b | c | d"),
        (1, f"[I] reading\n{FAILURE_MARK}no parser\n", "no parser"),
        (1, f"[E] line one\n{PROGRESS_MARK}[]\n{FAILURE_MARK}no parser\n", "no parser (line one)"),
        (
            1,
            f"[E] Requested amount of GPU memory could not be allocated: out of memory\n{FAILURE_MARK}Invalid Engine\n",
            f"out of memory; {LOWER} (Requested amount of GPU memory could not be allocated: out of memory)",
        ),
        (
            1,
            "[W] Tactic Device request: 4096MB Available: 2048MB. Skipping tactic 3 due to insufficient memory on "
            f"requested size\n[W] some tactics: insufficient workspace\n[E] no such weights\n{FAILURE_MARK}no engine\n",
            "no engine (no such weights)",
        ),
        (-9, "[W] Skipping tactic 3 due to insufficient memory\n[E] last words\n", None),
    ],
)
def test_failures_become_one_line(returncode, output, expected):
    expected = expected or (
        f"the builder was ended by SIGKILL, perhaps for want of memory ({LOWER}); its last lines: last words"
    )
    assert explain_failure(returncode, output, request()) == expected


def test_crash_of_the_builder_is_explained():
    crash = subprocess.run(
        [sys.executable, "-c", "import os, sys; print('[E] out of tactics', file=sys.stderr, flush=True); os.abort()"],
        capture_output=True,
        text=True,
        check=False,
    )
    reason = explain_failure(crash.returncode, crash.stdout + crash.stderr, request())
    assert reason == "the builder was ended by SIGABRT; its last lines: out of tactics"
