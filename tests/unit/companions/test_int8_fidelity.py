"""The script that compares quantizers, on a network of a few weights."""

import json
import sys

import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/int8_fidelity.py")


@pytest.fixture
def run(script, monkeypatch, tmp_path, write_gentle_network):
    """Runs the script on a little network; gives the document, the page and what was said on stderr."""
    checkpoint = write_gentle_network(tmp_path / "little.safetensors", 8, 2)
    small = script.Int8Options(
        crops=4, crop_size=24, search_crops=2, gate_crops=2, curve_points=2, max_drop_db=9, learn_steps=2
    )
    monkeypatch.setattr(script, "Int8Options", lambda: small)

    def call(*words):
        out = tmp_path / "out"
        numbers = ("--side", "16", "--rounds", "2", "--out", str(out))
        monkeypatch.setattr(sys, "argv", ["int8_fidelity.py", "--network", f"little={checkpoint}", *numbers, *words])
        script.main()
        return json.loads(out.with_suffix(".json").read_text()), out.with_suffix(".md").read_text()

    return call


def test_quantizers_are_compared_timed_and_kept(run, tmp_path, capsys):
    document, page = run()
    little = document["little"]
    graphs = {row["graph"]: row for row in little["fidelity"]}
    quantizer = "ONNX Runtime's quantizer, "
    optional = {"NVIDIA modelopt", "NNCF", "NNCF, accuracy-controlled"}
    assert set(graphs) - optional == {"FP16", "INT8", quantizer + "MinMax", quantizer + "Entropy"}
    assert graphs["FP16"]["int8_share"] == 0 < graphs["INT8"]["int8_share"] < graphs[quantizer + "MinMax"]["int8_share"]
    assert graphs["FP16"]["psnr_fp32_db"] > graphs["INT8"]["psnr_fp32_db"] > 20
    timed = {(row["graph"], row["backend"]): row for row in little["speed"]}
    assert timed["FP32", "onnxruntime"]["ratio"] == 1
    assert all(timed[graph, "onnxruntime"]["ms"] > 0 for graph in ("INT8", quantizer + "MinMax"))
    assert str(tmp_path) not in page + json.dumps(document)
    assert "| little | INT8 | onnxruntime | 1x16x16 |" in page
    # Each says how long it took, or that it is not installed; nothing else may have failed.
    own, *others = little["notes"]
    assert "s of processor time" in own
    missing = {note.rpartition(": ModuleNotFoundError: ")[0] for note in others if "No module named" in note}
    assert missing == optional - set(graphs)
    took = [f"{graph} took " for graph in graphs if graph not in ("FP16", "INT8")]
    assert [note[: len(start)] for note, start in zip([n for n in others if " took " in n], took, strict=True)] == took

    capsys.readouterr()
    assert run("--resume") == (document, page)
    assert "little was measured before" in capsys.readouterr().err


def test_another_command_is_measured_anew_and_other_networks_stay(run, tmp_path, capsys):
    first, _ = run()
    other = first["little"] | {"run": first["little"]["run"] | {"machine": "another machine"}}
    (tmp_path / "out.json").write_text(json.dumps({"other": other, "little": first["little"]}))
    capsys.readouterr()
    document, page = run("--resume", "--rounds", "3")
    assert document["little"]["run"]["command"].endswith("--rounds 3")
    assert document["other"] == other
    assert "other: another machine; " in page
    assert "measured before" not in capsys.readouterr().err
