"""Which rank this process is, before accelerate is started."""

import os


def rank() -> int:
    """As its launcher says; 0 without one."""
    return int(os.environ.get("RANK", "0"))
