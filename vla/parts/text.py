"""A frozen sentence encoder as the backbone of a policy that is told in words and looks at no frame: one token a text.

A text is encoded once a process, and alone: beside others the last digits of its embedding would depend on them, and
so the losses of a resumed run on where it was stopped. The encoder is no child of the backbone's module: under ZeRO-3
its forward would wait for the other ranks, which may know the text already.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from vla import provenance
from vla.batch import Observation
from vla.instruction import check_instruction
from vla.moving import moved
from vla.parts import hashed
from vla.parts.embeddings import Embeddings, EncoderName, write_embeddings
from vla.parts.kind import Backbone, Kind
from vla.parts.memory import Memory
from vla.parts.pretrained import check_weights, fingerprint_of, keep_weights, read_model
from vla.parts.processor import read_tokenizer
from vla.parts.sentence import Reading, reading_of
from vla.settings import BackboneConfig

MODEL_TYPES = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Of the encoders that are taken: their states do not depend on what pads a text."""
SHIFTED = {"camembert", "mpnet", "roberta", "xlm-roberta"}
"""Those whose first position comes behind the index of the padding."""

log = logging.getLogger(__name__)


@runtime_checkable
class Encoder(Protocol):
    """Text -> vector, from the text alone."""

    @property
    def num_parameters(self) -> int:
        """Weights that it has."""
        ...

    def __call__(self, text: str, device: torch.device, /) -> Float32[Tensor, " W"]:
        """The embedding of a text, computed on a device."""
        ...


class TextBackbone(Backbone):
    """One token a text, which is its embedding."""

    prompt = "the instruction alone, as one embedding"

    def __init__(self, encoder: Encoder, name: EncoderName, config: BackboneConfig, folder: Path) -> None:
        super().__init__(config, folder, name.width)
        self.encoder = encoder
        self.name = name
        self.num_apart = encoder.num_parameters
        self._known: dict[str, Tensor] = {}

    @property
    def size(self) -> None:
        """It looks at no frame."""

    def forward(
        self, observation: Observation, _: Memory | None = None, /
    ) -> tuple[Float32[Tensor, "B 1 W"], Bool[Tensor, "B 1"]]:
        """The embeddings of the instructions, which may always be looked at.

        Raises:
            ValueError: an instruction is empty or too long.
        """
        device = observation.state.device
        [tokens] = moved([self.embed(observation.instructions, device)], device)
        return tokens[:, None], torch.ones(len(tokens), 1, dtype=torch.bool, device=device)

    def embed(self, texts: Sequence[str], device: torch.device) -> Float32[Tensor, "B W"]:
        """The embeddings of some texts, on the CPU; those that are not known yet are computed on the device.

        Raises:
            ValueError: a text is empty or too long.
        """
        for text in texts:
            if text not in self._known:
                check_instruction(text, "an observation", "the observation")
                with torch.no_grad(), torch.autocast(device.type, enabled=False):
                    self._known[text] = self.encoder(text, device).cpu()
        return torch.stack([self._known[text] for text in texts])

    def remember(self, embeddings: Embeddings, place: Path | str) -> None:
        """Take embeddings from a place instead of computing them.

        Raises:
            ValueError: they are of another encoder, or of this one with another pooling.
        """
        if embeddings.encoder.fingerprint != self.name.fingerprint:
            raise ValueError(
                f"{place} holds embeddings of {embeddings.encoder}, the backbone is {self.name}; give the encoder they "
                "are of, or embed the texts again with `vla embed`"
            )
        self._known |= embeddings.vectors

    def save(self, file: Path) -> str:
        """Write all that is known into a file, and return its SHA-256; at least one text is."""
        return write_embeddings(Embeddings(encoder=self.name, vectors=self._known), file)

    def last_layer_names(self, count: int) -> set[str]:
        """It has none that can be trained (ValueError)."""
        raise ValueError(
            f"cannot train the last {count} blocks: {self.name.id} is a sentence encoder, which stays as it is"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known: another process encodes what it meets."""
        return self.__dict__ | {"_known": {}}


class SentenceEncoder:
    """A BERT-like model with its tokenizer, and how its own files say that a text is read; in float32."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        """Raises ValueError where weights or tokenizer do not fit the config.json."""
        with torch.random.fork_rng(devices=[]):  # a pooler that the weights lack is drawn, and asked for nothing
            self.model = read_model(AutoModel, folder, unused="pooler", dtype=torch.float32, trust_remote_code=False)
        if not torch.cuda.is_available():
            keep_weights(self.model)
        self.tokenizer = read_tokenizer(folder)
        self.reading = reading
        limits = (reading.max_tokens, self.tokenizer.model_max_length, positions_of(self.model.config))
        self.room = min(limit for limit in limits if limit is not None)
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def __call__(self, text: str, device: torch.device) -> Float32[Tensor, " W"]:
        """The embedding of a text; what has no room is cut off, and said."""
        written = text.lower() if self.reading.lower_case else text
        inputs = self.tokenizer(written, truncation=True, max_length=self.room)
        if inputs.encodings[0].overflowing:
            log.warning("of the text %r the encoder reads the first %d tokens alone", f"{text[:40]}...", self.room)
        tokens = torch.tensor([inputs["input_ids"]], device=device)
        output = self.model.to(device)(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return self.reading.pooling(output.last_hidden_state[0])


def positions_of(config: PretrainedConfig) -> int:
    """Tokens that a model has positions for."""
    shift = config.pad_token_id + 1 if config.model_type in SHIFTED else 0
    return int(config.max_position_embeddings) - shift


def check(folder: Path) -> None:
    """Refuse a folder without complete weights or a tokenizer (ValueError)."""
    check_weights(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"backbone {folder} has no tokenizer.json; copy it from the original checkpoint, or write it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers"
        )


def width_of(folder: Path) -> int:
    """Width of the states of a sentence encoder."""
    return int(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).hidden_size)


def load_sentence_encoder(config: BackboneConfig, folder: Path, _: torch.dtype) -> TextBackbone:
    """The backbone of a complete folder; errors as `reading_of` and `SentenceEncoder`."""
    reading = reading_of(folder, config.pooling)
    name = EncoderName(
        id=provenance.source(config.path, None).name,
        fingerprint=fingerprint_of(folder, str(reading)),
        pooling=str(reading.pooling),
        width=width_of(folder),
    )
    return TextBackbone(SentenceEncoder(folder, reading), name, config, folder)


def load_hashed_words(config: BackboneConfig, folder: Path, _: torch.dtype) -> TextBackbone:
    """The backbone that hashes words."""
    width = hashed.width_of(folder)
    name = EncoderName(
        id=provenance.source(config.path, None).name,
        fingerprint=fingerprint_of(folder),
        pooling="counts of words, L2-normalised",
        width=width,
    )
    return TextBackbone(hashed.HashedWords(width=width), name, config, folder)


SENTENCE_ENCODER = Kind(
    words="a sentence encoder",
    sees=False,
    settings=frozenset({"pooling", "embeddings"}),
    check=check,
    width=width_of,
    reading=lambda folder, pooling: str(reading_of(folder, pooling)),
    load=load_sentence_encoder,
)
HASHED_WORDS = Kind(
    words="a hashed bag of words",
    sees=False,
    settings=frozenset({"embeddings"}),
    check=hashed.check,
    width=hashed.width_of,
    load=load_hashed_words,
)
