"""Names that were given up for the terms of PyTorch, ONNX and TensorRT stay away from what users see."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sr_deploy"
PAGES = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.name != "CHANGELOG.md"]

GONE = {
    "agree": "broadcast",
    "ahead": "queue_depth",
    "any_wishes": "any",
    "before_end": "inner_output",
    "change_ends": "change_io_dtype",
    "change_graph_ends": "change_file_io_dtype",
    "compare_at_ends": "compare_decoded",
    "contender": "candidate",
    "contenders": "candidates",
    "describe_making": "hash_config",
    "dtype_of_ends": "array_dtype_of",
    "drift_ledger": "error_budget",
    "end_dtype": "input_dtype",
    "ends_of_dtype": "io_dtype_of",
    "falling": "download",
    "fewest": "min_",
    "find_end_nodes": "find_io_conversions",
    "find_ends": "find_input_output",
    "half_ends": "fp16_io",
    "is_first": "is_main",
    "lanes": "streams",
    "lattice": "input_grid",
    "ledger": "error_budget",
    "made_by": "config_hash",
    "name_ends": "find_io_names",
    "opponent": "discriminator",
    "race": "autotune",
    "racer": "candidate",
    "rising": "upload",
    "settle": "freeze",
    "settled": "frozen",
    "spell": "decompose",
    "verdict_original": "d_real",
    "verdict_result": "d_fake",
    "with_ends": "with_io_dtype",
}
"""Names of functions, classes, arguments, attributes, options and keys, with what to write."""
GONE_KEYS = {*GONE, "ends"}
"""Of formats and options; inside the package, ends are those of a Slice or of a file as well."""
GONE_MODULES = {
    "bench": {"contenders", "race"},
    "export": {"ends", "half_format", "half_plan", "half_probe"},
    "export/int8": {"files", "job", "options", "pipeline", "quality", "report", "work", "worker"},
    "graph": {"ends", "moves", "reach", "spans", "windows"},
    "graph/rewrite": {"options", "sides"},
    "runners": {"ends"},
    "train/recipe": {"files"},
    "upscale": {"files", "job", "pipeline", "places", "report", "work", "worker"},
    "upscale/video": {"entries", "job", "pipeline", "work", "worker"},
    "verification": {"files", "half", "lattice"},
}
PHRASES = (
    r"\b(?:is|are|was|were|gives?|values that are) (?:no|not a) numbers?\b(?! (?:of|from))",
    r"\bwithout numbers\b",
    r"\bwhole numbers?\b",
    r"\blattices?\b",
    r"\bdrift ledger\b",
    r"\b(?:opponent|contender|racer)s?\b",
    r"\bverdict of the (?:original|result)\b",
    r"\bon the way (?:up|down)\b",
    r"\bcopies (?:up|down)\b",
    r"(?<!SIMD )\blanes?\b",
    r"\btrue half\b",
    r"\bspel(?:l|led|t) (?:the )?PRe[Ll][Uu]\b",
    r"\bso-manieth\b",
    r"\bof anybody\b",
    r"\bas people write it\b",
    r"\blooked into the files\b",
    r"\bwhat is there is (?:taken|kept)\b",
    r"\bvouch(?:es|ed)? for\b",
    r"\b(?:the house|ground floor)\b",
    r"\bhad a hand in\b",
    r"\bstands? twice\b",
    r"\b(?:FP32|FP16|8-bit|16-bit|u?int\d+|float\d+|integer|NCHW|NHWC|other) ends\b(?! at)",
    r"\bat (?:its|the|other) ends\b",
    r"--ends\b",
    r"\bends of (?:a |the |all )?graphs?\b",
)
"""In docs, help and messages."""
_PHRASES = re.compile("|".join(PHRASES), re.IGNORECASE)


@cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def list_modules():
    return sorted(PACKAGE.rglob("*.py"))


def list_names(tree):
    """Names that a module defines: what can be called, passed, read or stored."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.AnnAssign(target=ast.Name() | ast.Attribute() as target):
                yield target.id if isinstance(target, ast.Name) else target.attr, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name, node.lineno


def find_names(tree):
    return [(name, line) for name, line in list_names(tree) if name.strip("_").lower() in GONE]


def find_phrases(text):
    return [match[0] for match in _PHRASES.finditer(" ".join(text.split()))]


def test_the_searches_find_what_they_are_for():
    source = "class Lattice:\n    made_by: str\n    def settle(self, fewest): self.lanes = 1\nagree = 1"
    assert [name for name, _ in find_names(ast.parse(source))] == [
        *("Lattice", "agree", "made_by", "settle", "fewest", "lanes"),
    ]
    assert find_phrases("A loss that is no\nnumber, on the way up: every so-manieth step.") == [
        *("is no number", "on the way up", "so-manieth"),
    ]
    assert find_phrases("FP16 ends, rounding at the ends: --ends uint8") == ["FP16 ends", "at the ends", "--ends"]
    assert find_phrases("FP16 ends at 65504, at the end") == []
    assert find_phrases("'x' is not a number from 1 to 9; 12 of 16 SIMD lanes; NaN or infinite") == []


def test_no_name_of_the_package_is_one_that_was_given_up():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: write {GONE[name.strip('_').lower()]}"
        for path in list_modules()
        for name, line in find_names(parse(path))
    ]
    assert found == []


def test_no_module_has_a_name_that_was_given_up():
    found = [
        f"{folder}/{name}.py"
        for folder, names in GONE_MODULES.items()
        for name in sorted(names)
        if (PACKAGE / folder / f"{name}.py").exists() or (PACKAGE / folder / name).is_dir()
    ]
    assert found == []


def test_pages_help_and_messages_use_the_terms_of_the_field():
    found = [f"{page.relative_to(ROOT)}: {one}" for page in PAGES for one in find_phrases(page.read_text("utf-8"))]
    for path in list_modules():
        texts = [one.value for one in ast.walk(parse(path)) if isinstance(one, ast.Constant)]
        texts = [one for one in texts if isinstance(one, str)]
        found += [f"{path.relative_to(ROOT)}: {one}" for text in texts for one in find_phrases(text)]
    assert found == []


def test_keys_of_formats_and_options_use_the_terms_of_the_field():
    keys: set[str] = set()
    for path in sorted((ROOT / "docs").glob("*.schema.json")):
        json.loads(path.read_text("utf-8"), object_hook=lambda one: keys.update(one) or one)
    for path in [*ROOT.glob("train/*.toml"), *ROOT.glob("export/*.toml"), *ROOT.glob("benchmarks/scenarios/*.toml")]:
        keys.update(re.findall(r"^(\w+) *=", path.read_text("utf-8"), re.MULTILINE))
    options = re.findall(r"--([a-z][a-z0-9-]+)", (ROOT / "docs" / "commands.md").read_text("utf-8"))
    keys.update(one.replace("-", "_") for one in options)
    for path in PACKAGE.rglob("_models/*/*.json"):
        json.loads(path.read_text("utf-8"), object_hook=lambda one: keys.update(one) or one)
    assert len(keys) > 100
    assert sorted(keys & GONE_KEYS) == []


@pytest.mark.parametrize("word", ["most", "together", "sides", "half", "ends"])
def test_arguments_say_what_is_bounded(word):
    """Words that are fine in a sentence, but say nothing as the name of an argument or a field."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in list_modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.arg) and node.arg == word
    ]
    assert found == []
