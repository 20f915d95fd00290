"""What libraries say, cut to one line."""

from sr_deploy.errors import first_line, one_line


def test_the_first_line_that_tells_something():
    said = "Exception from src/inference/src/cpp/core.cpp:126:\nCheck 'x' failed at y.cpp:3:\n - no such layer -\nmore"
    assert first_line(RuntimeError(said)) == "no such layer"
    assert first_line(RuntimeError("\n  one\ntwo")) == "one"
    assert first_line(RuntimeError("Summary:")) == "Summary:"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_all_lines_in_one():
    error = ValueError("a\n  b\tc\n" + "d" * 300)
    assert one_line(error) == "a b c " + "d" * 194
    assert one_line(error, None) == "a b c " + "d" * 300
    assert one_line(error, 3) == "a b"
