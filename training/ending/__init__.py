"""How a run ends: signals, hangs, exit codes."""
