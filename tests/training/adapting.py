"""Trainings of adapters in this process: what they are asked, and a few steps of one, watched."""

import torch
from accelerate.state import AcceleratorState, GradientState

from training import loop, recipes
from training.config import RunConfig
from training.flags import parse
from training.session import Session
from vla.batch import Batch, collate
from vla.policy import Policy

SMALL = ["--batch-size", "4", "--micro-batch", "2", "--data.workers", "0", "--tracker", "jsonl", "--adapter.rank", "4"]


def forget() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def config(*argv: str, **environment: str) -> RunConfig:
    return parse(recipes.adapter(), argv, environment)


def train(words: list[str]) -> None:
    loop.train(config(*words))
    forget()


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.named_parameters()}


class Taken:
    """A few steps of a session, watched."""

    def __init__(self, settings: RunConfig) -> None:
        with Session(settings) as session:
            row = session.next_row()
            assert row is not None
            engine = session.enter(row)
            self.policy, self.before = session.policy, weights(session.policy)
            self.reached: set[str] = set()
            for name, parameter in session.policy.named_parameters():
                if parameter.requires_grad:
                    parameter.register_hook(lambda gradient, name=name: self.reach(name, gradient))
            self.batch: Batch = collate([session.run.data.train[place] for place in range(12)], 0, "noise")
            session.leave(engine, row, loop.train_stage(session, engine, row))
        forget()

    def reach(self, name: str, gradient: torch.Tensor) -> None:
        if gradient.any():
            self.reached.add(name)
