"""How a sentence encoder reads a text and makes one vector of its tokens, as its own files say.

The files are those of sentence-transformers: modules.json, 1_Pooling/config.json, sentence_bert_config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from vla import documents
from vla.listing import visible
from vla.settings import PoolingName

Content = TypeVar("Content")
Way = Literal["mean", "cls", "max"]
WAYS: Mapping[str, Way] = {way: way for way in get_args(Way)}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""What said how to pool, in today's words."""


@dataclass(frozen=True, kw_only=True)
class Module:
    """An entry of modules.json."""

    type: str
    """Name of a class of sentence-transformers, of which the last part counts."""
    path: str
    """Of its configuration, in the folder."""


@dataclass(frozen=True, kw_only=True)
class Modules:
    """modules.json."""

    modules: list[Module]


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """sentence_bert_config.json."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolingSettings:
    """1_Pooling/config.json."""

    pooling_mode: str | list[str] | None = None
    """Since sentence-transformers 6; before, one of the others was true."""
    pooling_mode_cls_token: bool = False
    pooling_mode_lasttoken: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False

    def ways(self) -> list[str]:
        """What it says to pool by, in today's words."""
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        return [way for flag, way in FLAGS.items() if vars(self)[flag]]


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """config_sentence_transformers.json."""

    default_prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """States of the tokens of a text -> one vector."""

    way: Way
    """The mean over all tokens, the first token, or the largest value of each number."""
    normalize: bool
    """Whether the vector is brought to length 1."""

    def __call__(self, states: Float32[Tensor, "L W"]) -> Float32[Tensor, " W"]:
        """The vector of a text without padding."""
        vector = {"mean": states.mean(0), "cls": states[0], "max": states.amax(0)}[self.way]
        return functional.normalize(vector, dim=0) if self.normalize else vector

    def __str__(self) -> str:
        return f"{self.way}, L2-normalised" if self.normalize else self.way


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text becomes a vector, beside tokenizer and weights."""

    pooling: Pooling
    max_tokens: int | None
    """Of a text, its marks of begin and end among them; None: as many as the model has positions."""
    lower_case: bool
    """Whether a text is read in lower case."""

    def __str__(self) -> str:
        cut = "" if self.max_tokens is None else f", at most {self.max_tokens} tokens"
        return f"{self.pooling}{cut}{', in lower case' if self.lower_case else ''}"


def reading_of(folder: Path, wanted: PoolingName) -> Reading:
    """How the encoder of a folder reads; `wanted` says how it pools where its files do not.

    Raises:
        ValueError: nothing says how to pool, or in a way that is not taken; or `wanted` is not what the files say.
        CorruptData: a file is not what it should be.
    """
    pooling = pooling_of(folder, wanted)
    file = folder / "config_sentence_transformers.json"
    prompts = read(PromptSettings, file) if file.is_file() else PromptSettings()
    if (prompt := prompts.default_prompt_name) is not None:
        raise ValueError(f"backbone {folder} puts the prompt {prompt!r} before a text, which is not done here")
    files = visible(folder.glob("sentence_*_config.json"))
    settings = read(TransformerSettings, files[0]) if files else TransformerSettings()
    return Reading(pooling=pooling, max_tokens=settings.max_seq_length, lower_case=settings.do_lower_case)


def pooling_of(folder: Path, wanted: PoolingName) -> Pooling:
    """How the encoder of a folder pools; errors as `reading_of`."""
    file = folder / "modules.json"
    if not file.is_file():
        if wanted == "auto":
            raise ValueError(
                f"backbone {folder} has no modules.json, so nothing says how it makes one vector of a text: copy that "
                "and 1_Pooling/config.json from the original, or give --backbone.pooling mean or cls"
            )
        return Pooling(way=wanted, normalize=False)
    modules = documents.from_json(Modules, b'{"modules": %b}' % file.read_bytes(), file).modules
    names = [module.type.rpartition(".")[2] for module in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0].path:
        raise ValueError(
            f"backbone {folder} is made of {', '.join(names)} (modules.json); a Transformer in the folder itself, a "
            "Pooling and perhaps a Normalize are taken"
        )
    place = modules[1].path
    if Path(place).name != place:
        raise ValueError(f"modules.json of backbone {folder} names {place!r}, which is no folder within it")
    way = way_of(folder / place / "config.json")
    if wanted not in ("auto", way):
        raise ValueError(
            f"--backbone.pooling {wanted} was given, but the files of backbone {folder} say {way}; leave it out"
        )
    return Pooling(way=way, normalize="Normalize" in names)


def way_of(file: Path) -> Way:
    """What a Pooling's configuration says, in the older words or the newer; errors as `reading_of`."""
    ways = read(PoolingSettings, file).ways()
    if len(ways) == 1 and ways[0] in WAYS:
        return WAYS[ways[0]]
    raise ValueError(f"{file} says to pool by {' and '.join(ways) or 'nothing'}; mean, cls or max are taken")


def read(kind: type[Content], file: Path) -> Content:
    """The content of a JSON file (ValueError where there is none, CorruptData where it is damaged)."""
    try:
        return documents.from_json(kind, file.read_bytes(), file)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing; copy it from the original checkpoint") from error
