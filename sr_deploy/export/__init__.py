"""From a network to ONNX graphs: FP32 through PyTorch's exporter, FP16 by a conversion of the graph."""
