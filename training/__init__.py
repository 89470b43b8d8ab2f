"""How it is trained: stages, loop, lossless state."""
