from sr_deploy.bundle import Certificate, Check


def make_check(findings=(), sha256="a" * 64, **changes):
    fields = {"kind": "weights", "file": "m.onnx", "what": "looked", "checked_at": ""}
    return Check(**(fields | {"findings": findings, "sha256": sha256} | changes))


def wrong_lines(certificate):
    return [line for check in certificate.checks for line in check.findings]


def test_a_finding_goes_when_the_same_check_finds_nothing_or_the_file_is_another():
    found = Certificate().with_checks([make_check(("w is off",))])
    assert wrong_lines(found) == ["w is off"]
    assert wrong_lines(found.with_checks([make_check()])) == []
    assert wrong_lines(found.with_checks([make_check(sha256="b" * 64)])) == []
    assert wrong_lines(found.with_checks([make_check(file="other.onnx")])) == ["w is off"]
    assert wrong_lines(found.with_checks([make_check(kind="precision")])) == ["w is off"]


def test_what_a_deep_check_found_is_not_cleared_by_a_shallow_one_nor_by_none():
    found = Certificate().with_checks([make_check(("w is off",), depth=1)])
    shallow = found.with_checks([make_check()])
    assert wrong_lines(shallow) == ["w is off"]
    assert len(shallow.checks) == 2
    assert len(shallow.with_checks([make_check()]).checks) == 2  # the shallow ones do not pile up
    skipped = shallow.with_checks([make_check(depth=1, not_checked="the exporter is not installed")])
    assert wrong_lines(skipped) == ["w is off"]
    cleared = skipped.with_checks([make_check(depth=1)])
    assert wrong_lines(cleared) == []
    assert len(cleared.checks) == 1
