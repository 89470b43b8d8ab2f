"""Embeddings of texts in a file, with the encoder that they are of."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla import documents
from vla.errors import CorruptData
from vla.headers import write_tensors

ENCODER = "encoder"
"""The entry of the file's header that makes it one of ours."""


@dataclass(frozen=True, kw_only=True)
class EncoderName:
    """What tells one sentence encoder from another."""

    id: str
    """`hash`, `minilm`, its id on a hub, or its folder's last name."""
    fingerprint: str
    """Of its files and its pooling: it alone decides whether two are the same."""
    pooling: str
    """In words: `mean, L2-normalised`."""
    width: int
    """Of an embedding."""

    def __str__(self) -> str:
        return f"{self.id} ({self.pooling}, {self.width} wide, {self.fingerprint[:12]})"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Texts as an encoder has them."""

    encoder: EncoderName
    vectors: Mapping[str, Float32[Tensor, " W"]]
    """By text; at least one, on the CPU."""


def write_embeddings(embeddings: Embeddings, file: Path) -> str:
    """Write a file, beside its place first, and return its SHA-256.

    The texts lie in a tensor of bytes, as a list in JSON: the header of a file is small.
    """
    texts = json.dumps(list(embeddings.vectors), ensure_ascii=False).encode()
    tensors = {
        "texts": torch.frombuffer(bytearray(texts), dtype=torch.uint8),
        "embeddings": torch.stack(list(embeddings.vectors.values())),
    }
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        write_tensors(tensors, beside, {"format": "pt", ENCODER: documents.to_bytes(embeddings.encoder).decode()})
        with beside.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)  # it is gone where it has become the file
    return digest


def read_embeddings(file: Path) -> Embeddings:
    """The content of a file that `write_embeddings` wrote.

    Raises:
        ValueError: there is none, or it is another kind of file.
        CorruptData: it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            said = (opened.metadata() or {}).get(ENCODER)
            if said is None:
                raise ValueError(f"{file} holds no embeddings of texts; give a file that `vla embed` wrote")
            encoder = documents.from_json(EncoderName, said, file)
            vectors = opened.get_tensor("embeddings")
            texts = json.loads(bytes(opened.get_tensor("texts").tolist()))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there; write it with `vla embed`, or leave it out") from error
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); write it again with `vla embed`") from error
    if vectors.shape != (len(texts), encoder.width) or not vectors.isfinite().all():
        raise CorruptData(
            f"{file} holds {len(texts)} texts and embeddings of shape {tuple(vectors.shape)}, not {encoder.width} "
            "finite numbers each; write it again with `vla embed`"
        )
    return Embeddings(encoder=encoder, vectors=dict(zip(texts, vectors, strict=True)))
