"""Evaluation: how near a network comes to originals, by the protocol of the papers, beside bicubic."""
