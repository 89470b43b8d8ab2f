"""Sizes of a policy of human motion by name: about as many parameters as the models that made the names usual."""

from collections.abc import Mapping

from vla import commandline

SIZES: Mapping[str, Mapping[str, float]] = {
    "small": {"--expert.width": 256, "--expert.depth": 5, "--expert.heads": 4},
    "medium": {"--expert.width": 384, "--expert.depth": 6, "--expert.heads": 6},
    "large": {"--expert.width": 576, "--expert.depth": 6, "--expert.heads": 9},
}
"""7.5, 20.1 and 45.1 million parameters of the expert."""
PRESETS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "pretrain": SIZES,
    "sft": {
        "small": {**SIZES["small"], "--stage.epochs": 15, "--stage.lr.expert": 1e-4},
        "medium": {**SIZES["medium"], "--stage.epochs": 20, "--stage.lr.expert": 1e-4},
        "large": {**SIZES["large"], "--stage.epochs": 25, "--stage.lr.expert": 5e-5},
    },
}
"""Of each entry point that has any: the flags that each stands for."""
OTHERWISE: Mapping[str, str] = {"base": "medium"}
"""Other names that are usual; `sft_small` is sft's small."""


def preset(entry: str, name: str, place: str = "--preset") -> list[str]:
    """The flags that a preset of an entry point stands for; `place` is where it was named.

    Raises:
        ValueError: there is none of that name.
    """
    known = PRESETS[entry]
    before, _, size = name.rpartition("_")
    if before in PRESETS and before != entry:
        raise ValueError(f"{place} {name} is of training/{before}.py; give {' or '.join(known)}")
    size = OTHERWISE.get(size, size) if before in ("", entry) else name
    if size not in known:
        hint = commandline.nearest(name, [*known, *OTHERWISE], "base is medium")
        raise ValueError(f"{place} {name} is none: give {', '.join(known)}; {hint}")
    return [word for flag, value in known[size].items() for word in (flag, str(value))]
