"""Verification: every artifact against FP32 PyTorch, on real photographs, written down as a certificate."""
