"""Pictures: decode and encode, between bytes and tensors, resize."""
