"""Bring the documents of the bundle that ships with sr-deploy to what this version writes, and certify it anew.

    python train/certify_small_x2.py

reads the steps and zero points of its INT8 graph and the biases of its FP32 graph into int8.json, enters that file's
hash into bundle.json and measures the certificate on this machine. Weights, graphs and the picture of the search stay
as they are, byte for byte, where a new `train/make_small_x2.py` changes everything, since another processor trains
other weights. A bundle that does not verify is left alone. Run twice it changes the certificate's times and figures.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from sr_deploy.bundle import Bundle, open_bundle
from sr_deploy.bundle.store import CERTIFICATE_NAME, MANIFEST_NAME
from sr_deploy.errors import SrDeployError, VerificationError
from sr_deploy.export.int8.bundle import load_quantized_source
from sr_deploy.export.int8.search_report import Int8Report, LayerReport, report_name
from sr_deploy.files import sha256_of, write_text
from sr_deploy.graph.load import load_whole_model, name_of
from sr_deploy.shipped import DEFAULT_MODEL
from sr_deploy.verification.align import GraphView
from sr_deploy.verification.verify import verify_model

REPORT_NAME = report_name("int8")


def record_quantizers(bundle: Bundle, report: Int8Report) -> Int8Report:
    """`int8.json` with the step, zero point and bias of every layer that it records as INT8.

    Raises:
        VerificationError: a layer of the report is not quantized in the graph.
    """
    view = GraphView(load_whole_model(bundle.graph("int8")))
    source = GraphView(load_quantized_source(bundle.graph("fp32"), bundle.path / REPORT_NAME))
    nodes, exact = ({name_of(node): node for node in one.nodes} for one in (view, source))

    def read(layer: LayerReport) -> LayerReport:
        if layer.precision == "float":
            return layer
        quantizer = view.chain(nodes[layer.name].input[0])[0]
        if quantizer.op_type != "DequantizeLinear":
            raise VerificationError(f"{layer.name} is INT8 in {REPORT_NAME} and not in the graph")
        bias = source.constant(exact[layer.name].input[2])  # every convolution of this network has one
        shift = np.array(report.shifts.get(layer.name, (0.0,)), np.float32)
        corrected = None if bias is None else tuple(map(float, bias.stored + shift))
        step, zero = float(view.read_scale(quantizer)), int(view.read_zero(quantizer))
        return layer.model_copy(update={"step": step, "zero_point": zero, "bias": corrected})

    return report.model_copy(update={"layers": tuple(map(read, report.layers))})


def certify_again(path: Path) -> None:
    """Rewrite `int8.json`, `bundle.json` and `certificate.json` of a bundle with an INT8 graph, all or none.

    Raises:
        VerificationError: it does not verify with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns(CERTIFICATE_NAME))
        bundle = open_bundle(copy)
        report = Int8Report.model_validate_json((copy / REPORT_NAME).read_bytes())
        write_text(copy / REPORT_NAME, record_quantizers(bundle, report).model_dump_json(indent=2) + "\n")
        manifest = json.loads((copy / MANIFEST_NAME).read_text())
        manifest["int8"]["report"]["sha256"] = sha256_of(copy / REPORT_NAME)
        write_text(copy / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")
        verification = verify_model(copy)
        if not verification.passed:
            raise VerificationError(f"{path} does not verify: {', '.join(verification.failures)}; it is left as it was")
        for name in (REPORT_NAME, MANIFEST_NAME, CERTIFICATE_NAME):
            write_text(path / name, (copy / name).read_text())


def main() -> int:
    """The command."""
    try:
        certify_again(DEFAULT_MODEL)
    except SrDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{DEFAULT_MODEL}: verified, documents written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
