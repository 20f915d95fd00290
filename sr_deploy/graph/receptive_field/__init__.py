"""The receptive field of a graph: which input pixels an output pixel depends on."""
