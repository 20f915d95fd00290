"""Reads ONNX files: what they take and give, and what they cost."""
