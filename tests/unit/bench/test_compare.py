import pytest

from sr_deploy.bench.compare import compare_reports
from sr_deploy.errors import InputError

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

# Spread 1 ms on both sides: medians are apart from 2 ms on.
OLD = {"median_ms": 100.0, "spread_ms": 1.0}


@pytest.mark.parametrize(
    ("median", "bound", "verdict", "regression"),
    [
        (101.9, 0.0, "same", False),
        (98.1, 0.0, "same", False),
        (90.0, 0.0, "faster", False),
        (105.0, 10.0, "slower", False),
        (105.0, 4.9, "slower", True),
        (111.0, 10.0, "slower", True),
    ],
)
def test_a_change_counts_beyond_both_spreads_and_stops_beyond_the_bound(
    with_results, median, bound, verdict, regression
):
    old = with_results(onnxruntime_fp32=OLD)
    new = with_results(onnxruntime_fp32=OLD | {"median_ms": median})
    (change,) = [one for one in compare_reports(old, new, bound).changes if one.candidate == "onnxruntime:fp32"]
    assert (change.verdict, change.regression) == (verdict, regression)
    assert change.change_percent == pytest.approx(median - 100)
    assert change.noise_percent == pytest.approx(2)


def test_what_is_gone_new_or_no_longer_verified(report, with_results):
    parity = report.results[0].parity.model_copy(update={"verified": False})
    doubted = with_results(torch_fp32_nchw={"parity": parity})
    fewer = doubted.model_copy(
        update={"results": tuple(one for one in doubted.results if one.candidate != "onnxruntime:fp32+fixed")}
    )
    verdicts = {one.candidate: (one.verdict, one.regression) for one in compare_reports(report, fewer).changes}
    assert verdicts == {
        "torch:fp32+nchw": ("unverified", True),
        "onnxruntime:fp32": ("same", False),
        "onnxruntime:fp32+fixed": ("gone", True),
    }
    back = {one.candidate: (one.verdict, one.regression) for one in compare_reports(fewer, report).changes}
    assert back["onnxruntime:fp32+fixed"] == ("new", False)
    assert len(compare_reports(report, fewer).regressions) == 2


def test_a_ranking_flips_only_where_the_distance_is_beyond_the_spreads_both_times(with_results):
    def report_of(torch_ms, graph_ms):
        return with_results(
            torch_fp32_nchw={"median_ms": torch_ms, "spread_ms": 1.0},
            onnxruntime_fp32={"median_ms": graph_ms, "spread_ms": 1.0},
            onnxruntime_fp32_fixed={"median_ms": 1.0, "spread_ms": 0.0},
        )

    flips = compare_reports(report_of(20, 30), report_of(30, 20)).flips
    assert flips == ("2x24x16: torch:fp32+nchw was faster than onnxruntime:fp32, and is slower now",)
    assert compare_reports(report_of(20, 21), report_of(30, 20)).flips == ()  # they were as good as equal
    assert compare_reports(report_of(20, 30), report_of(20, 30)).flips == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"machine": {"cpu": "Example CPU"}}, "the machine differs.*Example CPU"),
        ({"threads": 7}, "the number of threads differs.*1, then 7"),
        ({"scale": 2}, "the scale differs"),
        ({"runs": {"sha256": "0" * 64}}, "the inputs of 2x24x16 differ"),
        ({"runs": {"shape": "1x8x8"}}, "no shape is in both reports: 2x24x16 and 1x8x8"),
    ],
)
def test_what_cannot_be_compared_is_refused(report, changed, message):
    ((name, value),) = changed.items()
    if name == "machine":
        value = report.machine.model_copy(update=value)
    elif name == "runs":
        value = (report.runs[0].model_copy(update=value),)
    with pytest.raises(InputError, match=message):
        compare_reports(report, report.model_copy(update={name: value}))


def test_what_else_differs_is_said(report):
    busy = report.runs[0].model_copy(update={"others_load": 1.26})
    versions = dict(report.versions, torch="9.9.9")
    quiet = report.model_copy(update={"runs": (report.runs[0].model_copy(update={"others_load": 0.1}),)})
    new = report.model_copy(update={"runs": (busy,), "versions": versions, "model_sha256": "0" * 64, "model": "other"})
    assert compare_reports(quiet, new).notes == (
        "the models differ: compact-x4 and other",
        f"torch: {report.versions['torch']}, then 9.9.9",
        "WARNING: other processes kept 1.3 processors busy during the new report",
    )


def test_reports_that_measured_gpus_differently_are_compared_with_a_warning(report, gpu_report):
    def warnings(first, second):
        return [note for note in compare_reports(first, second).notes if "on a GPU" in note]

    def old(one):
        return one.model_copy(update={"schema_version": 2})

    (note,) = warnings(old(gpu_report), gpu_report)
    assert note.startswith("WARNING: on a GPU reports of version 2 and 3 are measured in different ways")
    assert warnings(old(report), report) == []  # on a CPU nothing changed
    assert warnings(gpu_report, gpu_report) == []
