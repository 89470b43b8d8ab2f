"""The policies that a run leaves: that of its last step, and that of its lowest validation loss."""

from collections.abc import Sequence

from training.checkpoints import checkpoint
from training.engine.sharding import Engine
from training.opening import Run
from training.run.folder import RunFolder
from vla.policy import Policy
from vla.policy_folder import save_policy
from vla.run_folder import BEST


def export(policy: Policy, engine: Engine, run: Run, folder: RunFolder, kept: Sequence[str]) -> None:
    """Write RUN/policy with the averaged weights and, with --keep-best, RUN/best; collective.

    `kept` names the learned parameters that the stage does not train.
    """
    tensors = engine.gather("ema") | engine.frozen(list(kept))
    if engine.accelerator.is_main_process:
        place = folder.path / "policy"
        save_policy(policy, place, tensors, run.held_out(), run.origin())
        print(f"policy: {place}")
    if run.config.keep_best:
        export_best(policy, engine, run, folder)
    engine.accelerator.wait_for_everyone()


def export_best(policy: Policy, engine: Engine, run: Run, folder: RunFolder) -> None:
    """Write RUN/best with the averaged weights of the best checkpoint, which is of the stage of `policy`."""
    found = checkpoint.best(folder.path, engine.accelerator)
    if found is None:
        folder.say("best: none, no held-out episodes were validated on")
    elif engine.accelerator.is_main_process:
        state, place, manifest = found.state(), folder.path / BEST, found.manifest
        save_policy(policy, place, {**state.weight, **state.moments["ema"]}, run.held_out(), run.origin())
        print(f"best: {place}, of step {manifest.step}, validation loss {manifest.validation_loss:.4f}")
