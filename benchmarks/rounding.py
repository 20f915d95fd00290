"""How far FP32 is from float64 on published networks: PyTorch in both memory layouts, ONNX Runtime and OpenVINO.

    python benchmarks/rounding.py BUNDLE... [--shape 1x24x24] [--out FOLDER]

Every content of a verification is shown to each; docs/certificate.md takes the factor of FP32's tolerance from here.
Writes rounding.json and rounding.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pages import make_table, write_results

from sr_deploy.bundle import Shape, utc_now
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner
from sr_deploy.verification.contents import CONTENTS
from sr_deploy.verification.grid import Point
from sr_deploy.verification.reference import ReferenceOutputs

BACKENDS = ("onnxruntime:fp32", "openvino:fp32")


def measure(path: Path, shape: Shape) -> list[dict[str, object]]:
    """One row for each content: greatest differences from float64, and how many times PyTorch's they are."""
    model = open_model(path)
    rows: list[dict[str, object]] = []
    runners = {name: open_runner(model, name) for name in BACKENDS}
    with ReferenceOutputs(model) as outputs:
        for content in CONTENTS:
            expected = outputs.find(Point(shape, content))
            rounding = outputs.measure_rounding(Point(shape, content))
            if rounding is None:
                raise SystemExit(f"{path} has no PyTorch weights")
            row: dict[str, object] = {"network": path.name, "content": content, "torch": rounding.max_abs}
            for name, runner in runners.items():
                row[name] = compare_outputs(runner.infer(expected.lr_NCHW), expected.sr_NCHW).max_abs
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    for runner in runners.values():
        runner.close()
    return rows


def write_markdown(document: dict[str, object], rows: Sequence[dict[str, object]]) -> str:
    """The greatest of each network, and the greatest quotient."""
    lines = [f"Measured {document['measured_at']} with `{document['command']}`.", ""]
    lines += [f"{document['machine']}; {document['versions']}. Greatest difference from float64 of any content.", ""]
    cells = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        worst = max(own, key=lambda row: float(str(row["torch"])))
        quotient = max(float(str(row[name])) / float(str(row["torch"])) for row in own for name in BACKENDS)
        figures = [f"{float(str(worst[name])):.1e}" for name in ("torch", *BACKENDS)]
        cells.append((network, worst["content"], *figures, f"{quotient:.2f}"))
    heads = ("network", "content", "PyTorch, the worse layout", *BACKENDS, "most times PyTorch's on one content")
    return "\n".join([*lines, *make_table(" | ".join(heads), cells, text=(0, 1)), ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--shape", default="1x24x24")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    shape = Shape(*map(int, arguments.shape.split("x")))
    rows = [row for path in arguments.bundles for row in measure(path, shape)]
    machine = describe_machine()
    names = " ".join(path.name for path in arguments.bundles)
    versions = tool_versions()
    document: dict[str, object] = {
        "measured_at": utc_now(),
        "command": f"python benchmarks/rounding.py {names} --shape {arguments.shape}",
        "machine": f"{machine.cpu} ({', '.join(machine.features)})",
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino")),
    }
    write_results(arguments.out / "rounding", {**document, "rows": rows}, write_markdown(document, rows))


if __name__ == "__main__":
    main()
