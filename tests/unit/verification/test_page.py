import base64
import html
import re

import numpy as np
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import (
    BudgetStage,
    Certificate,
    CertificateEntry,
    Check,
    ErrorBudget,
    FileRecord,
    GraphRecord,
    Manifest,
    Measurement,
    Shape,
    SourceRecord,
    Thresholds,
    WorstPlace,
    parse_profile,
)
from sr_deploy.bundle.verdict import judge
from sr_deploy.imaging.codec import read_image
from sr_deploy.verification.agreement import measure_margin
from sr_deploy.verification.grid import Point
from sr_deploy.verification.page.content import PageContent
from sr_deploy.verification.page.render import render_page
from sr_deploy.verification.worst import choose_crops, cut_crop

NOISE = np.random.default_rng(0).random((1, 3, 100, 120), np.float32)
POINT = Point(Shape(1, 25, 30), "noise")
FULL = GraphRecord(file="model.fp32.onnx", sha256="9" * 64, precision="fp32")
HALF = GraphRecord(file="model.fp16.onnx", sha256="a" * 64, precision="fp16")
GRAPH = GraphRecord(file="m<x>.onnx", sha256="a" * 64, precision="fp16")


def make_crop(y, x, amount=0.25, height=100, width=120):
    reference = NOISE[:, :, :height, :width]
    candidate = reference.copy()
    candidate[0, 1, y, x] += amount
    place = WorstPlace(image=0, channel=1, y=y, x=x)
    lr = NOISE[:, :, : height // 4, : width // 4]
    return cut_crop("onnxruntime:fp16", "m.onnx", POINT, place, amount, pictures=(lr, reference, candidate))


def make_entry(passed=True, psnr_db=70.0, machine="cpu", far=0.0, **changes):
    measurement = Measurement(
        shape="1x25x30", content="noise", max_abs=0.01, psnr_db=psnr_db, changed_8bit=0.6, changed_8bit_more=far,
        mean_abs=0.004, ssim=0.75, worst=WorstPlace(image=0, channel=1, y=3, x=4),
    )  # fmt: skip
    fields = {
        "artifact": FileRecord(file=GRAPH.file, sha256=GRAPH.sha256), "precision": "fp16",
        "backend": "onnxruntime:fp16", "backend_version": "1", "machine": machine, "reference": "torch:fp32",
        "reference_sha256": "b" * 64, "measured_at": "2026-02-03T04:05:06",
        "thresholds": {"psnr_db": 55.0, "max_abs": 0.05}, "measurements": (measurement,),
        "left_out": ("2x512x512: too large",), "worst_max_abs": 0.01, "worst_psnr_db": psnr_db, "passed": passed,
    }  # fmt: skip
    return CertificateEntry(**(fields | changes))


def make_check(findings=(), **changes):
    fields = {
        "kind": "weights", "file": GRAPH.file, "sha256": GRAPH.sha256, "what": "looked", "checked_at": "2026-01-01",
    }  # fmt: skip
    return Check(**(fields | {"findings": findings} | changes))


def make_error_budget():
    stages = [
        BudgetStage(name=name, runs="r", psnr_db=None, step_psnr_db=None, truth_psnr_db=30.0 - lost, lost_db=lost)
        for name, lost in (("torch:fp32", 0.0), ("ONNX FP16", 0.0321), ("8-bit file", -0.002))
    ]
    return ErrorBudget(
        precision="fp16", file="m.onnx", sha256="c" * 64, machine="cpu", inputs="1 photograph",
        measured_at="2026-01-01",
        stages=tuple(stages),
    )  # fmt: skip


def make_manifest(thresholds=None, **source):
    return Manifest(
        name="demo", created_at="2026-01-01T00:00:00",
        arch=ArchSpec(architecture="compact", scale=4, features=8, blocks=2),
        source=SourceRecord(**({"file": "net.pth", "sha256": "e" * 64, "layout": "compact"} | source)),
        reference=FileRecord(file="generator.safetensors", sha256="b" * 64), graphs=(FULL, HALF),
        profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),), thresholds=thresholds or {}, tools={"torch": "2"},
    )  # fmt: skip


def make_page(*, entries=None, checks=(), here=(("cpu", ()),), manifest=None, crops=(), graphs=(GRAPH,)):
    entries = (make_entry(),) if entries is None else entries
    certificate = Certificate(entries=entries, checks=checks, error_budgets=(make_error_budget(),))
    looser = () if manifest is None else manifest.list_looser()
    judgment = judge(certificate, graphs=graphs, here=here, looser=looser)
    content = PageContent(
        title="demo & co", network="compact", judgment=judgment, certificate=certificate, graphs=graphs,
        manifest=manifest, ran_now=[entry for entry in entries if entry.place in here], crops=crops, here=here,
        written_at="2026-03-04T05:06:07",
    )  # fmt: skip
    return render_page(content)


def read_text(page):
    bare = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def test_the_page_needs_nothing_from_outside():
    page = make_page(crops=[make_crop(50, 60)])
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", markup)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in page
    assert "@import" not in page


def test_the_page_says_what_was_found():
    text = read_text(make_page(manifest=make_manifest()))
    assert "demo & co verified" in text
    assert "ok m<x>.onnx ONNX graph, fp16 onnxruntime:fp16 cpu 70.0 dB needs 55.0 dB" in text
    assert "1.0e-02 up to 5.0e-02 +14.0 dB 0.75000 60.000%" in text
    assert "noise 1x25x30 row 3, column 4" in text
    assert "ONNX FP16 loses most, 0.0321 dB" in text
    assert "m<x>.onnx: 1 input against torch:fp32, on onnxruntime:fp16" in text
    assert "on onnxruntime:fp16: 2x512x512: too large" in text
    assert "b" * 64 in text


def test_every_row_has_the_columns_of_its_table():
    page = make_page(manifest=make_manifest(), checks=[make_check()])
    tables = re.findall(r"<thead><tr>(.*?)</tr></thead><tbody>(.*?)</tbody>", page)
    assert len(tables) == 5  # deployed, run, the error budget, checks, files
    for head, body in tables:
        assert {row.count("<td") for row in body.split("<tr>")[1:]} == {head.count("<th")}
    assert "onnxruntime:fp16 1, cpu, now 70.0 dB" in read_text(page)


def test_the_page_says_where_the_weights_came_from_and_what_was_asked():
    text = read_text(make_page(manifest=make_manifest()))
    assert f"checkpoint net.pth , recognized as compact its sha256 {'e' * 64} its license not recorded" in text
    assert "shapes deployed tile=1x8x8,1x16x16,1x32x32" in text
    assert "fp16: 55 dB at least, a difference of 0.05 at most (the default; the bundle names none)" in text
    own = make_manifest(thresholds={"fp16": Thresholds(psnr_db=10.0)}, license="BSD-3-Clause")
    text = read_text(make_page(manifest=own))
    assert "its license BSD-3-Clause" in text
    assert "demo & co verified: graphs looser than the defaults: fp16 needs 10 dB, the default is 55 dB" in text
    assert "fp16 allows any difference, the default is 0.05" in text


def test_a_graph_that_nothing_ran_is_incomplete_and_one_that_ran_is_named():
    other = GraphRecord(file="model.bf16.onnx", sha256="f" * 64, precision="bf16")
    text = read_text(make_page(graphs=(GRAPH, other), manifest=make_manifest()))
    assert "incomplete: no backend ran model.bf16.onnx" in text
    assert "not run model.bf16.onnx ONNX graph, bf16" in text
    assert "model.bf16.onnx: no backend ran it" in text
    torch_alone = make_entry(backend="torch:fp16")
    assert "incomplete: no backend ran m<x>.onnx" in read_text(make_page(entries=(torch_alone,)))


def test_the_first_table_says_what_the_checks_of_each_file_came_to():
    checks = [
        make_check(),
        make_check(kind="precision", findings=("computes in fp32",)),
        make_check(kind="engine", not_checked="no builder"),
        make_check(kind="drop", file="another"),
    ]
    text = read_text(make_page(checks=checks))
    assert "ONNX graph, fp16 weights ok precision FAILED engine not checked onnxruntime:fp16" in text
    assert "m<x>.onnx (engine) was not checked: no builder" in text


def test_entries_of_other_machines_are_shown_and_their_failures_are_theirs():
    text = read_text(make_page(entries=(make_entry(), make_entry(passed=False, psnr_db=40.0, machine="RTX 4090"))))
    assert "demo & co NOT verified" in text
    assert "m<x>.onnx on onnxruntime:fp16 (RTX 4090)" in text
    assert "40 dB, greatest difference 1e-02; needs 55 dB, at most 5e-02" in text
    assert "FAILED onnxruntime:fp16 RTX 4090, 2026-02-03 40.0 dB" in text


def test_the_cause_stands_first_and_its_consequences_are_folded_under_it():
    page = make_page(
        entries=(make_entry(passed=False, psnr_db=40.0),), checks=[make_check(("tensor 'w' is off",))], crops=()
    )
    head = page.split("<h2>")[0]
    cause, folded = head.split("<details>")
    assert "m&lt;x&gt;.onnx (weights)" in cause
    assert "tensor &#x27;w&#x27; is off" in cause
    assert "<summary>1 consequence</summary>" in folded
    assert "m&lt;x&gt;.onnx on onnxruntime:fp16" in folded
    assert "m&lt;x&gt;.onnx on" not in cause


def test_many_samples_off_by_more_than_a_step_are_no_plain_ok():
    near, far = read_text(make_page()), read_text(make_page(entries=(make_entry(far=0.59),)))
    assert "ok m<x>.onnx" in near
    assert "60 % of the samples one 8-bit step off, none by more" in near
    assert "passes m<x>.onnx" in far
    assert "59 % of the samples more than one 8-bit step off, 1.0 steps on average" in far


def test_crops_are_cut_around_the_worst_place_and_moved_inwards_at_borders(tmp_path):
    crop = make_crop(50, 60)
    assert (crop.top, crop.left, crop.reference.shape) == (18, 28, (64, 64, 3))
    changed = np.argwhere(crop.reference != crop.candidate)
    assert changed.tolist() == [[32, 32, 1]]
    corner = make_crop(99, 119)
    assert (corner.top, corner.left) == (36, 56)
    assert np.argwhere(corner.reference != corner.candidate).tolist() == [[63, 63, 1]]
    page = make_page(crops=[crop])
    pictures = re.findall(r'class="(right|left)"[^>]*src="data:image/png;base64,([^"]+)"', page)
    for (side, encoded), expected in zip(pictures, (crop.candidate, crop.reference), strict=True):
        (tmp_path / f"{side}.png").write_bytes(base64.b64decode(encoded))
        assert np.array_equal(read_image(tmp_path / f"{side}.png"), expected)


def test_strips_are_shown_only_where_there_is_nothing_else_and_stay_small():
    strip, square = make_crop(2, 60, amount=0.5, height=8), make_crop(50, 60)
    assert choose_crops([strip, square]) == [square]
    assert choose_crops([strip]) == [strip]
    for crop, drawn in ((make_crop(50, 2, width=4), "width: 20px; aspect-ratio: 4/64"), (strip, "width: 320px")):
        assert drawn in make_page(crops=[crop])


def test_differences_below_one_8bit_step_are_said_and_not_shown():
    page = make_page(crops=[make_crop(50, 60, amount=0.003)])
    assert '<div class="slider"' not in page
    assert "There is nothing to see of onnxruntime:fp16 (3.0e-03): no sample of the worst places is off by one" in page
    assert '<div class="slider"' in make_page(crops=[make_crop(50, 60, amount=0.01)])


def test_the_margin_is_that_of_the_worst_input():
    assert measure_margin(make_entry()) == pytest.approx(20 * np.log10(5))
    assert measure_margin(make_entry(psnr_db=50.0)) == -5.0
