"""Runs on N ranks: trains LoRA on an attention under some topologies, and with peft's own layers, writes the losses."""

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn

from tests.training.sharding_worker import ACCUMULATION, ROWS, STEPS, Part, run, started
from training.ending import exits
from training.engine.sharding import Engine
from training.engine.stages import enter
from training.settings import Rates, Stage
from vla.parts import lora
from vla.parts.projection import Projection


class Attention(nn.Module):
    """As much of one as has its projections."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out: Tensor = self.o_proj((query * key).tanh() + value)
        return out


class Adapted(nn.Module):
    """A frozen attention with LoRA, and a trained part."""

    def __init__(self, *, ours: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(Attention(), Attention())
        self.expert = Part(6, 5)
        settings = PeftLoraConfig(r=2, lora_alpha=3, target_modules=sum(lora.TOGETHER, ()))
        if ours:
            settings._register_custom_module({nn.Linear: Projection})
        inject_adapter_in_model(settings, self.backbone)
        if ours:
            for attention in self.backbone:
                lora.join(attention)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in self.backbone.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"part": self.expert(self.backbone(x)).select(-1, 0).sin()}


def losses(zero: int, *, ours: bool) -> list[float]:
    """Those of a few steps, and before and after what the backbone makes of some rows."""
    accelerator = started(zero, whole=False)
    policy = Adapted(ours=ours)
    groups = enter("adapted", Stage(steps=STEPS, lr=Rates(lora=3e-2, expert=1e-2)), policy)
    engine = Engine(
        accelerator,
        policy,
        groups,
        betas=(0.9, 0.95),
        clip=10.0,
        micro_batch=ROWS // ACCUMULATION // accelerator.num_processes,
        accumulation=ACCUMULATION,
    )
    rows = torch.linspace(-1, 1, ROWS * 6).view(ROWS, 6)

    def look() -> float:
        """A part of the policy, as validation calls it, before the first step and after the last."""
        with torch.no_grad():
            return float(policy.backbone(rows).square().mean())

    found = [look(), *run(engine, 0, STEPS)[0], look()]
    engine.close()
    return found


def main(out: str) -> None:
    def watch() -> None:
        seen = {"peft": losses(0, ours=False)} | {str(zero): losses(zero, ours=True) for zero in (0, 2, 3)}
        if os.environ["RANK"] == "0":
            Path(out).write_text(json.dumps(seen))

    exits.main(watch)
