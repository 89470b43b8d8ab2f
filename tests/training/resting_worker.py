"""Ranks on which one of two loaded adapters is trained, alone or in a training (`prepare`), and what both became."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.training import sharding_worker
from tests.training.sharding_worker import ZERO_STAGES, Toy, run
from training.ending import exits
from training.engine import stages
from training.engine.sharding import Engine
from training.engine.stages import enter
from training.session import Session
from training.settings import Rates, Stage
from vla.adapter_settings import AdapterConfig
from vla.adapters.host import Adapters
from vla.adapters.layer import Blend

STAGE = Stage(steps=4, lr=Rates(adapter=1e-2), weight_decay=0.1)
TRAINED, OTHER = "trained", "other"


def put_on(adapters: Adapters, name: str, *targets: str) -> None:
    """An adapter that does something, by chance."""
    config = AdapterConfig(name=name, rank=2, dropout=0.0)
    adapters.add(config if not targets else AdapterConfig(name=name, rank=2, dropout=0.0, targets=targets))
    generator = torch.Generator().manual_seed(len(adapters.names))
    for parameter in adapters.parameters(name).values():
        parameter.data = torch.randn(parameter.shape, generator=generator)


class Adapted(Toy):
    """The toy policy with two adapters, of which the first counts, or both."""

    def __init__(self, *, both: bool) -> None:
        super().__init__(0)
        self.adapters = Adapters(self, Blend())
        for name in (TRAINED, OTHER):
            put_on(self.adapters, name, r"(sensor|expert)\.linear")
        self.adapters.set(dict.fromkeys((TRAINED, OTHER) if both else (TRAINED,), 1.0))


def build(zero: int, policy: nn.Module) -> Engine:
    """As sharding_worker.build, of another policy and stage."""
    accelerator = sharding_worker.started(zero)
    micro = sharding_worker.ROWS // sharding_worker.ACCUMULATION // accelerator.num_processes
    groups = enter("toy", STAGE, policy)
    return Engine(
        accelerator,
        policy,
        groups,
        betas=(0.9, 0.95),
        clip=0.5,
        micro_batch=micro,
        accumulation=sharding_worker.ACCUMULATION,
    )


def moved(engine: Engine, before: dict[str, Tensor]) -> int:
    """How many of some parameters are not bitwise what they were."""
    now = engine.frozen(list(before))
    return sum(not torch.equal(now[name], value) for name, value in before.items())


def watch(out: str) -> None:
    """By ZeRO stage, how many weights of each adapter moved: ours, and with both trained until one no longer counts."""
    exits.main(lambda: _watch(Path(out)))


def _watch(out: Path) -> None:
    seen: dict[str, Any] = {}
    for zero in ZERO_STAGES:
        found: dict[str, Any] = {}
        for both in (False, True) if zero else (False,):  # DDP ends with an error of its own where both are trained
            policy = Adapted(both=both)
            before = {name: _copies(policy, name) for name in (TRAINED, OTHER)}
            engine = build(zero, policy)
            if both:
                run(engine, 0, 1)
                policy.adapters.set({TRAINED: 1.0})
                before[OTHER] = engine.frozen(list(before[OTHER]))
                engine.arrivals.check = lambda: None  # type: ignore[method-assign]  # it refuses that
            run(engine, 1, 4)
            found["plain" if both else "ours"] = {name: moved(engine, own) for name, own in before.items()}
            found["weights"] = {name: len(own) for name, own in before.items()}
            engine.close()
        seen[str(zero)] = found
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps(seen))


def _copies(policy: Adapted, name: str) -> dict[str, Tensor]:
    return {path: parameter.detach().clone() for path, parameter in policy.adapters.parameters(name).items()}


def beside() -> None:
    """Load a second adapter beside that of a training, and leave RESTING.json: how many of its weights have moved."""
    from training import adapted

    build_policy, leave, learned = adapted.policy_of, Session.leave, stages.learned
    before: dict[str, Tensor] = {}

    def with_another(*arguments: Any) -> Any:
        policy = build_policy(*arguments)
        put_on(policy.adapters, OTHER)
        before.update({name: own.detach().clone() for name, own in policy.adapters.parameters(OTHER).items()})
        return policy

    def of_the_run(*arguments: Any) -> list[str]:
        return [name for name in learned(*arguments) if name not in before]  # no weights of it are in the base's

    def compared(session: Session, engine: Any, row: Any, ending: Any) -> None:
        result = {"weights": len(before), "moved": moved(engine, before), "zero": engine.zero_stage}
        if session.accelerator.is_main_process:
            (session.out / "RESTING.json").write_text(json.dumps(result))
        leave(session, engine, row, ending)

    adapted.policy_of, stages.learned = with_another, of_the_run
    Session.leave = compared  # type: ignore[method-assign]
