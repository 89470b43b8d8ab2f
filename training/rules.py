"""How keys of other trainers' files become flags: rules of any key, and those of adapters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FRESH = "LoRA of fresh weights is of no use: give the file to training/sft.py or adapter.py, with --init-from"
NAMES: Mapping[str, str] = {
    **dict.fromkeys(("q_proj", "query", "to_q"), r".*attention\.query"),
    **dict.fromkeys(("k_proj", "v_proj", "key", "value", "to_k", "to_v"), r".*attention\.key_value"),
    **dict.fromkeys(("out_proj", "o_proj", "to_out"), r".*attention\.out"),
    **dict.fromkeys(("linear1", "linear2", "fc1", "fc2"), r".*\.feed\..*"),
}
"""Layers of other trainers' transformers, and the same ones of the expert, by their names after its blocks'."""
BLOCKS = r"expert\.blocks\.\d+"


@dataclass(frozen=True, kw_only=True)
class Became:
    """What became of a key."""

    words: tuple[str, ...] = ()
    """Of flags."""
    because: str = ""
    """Why it became no flag, or how its meaning differs."""


@dataclass(frozen=True, kw_only=True)
class File:
    """What a rule may look at beside its own key."""

    entry: str
    """Entry point that is to train by it."""
    given: Mapping[str, Any]
    """All its values by dotted key."""


Rule = Callable[[Any, File], Became]
"""Of a key's value, in a file: ValueError with the reason where it cannot be obeyed."""


def takes(flag: str, because: str = "") -> Rule:
    """The value is that of a flag."""

    def rule(value: Any, _: File) -> Became:
        values = value if isinstance(value, list) else [value]
        return Became(words=(flag, *map(str, values)), because=because)

    return rule


def nothing(because: str) -> Rule:
    """It changes nothing of what is learned here."""
    return lambda _, __: Became(because=because)


def off(because: str) -> Rule:
    """It may only be off: there is nothing here that it could switch on."""

    def rule(value: Any, _: File) -> Became:
        if value:
            raise ValueError(because)
        return Became(because="off")

    return rule


def only(expected: str, because: str) -> Rule:
    """It may have one value."""

    def rule(value: Any, _: File) -> Became:
        if str(value) != expected and not (expected[0].isdigit() and number(value) == float(expected)):
            raise ValueError(because)
        return Became(because="as it is here")

    return rule


def never(because: str) -> Rule:
    """It cannot be obeyed."""

    def rule(_: Any, __: File) -> Became:
        raise ValueError(because)

    return rule


def takes_epochs(value: Any, _: File) -> Became:
    """Epochs between checkpoints."""
    return Became(words=("--save-every", f"{value}epoch"))


def number(value: Any) -> float:
    """A value that must be a number (ValueError)."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no number") from error


def adapts(file: File) -> bool:
    """Whether a file asks for an adapter, or is given to the entry point that trains one."""
    return bool(file.given.get("lora.enabled")) or file.entry == "adapter"


def rate(value: Any, file: File) -> Became:
    """That of the expert, or of its adapter."""
    return Became(words=(f"--stage.lr.{'adapter' if adapts(file) else 'expert'}", str(value)))


def lora(value: Any, file: File) -> Became:
    """An adapter in place of the weights that a fine-tuning begins with."""
    if not value:
        return Became(because="off" if file.entry != "adapter" else "what runs trains one all the same")
    if file.entry == "pretrain":
        raise ValueError(FRESH)
    if file.entry == "adapter":
        return Became(because="training/adapter.py is what runs")
    given = file.given.get("training.learning_rate") or file.given.get("lr")
    usual = () if given else ("--stage.lr.adapter", "1e-3")
    return Became(words=("--stage.lr.expert", "None", *usual))


def of_lora(flag: str) -> Rule:
    """A size of the adapter, where there is one."""

    def rule(value: Any, file: File) -> Became:
        return Became(words=(flag, str(value))) if adapts(file) else Became(because="of lora.enabled")

    return rule


def targets(value: Any, file: File) -> Became:
    """The layers of the adapter: those of the expert that do what the named ones do."""
    if not adapts(file):
        return Became(because="of lora.enabled")
    names = value if isinstance(value, list) else [value]
    if unknown := [name for name in names if name not in NAMES]:
        known = ", ".join(NAMES)
        raise ValueError(f"no layer here is known as {unknown[0]}: name some of {known}, or give --adapter.targets")
    chosen = dict.fromkeys(BLOCKS + NAMES[name] for name in names)
    return Became(words=("--adapter.targets", *chosen), because="the layers of the expert that do the same")
