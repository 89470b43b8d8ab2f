"""`vla ablate`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vla.commandline import progress
from vla.commands.measuring import Measuring, check_consumers, check_numbers, check_results, choose_arena, processes_of
from vla.commands.recordings import choose_device, describe, open_phases, open_policy, open_recordings
from vla.errors import UsageError

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.evaluation.ablation import AblationConfig, Answers
    from vla.evaluation.alteration import Alteration
    from vla.evaluation.findings import Ablation, Control, Rate
    from vla.evaluation.open_loop import Predictions
    from vla.evaluation.phases import Phases
    from vla.policy_folder import HeldOut


@dataclass(frozen=True, kw_only=True)
class Ablate(Measuring):
    """Find out which inputs a policy uses: zero, shuffle, delay and freeze each; or train it without one."""

    inputs: tuple[str, ...] = ()
    """Cameras, instruction, state, sensor or several streams, by key or an ending that no other has; none: all."""
    control: tuple[str, ...] = ()
    """Inputs to leave out in a training of their own, by the configuration of the policy's run: what each is worth."""
    samples: int = 500
    """At most this many frames of the recordings, evenly spread; 0: all."""
    episodes: int = 50
    """Episodes in the environment for each alteration, >= 1."""
    within: int = 40
    """Steps within which an episode must succeed to count."""
    delay: float = 0.25
    """How far back a delayed input lies, in seconds."""
    margin: float = 0.05
    """Share of the error within which a change counts as none, > 0."""
    fall: float = 0.1
    """Fall of the success rate that must be excluded before an input counts as not used or not needed, > 0."""


def ablate(command: Ablate) -> None:
    """`vla ablate`: table, ablation.json and a picture; then the controls."""
    from vla.commands import control
    from vla.evaluation.ablation import AblationConfig
    from vla.evaluation.alteration import inputs_of
    from vla.names import labels

    check_settings(command)
    device = choose_device(command.device)
    contract, split = describe(command.policy, command.sampling)
    check_results(command)
    inputs = choose_inputs("--inputs", command.inputs, contract) or inputs_of(contract)
    left_out = choose_inputs("--control", command.control, contract)
    trained = control.trainings(command.policy) if left_out else []
    called = labels(inputs_of(contract))
    places = {name: command.results / "controls" / called[name] for name in left_out}
    for name, place in places.items():  # refused before anything is measured
        control.check_place(control.commands(trained, name, contract, place), place)
    config = AblationConfig(
        delay_s=command.delay,
        margin=command.margin,
        fall=command.fall,
        seed=split.seed if command.seed is None else command.seed,
        batch_size=command.batch_size,
        workers=command.data.workers,
        steps=command.steps,
    )
    config.delay_steps(contract.fps)
    phases = open_phases(command.data, contract, command.phase, command.phase_names)
    bench = Bench(command=command, split=split, device=device, config=config, phases=phases)
    answers = bench.answer(contract, inputs)
    result = bench.judge(answers, contract)
    write(command, result)
    for name, place in places.items():
        folder = control.train(trained, name, contract, place)
        result = replace(result, control=[*result.control, bench.compare(result, answers.plain, name, folder)])
        write(command, result)
    print(json.dumps(result.to_json(), indent=2) if command.json else "\n".join(result.lines()))
    print(f"ablation.json and ablation.png are in {command.results}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the policy and its controls are measured alike."""

    command: Ablate
    split: "HeldOut"
    device: str
    config: "AblationConfig"
    phases: "Phases | None"

    def answer(self, contract: "DataContract", inputs: tuple[str, ...]) -> "Answers":
        """What the policy answers with and without alterations."""
        import torch

        from vla.evaluation import ablation, open_loop

        command = self.command
        samples = open_recordings(command.data, contract, self.split)
        chosen = open_loop.spread(len(samples), command.samples)
        policy = open_policy(command.policy, command.backbone, self.device, command.sampling, command.embeddings)
        with progress(len(chosen), "samples") as bar:
            answers = ablation.answer(
                policy,
                samples.resized(policy.sizes),
                chosen,
                inputs,
                self.config,
                device=torch.device(self.device),
                progress=bar.update,
            )
        return replace(answers, plain=replace(answers.plain, last=samples.last_actions(chosen)))

    def judge(self, answers: "Answers", contract: "DataContract") -> "Ablation":
        """What the answers say, and success in the environment where there is one."""
        from vla.evaluation import verdicts
        from vla.evaluation.environments import parse_settings
        from vla.evaluation.findings import Where
        from vla.redaction import hide_tree

        judge = partial(verdicts.judge, answers, self.config, policy=str(self.command.policy), phases=self.phases)
        if self.command.env is None:
            return judge()
        with (
            self.let_loose(self.command.policy, contract) as success_of,
            progress(1 + len(answers.altered), "alterations") as bar,
        ):
            result = judge(success_of=success_of, progress=bar.update)
        where = Where(
            environment=self.command.env,
            settings=hide_tree(parse_settings(self.command.env_settings)),
            within=self.command.within,
            seed=self.config.seed,
            executed=self.command.execute,
        )
        return replace(result, where=where)

    def compare(self, result: "Ablation", plain: "Predictions", name: str, folder: Path) -> "Control":
        """What a policy that was trained without an input says, on the same frames and the same episodes."""
        import torch

        from vla.evaluation import open_loop, verdicts

        command = self.command
        contract, _ = describe(folder, command.sampling)
        samples = open_recordings(command.data, contract, self.split, remark=False)
        index_of = {samples.locate(index): index for index in range(len(samples))}
        chosen = [index_of[place] for place in zip(plain.episodes, plain.frames, strict=True)]
        policy = open_policy(folder, command.backbone, self.device, command.sampling, command.embeddings)
        with progress(len(chosen), "samples") as bar:
            without = open_loop.predict(
                policy,
                samples.resized(policy.sizes),
                chosen,
                seed=self.config.seed,
                batch_size=command.batch_size,
                workers=command.data.workers,
                device=torch.device(self.device),
                steps=command.steps,
                progress=bar.update,
            )
        success = None
        if command.env is not None:
            with self.let_loose(folder, contract) as success_of:
                success = success_of(None)
        return verdicts.compare(
            result, plain, without, self.config, name=name, policy=str(folder), phases=self.phases, success=success
        )

    @contextmanager
    def let_loose(self, policy: Path, contract: "DataContract") -> "Iterator[Callable[[Alteration | None], Rate]]":
        """How often a policy succeeds when it is deprived of something, over the same episodes each time."""
        from vla.evaluation import closed_loop
        from vla.evaluation.arena import processes, run
        from vla.evaluation.findings import Rate

        command = self.command
        config = closed_loop.RolloutConfig(
            episodes=command.episodes,
            seed=self.config.seed,
            execute=command.execute,
            max_steps=command.within,
            sampling_steps=command.steps,
        )
        arena = choose_arena(command, policy, config, contract, self.device)
        with processes(processes_of(command, self.device)) as spread:

            def success_of(alteration: "Alteration | None") -> Rate:
                rollouts = run(replace(arena, alteration=alteration), spread)
                return Rate.of([rollout.succeeds_within(command.within) for rollout in rollouts])

            yield success_of


def write(command: Ablate, result: "Ablation") -> None:
    """ablation.json and the picture."""
    from vla.evaluation import figures

    figures.draw_ablation(result, command.results / "ablation.png")
    text = json.dumps(result.to_json(), indent=2)
    (command.results / "ablation.json").write_text(text + "\n", encoding="utf-8")


def choose_inputs(flag: str, asked: tuple[str, ...], contract: "DataContract") -> tuple[str, ...]:
    """The inputs asked for, by their full names.

    Raises:
        ValueError: the policy has no such input.
    """
    from vla.evaluation.alteration import inputs_of
    from vla.names import by_word, hint

    inputs = inputs_of(contract)
    known = by_word(inputs) | {stream.key: name for name, stream in contract.streams.items()}
    for name in asked:
        if name not in known:
            raise ValueError(f"{flag} has {name}, which the policy does not look at: {hint(name, inputs)}")
    return tuple(dict.fromkeys(known[name] for name in asked))


def check_settings(command: Ablate) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ValueError: a number is out of range, or a setting would have no effect.
        UsageError: there is nothing to measure on.
    """
    if not command.data.roots:
        raise UsageError("give recordings with --data.roots DIR")
    check_numbers(command, {"--within": (command.within, 1)})
    check_consumers(command)
    if not 0 < command.margin < 1:
        raise ValueError(f"--margin is {command.margin:g}; give a share of the error between 0 and 1, e.g. 0.05")
    if not 0 < command.fall < 1:
        raise ValueError(f"--fall is {command.fall:g}; give a fall of the success rate between 0 and 1, e.g. 0.1")
