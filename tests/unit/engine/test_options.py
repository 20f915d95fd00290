"""Settings of the builder: those that a backend has reach it, those it lacks are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from sr_deploy.backends import builders
from sr_deploy.backends.tensorrt.build_worker import BuildJob
from sr_deploy.bundle import EngineOptions, EnginePlan, parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.bundle import check_plan
from sr_deploy.engine.request import EngineRequest, check_options, option_of
from sr_deploy.errors import BackendError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu, visible_gpus

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
PROFILES = (
    parse_profile("tile=1x8x8,1x16x24,2x64x64"),
    parse_profile("frame=1x72x128,1x72x128,1x72x128"),
    parse_profile("batch=1x8x8,4x16x16,8x16x16"),
)


def request_for(graph, **changes):
    fields = {
        "graph": graph,
        "graph_sha256": sha256_of(graph),
        "precision": "fp32",
        "backend": "tensorrt-rtx",
        "profiles": PROFILES,
        "compute_capabilities": ("sm89",),
    }
    return EngineRequest.model_validate({**fields, **changes})


# What the SDK's own objects say after `make_config`, in a process of its own as SDKs want it.
_READ_BACK = """
    import json, sys
    from sr_deploy.backends.registry import get_builder
    from sr_deploy.backends.tensorrt import build_worker as worker

    job = worker.BuildJob.model_validate_json(sys.stdin.read())
    sdk = get_builder("tensorrt-rtx").select_sdk()
    builder, network, parser = worker.parse_graph(sdk, job.request.graph)
    graph_input = network.get_input(0)
    config = worker.make_config(sdk, job, graph_input)(builder, network)
    shapes = {}
    for profile in job.request.profiles:
        built = worker.to_sdk_profile(sdk, profile, graph_input).to_trt(builder, network)
        shapes[profile.name] = [list(shape) for shape in built.get_shape(graph_input.name)]
    print(json.dumps({
        "input": graph_input.name,
        "shapes": shapes,
        "profiles": config.num_optimization_profiles,
        "level": config.builder_optimization_level,
        "workspace": config.get_memory_pool_limit(sdk.MemoryPoolType.WORKSPACE),
        "tf32": config.get_flag(sdk.BuilderFlag.TF32),
        "strip": config.get_flag(sdk.BuilderFlag.STRIP_PLAN),
        "refit": config.get_flag(sdk.BuilderFlag.REFIT),
        "version": config.get_flag(sdk.BuilderFlag.VERSION_COMPATIBLE),
        "hardware": config.hardware_compatibility_level.name,
        "capability": config.get_compute_capability(0).name,
    }))
"""


def read_back(request, tmp_path):
    job = BuildJob(request=request, engine=tmp_path / "engine", report=tmp_path / "report")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_READ_BACK)],
        input=job.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


@needs_rtx
def test_every_setting_and_the_very_shapes_reach_the_sdk(exported, tmp_path):
    options = EngineOptions(
        tf32=True, optimization_level=2, workspace_gib=1.5, strip_weights=True, refittable=True, version_compatible=True
    )
    seen = read_back(request_for(exported("compact-x4").path, options=options), tmp_path)
    assert seen["shapes"] == {  # min, opt, max
        "tile": [[1, 3, 8, 8], [1, 3, 16, 24], [2, 3, 64, 64]],
        "frame": [[1, 3, 72, 128]] * 3,
        "batch": [[1, 3, 8, 8], [4, 3, 16, 16], [8, 3, 16, 16]],
    }
    assert (seen["input"], seen["profiles"], seen["level"], seen["workspace"]) == ("lr", 3, 2, 3 * 2**29)
    assert all(seen[name] for name in ("tf32", "strip", "refit", "version"))
    assert seen["capability"] == "SM89"


@needs_rtx
def test_nothing_is_on_that_was_not_asked_for(exported, tmp_path):
    seen = read_back(request_for(exported("compact-x4").path), tmp_path)
    assert not any(seen[name] for name in ("tf32", "strip", "refit", "version"))
    assert seen["hardware"] == "NONE"


@needs_rtx
def test_an_engine_is_built_with_three_profiles_a_level_and_a_workspace(exported):
    options = EngineOptions(optimization_level=5, workspace_gib=2)
    built = build_engine(request_for(exported("compact-x4").path, options=options))
    assert (built.record.flags["optimization_level"], built.record.flags["workspace_gib"]) == ("5", "2.0")
    assert built.record.profiles == PROFILES
    assert built.timing_cache is None  # TensorRT-RTX keeps none


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("version_compatible", "its engines run on the release that built them alone"),
        ("hardware_compatible", "name the GPUs with --compute-capability instead"),
    ],
)
def test_what_tensorrt_rtx_lacks_is_refused_by_name(name, instead):
    options = EngineOptions.model_validate({name: True})
    with pytest.raises(InputError, match=f"tensorrt-rtx has no {option_of(name)}: {instead}"):
        check_options("tensorrt-rtx", options)
    check_options("tensorrt", options)
    with pytest.raises(InputError, match=option_of(name)):
        check_plan(EnginePlan.model_validate({name: True, "backend": "tensorrt-rtx"}))
    check_plan(EnginePlan.model_validate({name: True, "backend": "auto"}))


@pytest.mark.skipif(bool(visible_gpus()), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["strip_weights", "refittable"])
def test_what_takes_a_gpu_is_refused_where_there_is_none(name):
    options = EngineOptions.model_validate({name: True})
    with pytest.raises(BackendError, match=rf"with {option_of(name)} only where there is an RTX GPU"):
        check_options("tensorrt-rtx", options)
    check_plan(EnginePlan.model_validate({name: True, "backend": "tensorrt-rtx"}))  # another machine can


def test_capabilities_with_tensorrt_are_refused_before_anything_is_made():
    with pytest.raises(InputError, match="tensorrt builds for the GPU it runs on alone"):
        check_plan(EnginePlan(backend="tensorrt", compute_capabilities=("sm89",)))


def test_values_out_of_range_are_input_errors():
    with pytest.raises(InputError, match=r"workspace_gib of the builder is -1: .* greater than 0"):
        EngineOptions().with_options(workspace_gib=-1)
    with pytest.raises(InputError, match="optimization_level of the builder is 6"):
        EngineOptions().with_options(optimization_level=6)


def test_what_is_asked_for_comes_before_what_stood_there():
    plan = EnginePlan(optimization_level=4, refittable=True, backend="tensorrt")
    options = plan.with_options(optimization_level=0, workspace_gib=None, strip_weights=True, refittable=False)
    assert options == EngineOptions(optimization_level=0, refittable=True, strip_weights=True)


def test_timing_caches_are_named_by_builder_and_gpu(exported, monkeypatch):
    request = request_for(exported("compact-x4").path, compute_capabilities=())
    assert request.timing_cache_name() is None
    monkeypatch.setattr(builders, "sdk_version", lambda backend: "11.4.0.106")
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (Gpu("NVIDIA H200 NVL", "sm90"),))
    name = request.model_copy(update={"backend": "tensorrt"}).timing_cache_name()
    assert name == "tensorrt-11.4.0.106-NVIDIA-H200-NVL.timing"


@needs_rtx
def test_the_worker_reads_and_writes_a_timing_cache(exported, tmp_path):
    # TensorRT-RTX's cache is there in name only, but the calls are the data-center SDK's.
    request = request_for(exported("compact-x1").path)
    job = BuildJob(
        request=request, engine=tmp_path / "engine", report=tmp_path / "report", timing_cache=tmp_path / "timing"
    )
    sizes = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-m", "sr_deploy.backends.tensorrt.build_worker"],
            input=job.model_dump_json(),
            text=True,
            check=True,
        )
        sizes.append((tmp_path / "timing").stat().st_size)
    assert sizes[0] == sizes[1]
    assert (tmp_path / "report").is_file()
