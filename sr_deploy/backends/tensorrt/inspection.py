"""What a built engine says of its own layers. Thin where only a GPU can run it; what it says is read anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from sr_deploy.backends.tensorrt.open_engine import open_engine
from sr_deploy.backends.tensorrt.sdk import find_io_names
from sr_deploy.bundle.trust import EngineTrust
from sr_deploy.gpus import visible_gpus

# TensorRT 10 names the type of a tensor together with its layout in memory, 11 apart from it.
_TYPE_KEYS = ("Datatype", "DataType", "Format/Datatype")
_UNKNOWN = "N/A"
_KERNELS = 3
_LONGEST = 80


def inspect_engine(sdk: ModuleType, content: bytes) -> str:
    """Types that a built engine computes in, as it says itself; it takes the GPU that it was built for to ask.

    With dynamic shapes an engine knows them for shapes that are chosen: those that its first profile is tuned for.

    Args:
        sdk: that has built it.
        content: the engine.

    Returns:
        As `describe_layers`; or `not inspected` and why.
    """
    if not visible_gpus():
        return "not inspected: an engine opens on a GPU only, and there is none here"
    engine = open_engine(sdk, content, EngineTrust(elsewhere=True))  # this very process has built it
    context = None if engine is None else engine.create_execution_context()
    if engine is None or context is None:
        return "not inspected: the engine does not open on this GPU"
    name, _ = find_io_names(sdk, engine)
    if not context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1]):
        return "not inspected: the engine does not take the shapes that it was tuned for"
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return describe_layers(inspector.get_engine_information(sdk.LayerInformationFormat.JSON))


def describe_layers(text: str) -> str:
    """Layers by the type that they write, weights by theirs, and the kernels that run most layers.

    Args:
        text: what an engine inspector of TensorRT 10 or 11 or TensorRT-RTX gives as JSON.

    Returns:
        As in `4 Half, 1 Float; weights 4 Half; kernels sm89_xmma_fprop (3)`; or `not inspected` and why.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not inspected: the engine's account of its layers is not JSON ({error})"
    layers = document.get("Layers") if isinstance(document, dict) else None
    known = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    if not known:  # without --profilingVerbosity detailed, as TensorRT's tools call it, layers are names alone
        return "not inspected: the engine names no layers" + (" in detail" if layers else "")
    written = Counter(_find_type(layer) for layer in known)
    weights = Counter(_read_text(layer.get("Weights"), ("Type",)) for layer in known if layer.get("Weights"))
    kernels = Counter(str(layer["TacticName"])[:_LONGEST] for layer in known if layer.get("TacticName"))
    parts = [_count(written)]
    parts += [f"weights {_count(weights)}"] if weights else []
    parts += [f"kernels {', '.join(f'{k} ({n})' for k, n in kernels.most_common(_KERNELS))}"] if kernels else []
    return "; ".join(parts)


def _find_type(layer: Mapping[str, Any]) -> str:
    outputs = layer.get("Outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    return _read_text(first, _TYPE_KEYS)


def _read_text(table: object, keys: tuple[str, ...]) -> str:
    found = [table[key] for key in keys if isinstance(table.get(key), str)] if isinstance(table, dict) else []
    return next((text for text in found if not text.startswith(_UNKNOWN)), "unnamed")


def _count(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
