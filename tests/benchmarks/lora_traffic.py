r"""What LoRA costs beside the products: a language layer of the 3B's widths, frozen, with peft's LoRA and with ours.

    python -m tests.benchmarks.lora_traffic [--json docs/benchmarks/lora_traffic.json]

Per token and layer: KiB that kernels other than products read and write in forward and backward, KiB that autograd
keeps in between, and the kernels of both; bfloat16 weights, float32 LoRA of rank 16 with dropout, under autocast. A
kernel's operands are counted once each: caches are not taken off. The losses of peft's layers and of ours are held
against each other without dropout, and so are the gradients.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLRotaryEmbedding

from tests.kernels import Kernels
from vla.parts import lora
from vla.parts.projection import Projection

WIDTH, SHAPE, DROPOUT = 2048, (2, 256), 0.05
CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 11008,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
AT_MOST = {"moved": 1200, "kept": 100}
"""KiB a token and layer that ours may take."""


def made(shape: tuple[int, int] = SHAPE) -> tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]:
    """A frozen layer, its input of so many rows and tokens, and the rotary positions."""
    torch.manual_seed(0)
    config = Qwen2_5_VLTextConfig(**CONFIG)
    config._attn_implementation = "sdpa"
    rope = Qwen2_5_VLRotaryEmbedding(config)
    torch.set_default_dtype(torch.bfloat16)
    try:
        frozen = Qwen2_5_VLDecoderLayer(config, 0).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.randn(*shape, WIDTH, dtype=torch.bfloat16)
    return frozen, x, rope(x, torch.arange(shape[1]).expand(3, *shape))


def adapted(layer: nn.Module, dropout: float, *, ours: bool) -> nn.Module:
    """The layer with LoRA whose B is not zero, so that all gradients flow."""
    settings = PeftLoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules=sum(lora.TOGETHER, ()))
    if ours:
        settings._register_custom_module({nn.Linear: Projection})
    found = copy.deepcopy(layer)
    inject_adapter_in_model(settings, found)
    if ours:
        lora.join(found.get_submodule("self_attn"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in found.named_parameters():
        if "lora_" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
            parameter.requires_grad_(True)
    return found.train()


def measure(layer: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Costs of forward and backward a token, and the loss, half the square of the output, with its gradients."""
    weights = {parameter.untyped_storage()._cdata for parameter in layer.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # else its memory would be given to another
        if (place := tensor.untyped_storage()._cdata) not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    x = x.clone().requires_grad_()
    with Kernels() as counted:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = layer(x, attention_mask=None, position_embeddings=rope, use_cache=False)
        out.backward(out.detach())
    tokens = x.shape[0] * x.shape[1]
    costs = {
        "moved": counted.moved / tokens / 1024,
        "kept": sum(kept.values()) / tokens / 1024,
        "kernels": sum(counted.launched.values()),
    }
    grown = {name: own.grad for name, own in layer.named_parameters() if own.grad is not None}
    assert x.grad is not None
    return costs, {"loss": out.detach().float().square().sum() / 2, "input": x.grad, **grown}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    frozen, x, rope = made()
    contenders = {"frozen": frozen}
    for name, ours in (("peft", False), ("ours", True)):
        contenders[name] = adapted(frozen, DROPOUT, ours=ours)
    found: dict[str, Any] = {name: measure(layer, x, rope)[0] for name, layer in contenders.items()}
    for name, costs in found.items():
        print(f"{name:<8}{costs['moved']:>8.0f} KiB moved{costs['kept']:>8.1f} kept{costs['kernels']:>6.0f} kernels")
    plain = [measure(adapted(frozen, 0.0, ours=ours), x, rope)[1] for ours in (False, True)]
    apart = {
        name: float((own.float() - plain[1][name].float()).norm() / own.float().norm())
        for name, own in plain[0].items()
    }
    worst = max(apart.values())
    print(f"without dropout the loss is {apart['loss']:.1e} from peft's, gradients at most {worst:.1e} of their norm")
    held = all(found["ours"][name] <= most for name, most in AT_MOST.items())
    print("held" if held else f"missed: at most {AT_MOST}")
    if asked.json is not None:
        content = {"tokens": list(SHAPE), "dropout": DROPOUT, "found": found, "loss": apart["loss"], "gradients": worst}
        asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
