"""Alterations: one input of a policy replaced, so that what the policy does without its information can be seen.

zeroed     without content: a camera black, state and sensor where their normaliser is 0, a neutral instruction
shuffled   that of another episode
delayed    that of the same episode some steps earlier; before, that of its start
frozen     that of the start of the episode, for ever

A policy has never seen a zeroed input, so it may fail on one that it makes no use of. The other three replace an input
by one as the data holds it; only its fit to the rest of the observation is lost.

A black camera stays visible (it is covered, not absent), and zeroed sensor samples stay valid: the token for an absent
sensor is learned only where the data lacks one, and stands anywhere else for nothing.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vla.batch import Observation
from vla.contract import DataContract
from vla.frames import change_image, tensors_of_image
from vla.policy import NEUTRAL_INSTRUCTION, Policy

Kind = Literal["zeroed", "shuffled", "delayed", "frozen"]
KINDS: tuple[Kind, ...] = get_args(Kind)
INSTRUCTION, STATE = "instruction", "state"
Alter = Callable[[Observation], Observation]


def inputs_of(contract: DataContract) -> tuple[str, ...]:
    """What a policy of this contract looks at: its cameras by key, instruction, state, sensor streams by name."""
    instruction = (INSTRUCTION,) if contract.instructed else ()
    state = (STATE,) if contract.state_dim else ()
    return (*contract.cameras, *instruction, *state, *contract.streams)


def kinds_of(*, changing: bool) -> tuple[Kind, ...]:
    """The alterations that change an input; an instruction may be the same throughout each episode, not `changing`."""
    return KINDS if changing else ("zeroed", "shuffled")


def swap(observation: Observation, other: Observation, name: str, contract: DataContract) -> Observation:
    """The observation with one input taken from another, row by row."""
    match name:
        case "instruction":
            return replace(observation, instructions=other.instructions)
        case "state":
            return replace(observation, state=other.state)
    if name in contract.streams:
        return replace(observation, streams={**observation.streams, name: other.streams[name]})
    place = contract.cameras.index(name)
    image_valid = observation.image_valid.clone()
    image_valid[:, place] = other.image_valid[:, place]
    images = tuple(
        (*row[:place], instead[place], *row[place + 1 :])
        for row, instead in zip(observation.images, other.images, strict=True)
    )
    return replace(observation, images=images, image_valid=image_valid)


@dataclass(frozen=True, kw_only=True)
class Blank:
    """What inputs without content hold, in the data's units."""

    state: Float[Tensor, " P"]
    streams: Mapping[str, Float[Tensor, " _"]]
    """One value a channel, by name."""

    @staticmethod
    def of(policy: Policy) -> "Blank":
        """Where the policy's normalisers are 0."""

        def middle(stream: str) -> Tensor:
            normalizer = policy.normalizer_of(stream)
            return normalizer.undo(torch.zeros_like(normalizer.offset))

        return Blank(
            state=middle(STATE) if policy.contract.state_dim else torch.zeros(0),
            streams={name: middle(name) for name in policy.contract.streams},
        )

    def out(self, observation: Observation) -> Observation:
        """An observation of the same shapes, every input of which is zeroed."""
        return replace(
            observation,
            images=tuple(tuple(change_image(image, torch.zeros_like) for image in row) for row in observation.images),
            instructions=(NEUTRAL_INSTRUCTION,) * len(observation.instructions),
            state=self.state.to(observation.state).expand_as(observation.state),
            streams={
                name: replace(readings, values=self.streams[name].to(readings.values).expand_as(readings.values))
                for name, readings in observation.streams.items()
            },
        )


@dataclass(frozen=True, kw_only=True)
class Alteration:
    """One input of a policy, and what it is replaced by."""

    input: str
    """One of `inputs_of`."""
    kind: Kind
    delay_steps: int = 1
    """How far back a delayed input lies, >= 1."""

    def begin(self, policy: Policy) -> Alter:
        """A function that alters the observations of some episodes in lockstep, given to it in order of time.

        Row b is episode b in every call, and a group of episodes needs a function of its own, since the function
        remembers. A shuffled row takes the input of the next row, or of the next with another instruction; where there
        is none, it stays what it is.
        """
        contract = policy.contract
        match self.kind:
            case "zeroed":
                blank = Blank.of(policy)
                return lambda observation: swap(observation, blank.out(observation), self.input, contract)
            case "shuffled":
                return lambda observation: swap(observation, self.rotate(observation), self.input, contract)
            case "delayed" | "frozen":
                return self.remember(contract)

    def remember(self, contract: DataContract) -> Alter:
        """The function that answers with an earlier input."""
        past: deque[Observation] = deque(maxlen=self.delay_steps + 1)

        def earlier(observation: Observation) -> Observation:
            if self.kind == "delayed" or not past:
                past.append(observation)
            return swap(observation, past[0], self.input, contract)

        return earlier

    def rotate(self, observation: Observation) -> Observation:
        """Each row replaced by a later one, around the group."""
        count = len(observation.instructions)
        return observation.rows([self.partner(observation.instructions, row) for row in range(count)])

    def partner(self, instructions: tuple[str, ...], row: int) -> int:
        """The row whose input another row is given."""
        others = [(row + step) % len(instructions) for step in range(1, len(instructions))]
        if self.input == INSTRUCTION:
            others = [other for other in others if instructions[other] != instructions[row]]
        return others[0] if others else row


def alike(one: Observation, other: Observation) -> bool:
    """Whether two observations of the same episodes show the same."""
    return (
        one.instructions == other.instructions
        and torch.equal(one.image_valid, other.image_valid)
        and torch.equal(one.state, other.state)
        and all(
            torch.equal(readings.values, other.streams[name].values)
            and torch.equal(readings.valid, other.streams[name].valid)
            for name, readings in one.streams.items()
        )
        and all(
            torch.equal(frame, instead)
            for row, others in zip(one.images, other.images, strict=True)
            for images in zip(row, others, strict=True)
            for frame, instead in zip(*map(tensors_of_image, images), strict=True)
        )
    )
