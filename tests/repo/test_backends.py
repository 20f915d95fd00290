"""A backend is named in its own module alone; everything else asks the registry."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.backends.registry import list_backends

PACKAGE = Path(__file__).parents[2] / "sr_deploy"
NAMES = {name for one in list_backends() for name in (one.name, one.package.module)}
WORDS = re.compile(rf"(?<![\w.-])({'|'.join(sorted(NAMES - {'torch'}, key=len, reverse=True))})(?![\w-])")
CHOICES = re.compile(rf"({'|'.join(NAMES)})(:.*)?")
ALLOWED = {
    "arch/pickles.py": {"torch"},  # the module whose classes a pickle names
    "verification/fp32.py": {"torch"},  # as an ONNX file names what exported it
    # An example of what the user writes.
    "cli/bench.py": {"openvino"},
    "cli/options.py": {"openvino"},
    "cli/verify.py": {"openvino"},
}


def list_named(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each backend that a module names, in code or in a text that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            whole = CHOICES.fullmatch(node.value)
            yield from ((node.lineno, one) for one in ([whole[1]] if whole else WORDS.findall(node.value)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sr_deploy.backends"):
            for name in ((node.module or "").removeprefix("sr_deploy.backends."), *(one.name for one in node.names)):
                if name.partition(".")[0] in NAMES:
                    yield node.lineno, name


def list_outside() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("backends/"):
            for line, word in list_named(path):
                if word not in ALLOWED.get(name, ()):
                    found.setdefault(name, set()).add(f"{line}: {word}")
    return found


def test_no_module_but_its_own_names_a_backend():
    assert list_outside() == {}


def test_what_names_one_is_found(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        '"""openvino in a docstring is an example."""\n'
        "from sr_deploy.backends.openvino.runner import OpenVinoRunner\n"
        'if backend == "torch" or choice == "onnxruntime:fp16":\n'
        '    print(f"give {name} or tensorrt-rtx", "torch is a library", "my.openvino.thing")\n'
    )
    assert sorted(list_named(source)) == [
        (2, "openvino.runner"),
        (3, "onnxruntime"),
        (3, "torch"),
        (4, "tensorrt-rtx"),
    ]


def test_what_is_allowed_is_still_there():
    for name, words in ALLOWED.items():
        assert {word for _, word in list_named(PACKAGE / name)} == words, name
