r"""What a step of the 3B costs on one GPU, with random weights: eager, compiled, behind each door, beside a plain loop.

    python -m tests.benchmarks.h200 --json docs/benchmarks/h200.json      on a GPU of 80 GB or more, 8 minutes at most
    python -m tests.benchmarks.h200 --tiny                               the same code at tiny size, on any machine

Three cameras of 224 x 224 and an instruction of about 64 tokens, micro-batches of 4, 8, 32 and 64; nothing is read from
disk, so that the device alone is timed. `plain` is peft's own layers and torch's AdamW without norms, guard and
averages. FLOPs are counted by torch over one eager step of two samples, with what is recomputed or cached left out of
none: MFU is that of the model's whole arithmetic where nothing is cached, and is not told elsewhere. A micro-batch that
does not fit is said to. `act` is one observation whose frames differ at every call.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from training import distributed
from training.engine.sharding import Engine
from training.engine.stages import enter
from training.settings import Rates, Stage
from vla.adapter_settings import LoraConfig
from vla.batch import Batch, Prefix, Sample, collate
from vla.contract import DataContract, StreamContract
from vla.frames import Features
from vla.normalize import Normalizer
from vla.packed import Packing
from vla.parts import Encoders, lora, tiny
from vla.parts.images import read_image_processor
from vla.parts.processor import Processor
from vla.parts.qwen import QwenVL
from vla.parts.vision import pack_attention
from vla.planning.outline import PUBLISHED
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig, ExpertConfig, SensorConfig
from vla.statistics import fit

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, by a word of the device's name: the makers' data sheets."""
SIDE, MICRO, STEPS, WARM = 224, (4, 8, 32, 64), 8, 3
LARGE = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"]
CONTRACT = DataContract(
    cameras=("front", "wrist", "side"),
    state_dim=8,
    action_dim=7,
    horizon=16,
    fps=30.0,
    streams={"sensor": StreamContract(key="wrench", channels=6, samples=100, rate_hz=500.0)},
    state_names=(),
    action_names=(),
    action_periods=(0.0,) * 7,
)
TEXT = "Pick up the small red block beside the grey box and put it down gently onto the second shelf. " * 2


@dataclass(frozen=True)
class Contender:
    """How a stage is trained."""

    rates: Rates
    layers: str = "all"
    door: str = "none"
    plain: bool = False
    compiled: bool = False


OPEN = Rates(sensor=1e-4, expert=1e-4, lora=1e-5)
CONTENDERS = {
    "plain": Contender(OPEN, plain=True),
    "eager": Contender(OPEN),
    "compiled": Contender(OPEN, compiled=True),
    "cached vision": Contender(OPEN, door="vision"),
    "top half": Contender(OPEN, layers="half", door="layer"),
    "cached stage 1": Contender(Rates(sensor=1e-4, expert=1e-4), door="context"),
}


def backbone(device: torch.device, dtype: torch.dtype, *, small: bool) -> QwenVL:
    """A random one on its device, with the tiny one's tokenizer and image processor."""
    folder = tiny.build()
    given = tiny.CONFIG if small else {**tiny.CONFIG, **LARGE, "dtype": None}
    config = Qwen2_5_VLConfig(**{key: value for key, value in given.items() if key not in ("architectures", "dtype")})
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(torch.float32)
    pack_attention(model)
    own = BackboneConfig(path="tiny", max_pixels=SIDE**2)
    images = read_image_processor(folder, own.min_pixels, own.max_pixels)
    processor = Processor(folder, images, model.config, model.model.get_rope_index)
    return QwenVL(model.requires_grad_(False), processor, own, folder).eval()


@contextmanager
def plain_layers() -> Iterator[None]:
    """Within it LoRA's layers are peft's own."""
    with (
        mock.patch("peft.LoraConfig._register_custom_module"),
        mock.patch.object(lora, "join"),
    ):
        yield


def built(own: Contender, found: QwenVL, dtype: torch.dtype, *, small: bool) -> Policy:
    """The policy of a contender round the backbone."""
    statistics_of = {
        "actions": fit(np.random.default_rng(0).standard_normal((99, 7)).astype(np.float32), [0.0] * 7),
        "state": fit(np.random.default_rng(1).standard_normal((99, 8)).astype(np.float32), [0.0] * 8),
        "sensor": fit(np.random.default_rng(2).standard_normal((99, 6)).astype(np.float32), [0.0] * 6),
    }
    half = found.num_layers // 2
    settings = LoraConfig(layers=f"top:{half}" if own.layers == "half" else "all")
    expert = ExpertConfig(width=64, depth=2, heads=2) if small else ExpertConfig(width=1024, depth=6, heads=16)
    config = PolicyConfig(
        backbone=found.config,
        encoders=Encoders(sensor=SensorConfig(width=32 if small else 256, depth=2, heads=2)),
        expert=expert,
        lora=settings if own.rates.lora is not None else None,
    )
    if config.lora is not None:
        with plain_layers() if own.plain else mock.patch.object(lora, "TARGETS", lora.TARGETS):
            lora.add(found, config.lora, 0)
    policy = Policy(
        config=config,
        contract=CONTRACT,
        backbone=found,
        normalizers={name: Normalizer.of(own, "quantile") for name, own in statistics_of.items()},
        compute_dtype=dtype,
        seed=0,
    )
    if own.compiled:
        model = found.plain.model
        for block in (*model.language_model.layers, *model.visual.blocks, *policy.expert.blocks):
            block.compile()
    return policy


def samples(own: Contender, found: QwenVL, count: int) -> list[Sample]:
    """As many, with random pictures, or random records of the contender's door."""
    draw = np.random.default_rng(0)
    packing = Packing(precision="bf16", width=found.width)
    tokens = (SIDE // 28) ** 2
    grids = ((1, SIDE // 14, SIDE // 14),) * len(CONTRACT.cameras)
    length = len(found.processor.row(found.processor.instruct(TEXT, len(grids)), grids).input_ids)

    def rows(number: int) -> np.ndarray:
        values = torch.from_numpy(draw.standard_normal((number, found.width), dtype=np.float32))
        return packing.pack(values).numpy()

    def picture() -> Any:
        if own.door == "none":
            return draw.integers(0, 256, (3, SIDE, SIDE), np.uint8)
        return {Features(height=SIDE, width=SIDE, packing=packing): rows(tokens)} if own.door == "vision" else {}

    def prefix() -> Prefix | None:
        if own.door in ("none", "vision"):
            return None
        positions = np.arange(length, dtype=np.int32)[:, None].repeat(3, axis=1)
        layer = found.num_layers // 2 if own.door == "layer" else None
        visible = np.ones(length, np.bool_)
        return Prefix(rows=rows(length), visible=visible, positions=positions, packing=packing, layer=layer)

    def sample(position: int) -> Sample:
        from vla.batch import Reading

        values = draw.standard_normal((100, 6)).astype(np.float32)
        return Sample(
            images=tuple(picture() for _ in CONTRACT.cameras),
            image_valid=np.ones(len(CONTRACT.cameras), np.bool_),
            instruction=TEXT,
            state=draw.standard_normal(8).astype(np.float32),
            streams={"sensor": Reading(values=values, valid=np.ones(100, np.bool_))},
            actions=draw.standard_normal((16, 7)).astype(np.float32),
            action_valid=np.ones(16, np.bool_),
            weight=1.0,
            position=position,
            prefix=prefix(),
        )

    return [sample(position) for position in range(count)]


def stepper(own: Contender, policy: Policy, accelerator: Accelerator, micro: int) -> Callable[[Batch], None]:
    """What takes one step of one micro-batch."""
    groups = enter("bench", Stage(steps=100, lr=own.rates), policy)
    policy.set_mode(training=True)
    if own.plain:
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

        def bare(batch: Batch) -> None:
            torch.stack([loss.mean() for loss in policy(batch).values()]).sum().backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return bare
    engine = Engine(accelerator, policy, groups, betas=(0.9, 0.95), clip=1.0, micro_batch=micro, accumulation=1)
    keep = torch.zeros((), device=accelerator.device)

    def ours(batch: Batch) -> None:
        with engine.micro_batch(last=True):
            engine.backward(torch.stack([loss.mean() for loss in engine(batch).values()]).sum())
        engine.step(1.0, 0.999, engine.gradient_norms()["all"], keep)

    return ours


def waited(device: torch.device) -> float:
    """The time, once the device has done all."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def measured(
    own: Contender, accelerator: Accelerator, dtype: torch.dtype, micro: int, *, small: bool
) -> dict[str, Any]:
    """Samples a second and peak memory; or that it does not fit."""
    device = accelerator.device
    try:
        found = backbone(device, dtype, small=small)
        policy = built(own, found, dtype, small=small).to(device)
        step = stepper(own, policy, accelerator, micro)
        batch = collate(samples(own, found, micro), 0, "noise").to(device)
        if device.type != "cpu":
            torch.get_device_module(device).reset_peak_memory_stats()
        seconds = []
        for _ in range(WARM + STEPS):
            began = waited(device)
            step(batch)
            seconds.append(waited(device) - began)
    except torch.OutOfMemoryError:
        return {"fits": False}
    memory = None if device.type == "cpu" else torch.get_device_module(device).max_memory_allocated() / 2**30
    return {"fits": True, "samples_per_s": micro / statistics.median(seconds[WARM:]), "memory_gib": memory}


def flops(accelerator: Accelerator, dtype: torch.dtype, *, small: bool) -> float:
    """Of a sample of the eager stage, forward and backward."""
    found = backbone(accelerator.device, dtype, small=small)
    policy = built(CONTENDERS["eager"], found, dtype, small=small).to(accelerator.device)
    enter("bench", Stage(steps=100, lr=OPEN), policy)
    policy.set_mode(training=True)
    batch = collate(samples(CONTENDERS["eager"], found, 2), 0, "noise").to(accelerator.device)
    with FlopCounterMode(display=False) as counted:
        torch.stack([loss.mean() for loss in policy(batch).values()]).sum().backward()
    return counted.get_total_flops() / 2


@torch.no_grad()
def acting(accelerator: Accelerator, dtype: torch.dtype, *, small: bool) -> dict[str, float]:
    """Milliseconds of an answer, by the number of calls of the expert."""
    device = accelerator.device
    found = backbone(device, dtype, small=small)
    policy = built(replace(CONTENDERS["eager"], rates=Rates(expert=1e-4)), found, dtype, small=small).to(device)
    policy.set_mode(training=False)
    looks = [collate([own], 0, "noise").observation.to(device) for own in samples(CONTENDERS["eager"], found, 20)]
    noise: Tensor = torch.randn(1, 16, 7, device=device)
    found_ms = {}
    for calls in (2, 5, 10):
        seconds = []
        for look in looks:
            began = waited(device)
            policy.act(look, noise, calls)
            seconds.append(waited(device) - began)
        found_ms[str(calls)] = 1000 * statistics.median(seconds[WARM:])
    return found_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny weights, to try the script")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    accelerator = distributed.start_accelerator()
    device = accelerator.device
    dtype = torch.bfloat16
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = next((value for word, value in PEAK.items() if word in name), None)
    work = flops(accelerator, dtype, small=asked.tiny)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "tiny": asked.tiny, "flops_a_sample": work}
    for contender, own in CONTENDERS.items():
        for micro in MICRO[:1] if asked.tiny else MICRO:
            row = measured(own, accelerator, dtype, micro, small=asked.tiny)
            if row["fits"] and peak is not None and own.door == "none":
                row["mfu"] = row["samples_per_s"] * work / peak
            found.setdefault(contender, {})[str(micro)] = row
            print(f"{contender:<16}{micro:>4}  {row}", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    found["act_ms"] = acting(accelerator, dtype, small=asked.tiny)
    print(f"act, ms by calls of the expert: {found['act_ms']}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
