from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import GraphError, VerificationError
from sr_deploy.export.int8 import task as task_module
from sr_deploy.export.int8.bundle import Calibration, load_quantized_source, write_int8_graph
from sr_deploy.export.int8.execute import choose_engine, open_graph
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.placement import Candidate
from sr_deploy.export.int8.quantization_loss import Loss
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.search import Point, rank_candidates, search_share
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.files import sha256_of
from sr_deploy.graph.read import describe_graph_cost, read_graph
from sr_deploy.model import open_model
from sr_deploy.verification.audit import Terms, audit_graph

pytestmark = pytest.mark.xdist_group("int8")  # one process calibrates for all

LAX = {"max_drop_db": 50.0, "max_pixel_error": 1.0}


def lax(options: Int8Options, **changes: object) -> Int8Options:
    return options.model_copy(update={**LAX, **changes})


def test_the_graph_is_what_the_report_says(trained, quick, tmp_path):
    path = tmp_path / "model.int8.onnx"
    report = make_int8_graph(trained[1], path, quick)
    info, cost = read_graph(path), describe_graph_cost(path)
    assert (info.precision, info.input_dtype, info.metadata["sr_deploy.precision"]) == ("int8", "float32", "int8")
    assert cost.precision_share["int8"] == pytest.approx(report.share)
    assert cost.precision_share["fp16"] == pytest.approx(1 - report.share)
    assert "fp32" not in cost.precision_share
    assert report.passed
    assert report.drop_db <= 0.05
    assert [point.share for point in report.curve] == sorted((point.share for point in report.curve), reverse=True)
    assert sum(layer.share or 0 for layer in report.layers if layer.precision == "int8") == pytest.approx(report.share)
    # The fewer layers are INT8, the nearer it is to FP32.
    assert report.curve[-1].psnr_fp32_db > report.curve[0].psnr_fp32_db
    lr = np.random.default_rng(0).random((1, 3, 40, 36), dtype=np.float32)
    expected = open_graph(onnx.load(trained[1]), "onnxruntime")(lr)["sr"]
    error = np.mean(
        (np.clip(open_graph(onnx.load(path), "onnxruntime")(lr)["sr"], 0, 1) - np.clip(expected, 0, 1)) ** 2
    )
    assert 30 < -10 * np.log10(error) < 90


def test_corrected_biases_move_by_no_more_than_quantizing_can_cost(write_gentle_network, quick, tmp_path):
    """Feature maps of a few hundredths: OpenVINO's own error is there many times the shift that is to be corrected."""
    model = open_model(write_gentle_network(tmp_path / "gentle.safetensors", 24, 4))
    fp32, path = tmp_path / "model.fp32.onnx", tmp_path / "model.int8.onnx"
    export_network_to_onnx(model.load_network(), model.arch, fp32, "5" * 64)
    written = write_int8_graph(fp32, path, lax(quick, bias_correction="on"), Calibration())
    assert len(written.report.shifts) == 5
    source = load_quantized_source(fp32, tmp_path / written.record.report.file)
    terms = Terms("int8", search=written.report)
    assert audit_graph(path, source, "the FP32 graph", terms).findings == ()


def test_the_same_again_gives_the_same_bytes(trained, quick, tmp_path, monkeypatch):
    for name in ("a", "b"):
        monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / f"cache-{name}"))
        report = make_int8_graph(trained[1], tmp_path / f"{name}.onnx", quick)
        (tmp_path / f"{name}.json").write_text(report.model_dump_json())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_calibration_is_kept_and_a_damaged_one_measured_again(trained, quick, tmp_path, own_cache, said):
    report = make_int8_graph(trained[1], tmp_path / "a.onnx", quick)
    (kept,) = (own_cache / "calibration").glob("*.json")
    assert any("calibrate 4 convolutions" in line for line in said)
    said.clear()
    again = make_int8_graph(trained[1], tmp_path / "b.onnx", quick)
    assert any("calibrated before" in line for line in said)
    assert not any("calibrate 4 convolutions" in line for line in said)
    assert again == report
    assert sha256_of(tmp_path / "a.onnx") == sha256_of(tmp_path / "b.onnx")
    # Another setting is another calibration; a budget is none.
    make_int8_graph(trained[1], tmp_path / "b.onnx", lax(quick))
    assert len(list(kept.parent.glob("*.json"))) == 1
    make_int8_graph(trained[1], tmp_path / "b.onnx", lax(quick, method="max"))
    assert len(list(kept.parent.glob("*.json"))) == 2
    content = kept.read_text()
    kept.write_text(content[: len(content) // 2])
    said.clear()
    make_int8_graph(trained[1], tmp_path / "c.onnx", quick)
    assert any("is damaged; measured again" in line for line in said)
    assert kept.read_text() == content
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_a_budget_that_cannot_be_met_is_refused_with_the_figures(trained, quick, tmp_path):
    strict = quick.model_copy(update={"max_pixel_error": 1e-6})
    path = tmp_path / "model.int8.onnx"
    with pytest.raises(VerificationError, match=r"budget \(0\.05 dB lost, 1e-06 .* dB are lost .* --force") as caught:
        make_int8_graph(trained[1], path, strict)
    assert caught.value.exit_code == 3
    assert list(tmp_path.glob("*.onnx")) == []
    report = make_int8_graph(trained[1], path, strict, force=True)
    assert (report.passed, report.forced, path.is_file()) == (False, True, True)
    assert report.share == report.curve[0].share  # all that may be INT8
    assert not any(point.fits for point in report.curve)


def test_a_tighter_budget_leaves_layers_out(trained, quick, tmp_path):
    wide = make_int8_graph(trained[1], tmp_path / "a.onnx", lax(quick))
    worst = [point.visible for point in wide.curve]
    limit = (worst[0] + worst[-1]) / 2
    tight = make_int8_graph(trained[1], tmp_path / "a.onnx", lax(quick, max_pixel_error=limit))
    assert tight.share < wide.share
    assert tight.visible <= limit
    left_out = [layer for layer in tight.layers if layer.why == "left out to meet the budget"]
    inside = [layer for layer in tight.layers if layer.precision == "int8"]
    assert left_out
    assert min(layer.error / layer.share for layer in left_out) >= max(layer.error / layer.share for layer in inside)


def test_the_search_is_decided_by_the_upper_end():
    candidates = [Candidate(name, name, 0.1) for name in "abcdefghij"]
    drops = dict.fromkeys(range(10), 0.03)
    errors = {0: 0.02, 1: 0.018, 2: 0.015, 3: 0.012, 4: 0.011, 5: 0.009}  # 0.03 dB known to 0.02 is too much

    def measure(left_out):
        count = len(left_out)
        loss = Loss(40, drops[count], 0, errors.get(count, 0.001), visible=0.1)
        return Point(tuple(one.name for one in left_out), 1 - 0.1 * count, loss)

    result = search_share(candidates, measure, Int8Options(curve_points=1))
    assert result.chosen is not None
    assert result.chosen.kept == ("a", "b", "c", "d", "e")
    assert [len(point.kept) for point in result.points] == [0, 1, 2, 4, 5, 6, 8]  # doubled, then halved
    few = search_share(candidates, measure, Int8Options(curve_points=1, min_share=0.7))
    assert [len(point.kept) for point in few.points] == [0, 1, 2, 3]  # 3 is the last that leaves 70 %
    assert few.chosen is None
    drops |= dict.fromkeys(range(10), float("nan"))
    assert search_share(candidates, measure, Int8Options()).chosen is None
    drops |= dict.fromkeys(range(10), -0.01)
    best = search_share(candidates, measure, Int8Options(curve_points=3))
    assert best.chosen is not None
    assert (best.chosen.kept, len(best.points)) == ((), 3)  # nothing is left out, and the curve has its points


def test_ranking_is_by_error_for_each_multiply_add():
    candidates = [Candidate("small", "x", 0.1), Candidate("large", "y", 0.4), Candidate("twin", "z", 0.1)]
    ranked = rank_candidates(candidates, {"small": 2.0, "large": 4.0, "twin": 2.0})
    assert [one.name for one in ranked] == ["small", "twin", "large"]


def test_biases_are_corrected_where_it_helps(trained, quick, tmp_path):
    def report_for(correction: str):
        return make_int8_graph(trained[1], tmp_path / "a.onnx", lax(quick, bias_correction=correction))

    auto, on, off = (report_for(correction) for correction in ("auto", "on", "off"))
    assert set(auto.corrections) == {"on", "off"}
    helps = auto.corrections["on"][0] <= auto.corrections["off"][0]
    assert auto.shifts == (on.shifts if helps else {})
    assert on.shifts.keys() == {layer.name for layer in on.layers if layer.precision == "int8"}
    assert off.shifts == {}
    assert auto.drop_db == pytest.approx((on if helps else off).drop_db)


def test_correction_takes_the_mean_error_of_a_layer_away(trained, quick):
    from sr_deploy.export.int8.calibration import correct_biases, measure_ranges, measure_shifts, quantize_layers
    from sr_deploy.export.int8.placement import place_quantization

    task = task_module.make_task(trained[1], Path("unused"), quick, calibration=None, keep_fp32=())
    placement = place_quantization(task.model)
    limits = measure_ranges(task.model, placement, task.stream_inputs, quick, task.engine)
    layers = quantize_layers(task.model, placement, limits, quick)
    before = measure_shifts(task.model, layers, task.stream_inputs, task.engine)
    after = measure_shifts(task.model, correct_biases(layers, before), task.stream_inputs, task.engine)
    for name, shift in before.items():
        assert np.abs(shift).max() > 1e-5
        assert np.abs(after[name]).max() < 1e-2 * np.abs(shift).max() + 1e-6


@pytest.mark.parametrize("name", ["compact-x2-gray", "rrdbnet-x2", "srresnet-x4"])
@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_gray_and_unshuffled_networks(exported, quick, tmp_path, name, rest):
    path = tmp_path / "model.int8.onnx"
    report = make_int8_graph(exported(name).path, path, lax(quick, rest=rest, search_crops=1, gate_crops=1, crops=2))
    share = describe_graph_cost(path).precision_share
    assert share["int8"] == pytest.approx(report.share)
    assert set(share) == {"int8", rest}
    info = read_graph(path)
    lr = np.random.default_rng(1).random((2, info.channels, 12, 8), dtype=np.float32)
    sr = open_graph(onnx.load(path), "onnxruntime")(lr)["sr"]
    expected = open_graph(onnx.load(exported(name).path), "onnxruntime")(lr)["sr"]
    assert np.abs(sr - expected).max() < 0.3 * np.ptp(expected)
    if choose_engine() == "openvino":
        assert np.abs(open_graph(onnx.load(path), "openvino")(lr)["sr"] - sr).max() < 0.05 * np.ptp(expected)


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(("name", "per_channel"), [("compact-x4", False), ("rrdbnet-x4", True), ("msrresnet-x4", True)])
def test_rtx_builds_it(exported, quick, tmp_path, name, per_channel):
    path = tmp_path / "model.int8.onnx"
    options = lax(quick, per_channel=per_channel, search_crops=1, gate_crops=1, crops=2, curve_points=2)
    report = make_int8_graph(exported(name).path, path, options)
    request = {
        "graph": path,
        "graph_sha256": sha256_of(path),
        "precision": "int8",
        "backend": "tensorrt-rtx",
        "profiles": (parse_profile("tile=1x16x16,1x32x32,1x64x64"),),
        "compute_capabilities": ("sm86",),
    }
    built = build_engine(EngineRequest.model_validate(request))
    assert built.record.multiply_add_shares["int8"] == pytest.approx(report.share)
    assert set(built.record.multiply_add_shares) == {"int8", "fp16"}


def test_onnxruntime_alone_does_it_too(trained, quick, tmp_path, monkeypatch):
    report = make_int8_graph(trained[1], tmp_path / "a.onnx", quick)
    monkeypatch.setattr(task_module, "choose_engine", lambda _: "onnxruntime")
    other = make_int8_graph(trained[1], tmp_path / "b.onnx", quick)
    assert other.measured_with.startswith("onnxruntime ")
    assert other.share == pytest.approx(report.share)
    assert other.psnr_fp32_db == pytest.approx(report.psnr_fp32_db, abs=0.5)


def test_the_search_is_drawn(trained, quick, tmp_path):
    report = make_int8_graph(trained[1], tmp_path / "a.onnx", quick)
    assert report.picture == "int8-search.svg"
    texts = [one.text for one in ElementTree.parse(tmp_path / report.picture).iter() if one.tag.endswith("}text")]
    assert {"INT8 search", "drop, 95 % interval", "budget", "written", "PSNR to FP32"} <= set(texts)
    notes = [one.text for one in ElementTree.parse(tmp_path / report.picture).iter() if one.tag.endswith("}title")]
    assert len(notes) == 2 * len(report.curve) + 1


def test_what_was_quantized_can_be_made_again(trained, quick, tmp_path):
    made = write_int8_graph(trained[1], tmp_path / "model.int8.onnx", lax(quick), Calibration())
    stored = json.loads((tmp_path / "int8.json").read_text())
    assert stored["share"] == made.record.share
    assert made.record.report.sha256 == sha256_of(tmp_path / "int8.json")
    source = load_quantized_source(trained[1], tmp_path / "int8.json")
    floats = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    stored_graph = onnx.load(tmp_path / "model.int8.onnx").graph
    quantized = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored_graph.initializer}
    nodes = {node.name: node for node in source.graph.node}
    inside = [layer.name for layer in made.report.layers if layer.precision == "int8"]
    assert inside
    for name in inside:
        scale = quantized[f"{name}.weight.scale"].astype(np.float32).reshape(-1, 1, 1, 1)
        error = np.abs(quantized[f"{name}.weight.int8"] * scale - floats[nodes[name].input[1]])
        assert (error <= scale * 1.001).all()


def test_nothing_to_quantize_is_said(tmp_path, quick):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["lr", "w"], ["sr"], name="only", pads=[1] * 4)],
        "g",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "a.onnx")
    with pytest.raises(GraphError, match=r"a\.onnx has no convolution .*\(first convolution\)"):
        make_int8_graph(tmp_path / "a.onnx", tmp_path / "b.onnx", quick)
