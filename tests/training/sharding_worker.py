"""Runs on N ranks: trains a toy policy under every topology, moves its state between them, writes what it saw."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from training import distributed
from training.ending import exits
from training.engine.sharding import Engine
from training.engine.stages import enter
from training.engine.state import MOMENTS, State
from training.settings import Rates, Stage

ROWS, STEPS, ACCUMULATION = 12, 4, 2
ZERO_STAGES = (0, 1, 2, 3)
MOVES = ["0->0", "1->1", "2->2", "3->3", "0->2", "2->3", "3->0", "1->3"]


class Part(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inside, outside)
        self.norm = nn.LayerNorm(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Toy(nn.Module):
    """A frozen bf16 part, and two trained parts whose sizes (7, 5) no number of ranks divides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Linear(6, 16).to(torch.bfloat16)
        self.sensor = Part(16, 7)
        self.expert = Part(7, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.backbone(x.to(torch.bfloat16)).float()
        return {"part": self.expert(self.sensor(hidden)).square().sum(-1).sin()}


def stage() -> Stage:
    return Stage(steps=STEPS, lr=Rates(sensor=1e-2, expert=1e-3), weight_decay=0.1)


def started(zero: int, *, whole: bool = True) -> Accelerator:
    """The accelerator of a ZeRO stage, whose third leaves small parameters `whole`; 0 is without DeepSpeed."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # a plugin sets it for the rest of the process
    settings = {"stage": zero, "overlap_comm": False} | ({} if whole else {"stage3_param_persistence_threshold": 0})
    config = {"zero_optimization": settings, "train_micro_batch_size_per_gpu": "auto"}
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False) if zero else None
    return distributed.start_accelerator(plugin)


def build(zero: int, state: State | None = None, seed: int = 0) -> Engine:
    accelerator = started(zero)
    policy = Toy(seed if state is None else seed + 1)
    if state is not None:
        policy.load_state_dict(
            dict(state.weight) | {k: v for k, v in Toy(seed).state_dict().items() if "backbone" in k}
        )
    groups = enter("toy", stage(), policy)
    micro = ROWS // ACCUMULATION // accelerator.num_processes
    return Engine(
        accelerator,
        policy,
        groups,
        betas=(0.9, 0.95),
        clip=0.5,
        micro_batch=micro,
        accumulation=ACCUMULATION,
        state=state,
    )


def run(
    engine: Engine, first: int, last: int, accumulation: int = ACCUMULATION
) -> tuple[list[float], list[dict[str, float]]]:
    losses, norms = [], []
    accelerator = engine.accelerator
    micro = ROWS // accumulation // accelerator.num_processes
    for step in range(first, last):
        data = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step))
        summed = 0.0
        for part in range(accumulation):
            begin = (part * accelerator.num_processes + accelerator.process_index) * micro
            with engine.micro_batch(last=part == accumulation - 1):
                loss = engine(data[begin : begin + micro].to(accelerator.device))["part"].sum()
                engine.backward(loss * accelerator.num_processes / ROWS)
            summed += loss.item()
        norm = engine.gradient_norms()
        engine.step(stage().factor(step, STEPS), 0.9, norm["all"], torch.tensor(0.0))
        losses.append(distributed.total(accelerator, summed)[0] / ROWS)
        norms.append({group: float(value) for group, value in norm.items()})
    return losses, norms


def difference(a: State, b: State) -> float:
    pairs = [(a.weight, b.weight), *((a.moments[key], b.moments[key]) for key in MOMENTS)]
    assert all(x.keys() == y.keys() for x, y in pairs)
    assert a.adam_steps == b.adam_steps, (a.adam_steps, b.adam_steps)
    return max((x[name] - y[name]).abs().max().item() for x, y in pairs for name in x)


def without_bias(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], norm.weight)


def say_missing(out: str) -> None:
    """What is refused, under every topology, where one parameter is left out of the loss, of the second step alone."""

    def watch() -> None:
        said = {}
        for zero in ZERO_STAGES:
            engine = build(zero)
            run(engine, 0, 1)
            engine.policy.sensor.norm.forward = partial(without_bias, engine.policy.sensor.norm)
            try:
                run(engine, 1, 2)
            except ValueError as error:
                said[str(zero)] = str(error)
            engine.close()
        if os.environ["RANK"] == "0":
            Path(out).write_text(json.dumps(said))

    exits.main(watch)


def reduced(accumulation: int) -> list[int]:
    """How many bytes of gradients this rank handed over to be reduced in each of two DDP steps."""
    engine, handed = build(0), [0, 0]

    def count(step: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        handed[step[0]] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    step = [0]
    engine.module.register_comm_hook(step, count)
    for step[0] in range(2):
        run(engine, step[0], step[0] + 1, accumulation)
    engine.close()
    return handed


def count_reduced(out: str) -> None:
    """What is reduced at each accumulation, and the size of one gradient, go to a file."""

    def watch() -> None:
        once = 4 * sum(parameter.numel() for name, parameter in Toy(0).named_parameters() if "backbone" not in name)
        seen = {"once": once} | {str(accumulation): reduced(accumulation) for accumulation in (1, 2, 4)}
        if os.environ["RANK"] == "0":
            Path(out).write_text(json.dumps(seen))

    exits.main(watch)


def main(out: str, stages: Sequence[int], moves: Sequence[str]) -> None:
    """Train straight under some ZeRO stages, and with a move in the middle; what was seen goes to a file."""
    exits.main(lambda: watch(Path(out), stages, moves))


def watch(out: Path, stages: Sequence[int], moves: Sequence[str]) -> None:
    result: dict[str, object] = {}
    straight: dict[int, tuple[list[float], State]] = {}
    for zero in stages:
        engine = build(zero)
        losses, norms = run(engine, 0, STEPS)
        straight[zero] = losses, engine.state()
        before = engine.gather("weight")
        with engine.averaged():
            averaged = engine.frozen(list(engine.parameters))
        ema = engine.gather("ema")
        after = engine.frozen(list(engine.parameters))
        frozen = engine.frozen(["backbone.weight"])["backbone.weight"]
        result[f"zero{zero}"] = {
            "losses": losses,
            "norms": norms,
            "stage": engine.zero_stage,
            "averaged_is_ema": all(torch.equal(averaged[name], ema[name]) for name in ema),
            "restored": all(torch.equal(before[name], after[name]) for name in ema),
            "ema_moved": any(not torch.equal(before[name], ema[name]) for name in ema),
            "frozen": torch.equal(frozen, Toy(0).backbone.weight.detach()) and frozen.dtype == torch.bfloat16,
        }
        engine.close()
    for move in moves:
        source, target = map(int, move.split("->"))
        engine = build(source)
        first, _ = run(engine, 0, 2)
        state = engine.state()
        engine.close()
        engine = build(target, state)
        loaded = difference(state, engine.state())
        second, _ = run(engine, 2, STEPS)
        result[move] = {
            "loaded": loaded,
            "losses": first + second,
            "final": difference(straight[target][1], engine.state()),
        }
        engine.close()
    if int(os.environ.get("RANK", "0")) == 0:
        out.write_text(json.dumps(result))
