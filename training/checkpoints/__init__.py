"""Bytes that survive: storage, checkpoints and how they are written, and the weights that a run begins with."""
