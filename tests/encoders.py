"""Small random sentence encoders in folders, as transformers and sentence-transformers write them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast

WIDTH = 32
POSITIONS = 64
SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
"""In the order of roberta, whose padding has index 1."""


def write_encoder(
    folder: Path,
    model_type: str = "bert",
    *,
    pooling: dict[str, Any] | None = None,
    normalize: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """A complete folder; without `pooling`, nothing in it says how its tokens become one vector."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(CONFIG_MAPPING[model_type](**sizes(model_type), **settings))
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if pooling is not None:
        write_modules(folder, pooling, normalize=normalize)
    return folder


def sizes(model_type: str) -> dict[str, Any]:
    """Few and narrow layers."""
    ids = {f"{name}_token_id": place for place, name in enumerate(("bos", "pad", "eos"))}
    ids |= {"vocab_size": 256 + len(SPECIAL)}
    if model_type == "distilbert":
        return ids | {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": POSITIONS}
    found = ids | {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if model_type in ("albert", "electra"):
        found |= {"embedding_size": 16}
    if model_type == "modernbert":
        found |= {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 8}
    return found | {"max_position_embeddings": POSITIONS}


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, between a mark of begin and one of end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL.values(), *alphabet]
    made = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    marks = {f"{name}_token": word for name, word in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, **marks, cls_token="<s>", sep_token="</s>")


def write_modules(
    folder: Path, pooling: dict[str, Any], *, normalize: bool = False, further: tuple[str, ...] = ()
) -> None:
    """What sentence-transformers writes beside a model."""
    names = ["Transformer", "Pooling", *further, *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{name}" if place else "", "type": f"some.where.{name}"}
        for place, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **pooling}))


def look(*texts: str) -> Any:
    """An observation of texts alone."""
    from vla.batch import Observation

    return Observation(
        images=((),) * len(texts),
        image_valid=torch.ones(len(texts), 0, dtype=torch.bool),
        instructions=texts,
        state=torch.zeros(len(texts), 0),
        streams={},
    )
