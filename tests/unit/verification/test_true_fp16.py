"""Who gives the true half figure: PyTorch for a whole FP16 graph, the graph itself where PyTorch cannot."""

from __future__ import annotations

from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.model import open_model
from sr_deploy.verification.candidates import open_candidate, runs_rounded, true_fp16, why_not_candidate
from sr_deploy.verification.comparison import verify_backends


def test_pytorch_gives_it_for_a_bundle_that_is_fp16_throughout(make_bundle, tmp_path):
    model = open_model(make_bundle("compact-x1", tmp_path, fp16=True).path)
    assert not runs_rounded(model, true_fp16())
    with open_candidate(model, true_fp16()) as runner:
        assert runner.spec.backend == "torch"
    only_fp32 = open_model(make_bundle("compact-x2-gray", tmp_path).path)
    assert not runs_rounded(only_fp32, true_fp16())


def test_a_lone_fp16_graph_gives_its_own(exported, tmp_path):
    path = tmp_path / "foreign.onnx"
    convert_graph_to_fp16(exported("compact-x1").path, path, ["conv_0"])
    model = open_model(path)
    assert why_not_candidate(model, true_fp16()) is None
    entries = {entry.backend: entry for entry in verify_backends(model).entries}
    flattered, true = entries["onnxruntime:fp16"], entries["onnxruntime:fp16 rounded"]
    assert flattered.reference == true.reference == "onnxruntime:fp32, graph widened from fp16"
    assert true.passed
    assert true.rewrites == ("round-results",)
    assert true.artifact == flattered.artifact
    assert 55 < true.worst_psnr_db < flattered.worst_psnr_db + 1
