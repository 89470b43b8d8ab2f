"""The policies or adapters that a run leaves: that of its last step, and that of its lowest validation loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from training.adapted import name_of
from training.checkpoints import checkpoint
from training.checkpoints.checkpoint import Checkpoint
from training.engine.sharding import Engine
from training.forgetting import forgotten
from training.opening import Run
from training.run.folder import RunFolder
from vla.adapters.file import Base
from vla.adapting import base_of, save_adapter
from vla.policy import Policy
from vla.policy_folder import save_policy
from vla.run_folder import BEST

NO_BEST = "best: none, as no validation on held-out episodes gave a finite loss"
WEIGHTS = "weights"
"""The folder, in that of a run, of its adapter as it was at each --save-every."""


class Export(Protocol):
    """What writes what a run leaves; every call is collective."""

    def __call__(self, engine: Engine, run: Run, folder: RunFolder) -> None:
        """At its end."""

    def after(self, step: int, engine: Engine, run: Run, folder: RunFolder) -> None:
        """At a step of --save-every, once its checkpoint is under way."""


def exporter(policy: Policy, kept: Sequence[str]) -> Export:
    """What writes what a run leaves; of a policy that is adapted its adapter.

    `kept` names the learned parameters that the stage does not train. Called before ZeRO-3 divides the weights, which
    say what an adapter fits.
    """
    return Whole(policy, kept) if policy.config.adapter is None else Adapter(policy, base_of(policy))


@dataclass(frozen=True)
class Whole:
    """A policy."""

    policy: Policy
    kept: Sequence[str]

    def __call__(self, engine: Engine, run: Run, folder: RunFolder) -> None:
        """Write RUN/policy with the averaged weights and, with --keep-best, RUN/best."""
        tensors = engine.gather("ema") | engine.frozen(list(self.kept))
        if engine.accelerator.is_main_process:
            place = folder.path / "policy"
            save_policy(self.policy, place, tensors, run.held_out(), run.origin())
            print(f"policy: {place}")
        if run.config.keep_best:
            export_best(self.policy, engine, run, folder)
        engine.accelerator.wait_for_everyone()

    def after(self, step: int, engine: Engine, run: Run, folder: RunFolder) -> None:
        """Nothing: a policy is large, and checkpoints hold it."""


@dataclass(frozen=True)
class Adapter:
    """The adapter of a policy."""

    policy: Policy
    base: Base

    def __call__(self, engine: Engine, run: Run, folder: RunFolder) -> None:
        """Write RUN/adapter with the averaged weights and, with --keep-best, RUN/best."""
        place = folder.path / "adapter"
        self.write(place, engine.gather("ema"), folder.saver.last or run.rows[-1].end, engine, run)
        if engine.accelerator.is_main_process:
            print(f"adapter: {place}")
        if run.config.keep_best:
            found = checkpoint.best(folder.path, engine.accelerator)
            if found is None:
                folder.say(NO_BEST)
            else:
                self.write(folder.path / BEST, found.state().moments["ema"], found.manifest.step, engine, run)
                say_best(folder, found)
        engine.accelerator.wait_for_everyone()

    def after(self, step: int, engine: Engine, run: Run, folder: RunFolder) -> None:
        """Write RUN/weights/step-STEP with the averaged weights: they are small, and checkpoints come and go."""
        self.write(checkpoint.path_of(folder.path, step, WEIGHTS), engine.gather("ema"), step, engine, run)

    def write(self, place: Path, tensors: Mapping[str, Tensor], step: int, engine: Engine, run: Run) -> None:
        """Write an adapter folder, by rank 0."""
        if engine.accelerator.is_main_process:
            name, made, origin = name_of(self.policy), made_by(run, step), run.origin()
            save_adapter(self.policy, name, place, base=self.base, made=made, origin=origin, tensors=tensors)


def made_by(run: Run, step: int) -> dict[str, Any]:
    """How an adapter came to be: what is learned of which data, for how long."""
    (stage,) = run.config.stages.values()
    data = run.config.data
    roles = {"where": list(data.where), "preserve": data.preserve, "near": list(data.near), "text": data.text}
    return {
        "recipe": run.config.entry,
        "steps": step,
        "objective": stage.objective.kind,
        "roles": roles,
        **forgotten(run.config, run.data, run.identity),
    }


def export_best(policy: Policy, engine: Engine, run: Run, folder: RunFolder) -> None:
    """Write RUN/best with the averaged weights of the best checkpoint, which is of the stage of `policy`."""
    found = checkpoint.best(folder.path, engine.accelerator)
    if found is None:
        folder.say(NO_BEST)
    elif engine.accelerator.is_main_process:
        state = found.state()
        tensors = {**state.weight, **state.moments["ema"]}
        save_policy(policy, folder.path / BEST, tensors, run.held_out(), run.origin())
        say_best(folder, found)


def say_best(folder: RunFolder, found: Checkpoint) -> None:
    """Say which step the best weights are of."""
    folder.say(
        f"best: {folder.path / BEST}, of step {found.manifest.step}, validation loss "
        f"{found.manifest.validation_loss:.4f}"
    )
