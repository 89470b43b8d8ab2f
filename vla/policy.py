"""The policy: observation -> context -> diffusion expert; a batch becomes losses, an observation actions."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from vla import diffusion, refining, sampling
from vla.adapters.host import UPDATES, Adapters
from vla.batch import Batch, Losses, Observation
from vla.contract import CLASSED, DataContract
from vla.diffusion import Chunk, Draft, Known, Watch
from vla.frames import Size
from vla.modes import enter_mode
from vla.motion.moves import Moves
from vla.normalize import Normalizer, Scaled
from vla.objectives import Denoise, Looked, Objective, Prediction
from vla.parts import PARTS, fitting, row_of
from vla.parts.expert import ActionExpert, ContextCache, ContextTokens, Labels, Source, Tokens
from vla.parts.kind import Backbone
from vla.parts.memory import Memory
from vla.policy_settings import PolicyConfig, Sampling
from vla.randomness import seeded
from vla.rejection import Guard
from vla.sampling import How

NEUTRAL_INSTRUCTION = "do the task"
"""What a policy reads that is given no instruction: the backbone needs a sentence."""


class Policy(Scaled):
    """Backbone, the other parts, action expert, and the normalisers between them and the data's units.

    Fresh weights of each follow from the seed and its name alone; the global random state is neither used nor changed.
    Frozen weights may be bfloat16; trained ones are float32 and computed with in `compute_dtype`; normalisation,
    diffusion and losses are float32 always. Parameters are used by their own module's forward alone, and all trained
    ones by every forward: so DDP and ZeRO need no special case.
    """

    def __init__(
        self,
        *,
        config: PolicyConfig,
        contract: DataContract,
        backbone: Backbone,
        normalizers: Mapping[str, Normalizer],
        compute_dtype: torch.dtype,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.contract, self.compute_dtype = config, contract, compute_dtype
        self.objective: Objective = Denoise()
        """What is trained for; the stage that is entered sets it."""
        self.tuned: frozenset[str] = frozenset()
        """Backbone parameters, adapters left out, that training changed; they are saved with the policy."""
        self.backbone, self.blend = backbone, backbone.blend
        self.memory = Memory()
        """Of the frames that it acted by last."""
        self.encoders = tuple(fitting(config.encoders, contract))
        """Names of the parts beside backbone and expert; each is a child of that name."""
        widths = {"expert": config.expert.sizes.width, "backbone": backbone.width}
        for name, settings in fitting(config.encoders, contract).items():
            with seeded(seed, name):
                self.add_module(name, PARTS[row_of(name)].build(name, settings, contract, widths))
            width: Any = self.get_submodule(name).width
            widths[name] = width
        sources = {"backbone": Source(width=backbone.width, normalize=True)}
        sources |= {name: Source(width=widths[name]) for name in self.encoders}
        self.expert = ActionExpert(
            horizon=contract.horizon,
            action_dim=contract.action_dim,
            sources=sources,
            config=config.expert,
            seed=seed,
            droppable=config.diffusion.unconditional > 0,
            labels=contract.labels,
        )
        self.normalizer = nn.ModuleDict(dict(normalizers))

    def forward(self, batch: Batch, looked: Looked | None = None) -> Losses:
        """What the objective makes of a batch: the loss of each sample, by part; `looked` as of `context`."""
        return self.objective(self, batch, looked)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        noise: Float[Tensor, "B H A"],
        steps: int | None = None,
        generator: torch.Generator | None = None,
        watch: Watch | None = None,
        *,
        known: Known | None = None,
        draft: Draft | None = None,
        valid: Bool[Tensor, "B H"] | None = None,
        guidance: float | None = None,
        guard: Guard | None = None,
        looked: Looked | None = None,
    ) -> Float64[Tensor, "B H A"]:
        """A chunk of actions in the data's units; `set_mode(training=False)` first.

        `noise` is standard normal and decides the answer alone, but for the ddpm sampler, which also needs a
        generator. `steps` and `guidance` override the configuration's; with a guidance other than 1 the expert answers
        twice as many rows. `watch` is shown the noised and the predicted chunk of each step, in the data's units, as is
        what is `known` of it and a `draft` to begin with; steps that are not `valid` count nothing. A `guard` has
        unsafe chunks drawn again, of the same context. ValueError where it was not trained for guidance.
        """
        assert not self.training, "call set_mode(training=False) before act: dropout would disturb the actions"
        scale = Sampling(guidance=guidance).of(self.config.diffusion).guidance
        guided = scale != 1
        looked = looked or self.look(observation, self.memory)
        context = self.contexts(looked) if guided else self.context(observation, looked=looked)
        rows = 2 if guided else 1
        every = torch.ones(noise.shape[:2], dtype=torch.bool, device=noise.device)
        counted = (every if valid is None else valid).repeat(rows, 1)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            out, _ = self.answer(context, x_t.repeat(rows, 1, 1), t.repeat(rows), counted)
            return diffusion.guide(out, scale) if guided else out

        undo = self.normalizer_of("actions").undo

        def show(x_t: Tensor, x0: Tensor) -> None:
            if watch is not None:
                watch(undo(x_t), undo(x0))

        given = known and replace(known, values=self.normalize("actions", known.values))
        begun = draft and replace(draft, values=self.normalize("actions", draft.values))

        def draw(noise: Tensor) -> Tensor:
            own = self.config.diffusion
            x0 = diffusion.sample(denoise, noise.float(), own, steps, generator, watch=show, known=given, draft=begun)
            return undo(x0)

        actions = draw(noise)
        return actions if guard is None else guard.choose(observation, actions, draw)

    def nearest(self, actions: Float[Tensor, "*batch A"]) -> Float64[Tensor, "*batch A"]:
        """What it can answer that is nearest to some actions, in the data's units."""
        clip = self.config.diffusion.clip
        return self.normalizer_of("actions").undo(self.normalize("actions", actions).clamp(-clip, clip))

    def sample(
        self,
        text: str,
        seconds: float,
        *,
        skeleton: Float[np.ndarray, "J 3"] | None = None,
        **how: Unpack[How],
    ) -> list[Moves]:
        """Motions that show a text, of a policy of motion (vla/sampling.py); `set_mode(training=False)` first."""
        return sampling.sample(self, text=text, seconds=seconds, skeleton=skeleton, **how)

    def refine(self, draft: Moves, strength: float, text: str, **how: Unpack[How]) -> list[Moves]:
        """A motion made anew from a time of the diffusion on (vla/refining.py); `set_mode(training=False)` first."""
        return refining.refine(self, draft=draft, strength=strength, text=text, **how)

    @torch.no_grad()
    def label(
        self, observation: Observation, actions: Float[Tensor, "B H A"], valid: Bool[Tensor, "B H"]
    ) -> dict[str, Tensor]:
        """The labels of chunks in the data's units, by name: classes, (B, H), or values of a quantity, (B, H, C)."""
        assert not self.training, "call set_mode(training=False) before label: dropout would disturb the labels"
        clean = torch.zeros(len(actions), device=actions.device)
        _, said = self.answer(self.context(observation), self.normalize("actions", actions), clean, valid)
        return {name: told.argmax(-1) if name in CLASSED else self.open_undo(name, told) for name, told in said.items()}

    def usual_state(self) -> Float32[np.ndarray, " P"]:
        """The state in the middle of those that it was trained on."""
        if not self.contract.state_dim:
            return np.zeros(0, np.float32)
        middle = self.normalizer_of("state").undo(torch.zeros(self.contract.state_dim, device=self.device))
        return np.asarray(middle.float().cpu().numpy())

    @property
    def adapters(self) -> Adapters:
        """Its named adapters."""
        return Adapters(self, self.blend)

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """Within it the policy answers as it does without adapters, and nothing learns: a teacher that is no copy."""
        with torch.no_grad(), self.adapters.off():
            yield

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.expert.out.weight.device

    def look(self, observation: Observation, memory: Memory | None = None) -> Looked:
        """The observation in unitless numbers, and what the backbone says of it; a memory knows frames it has seen."""
        if not self.contract.instructed:
            observation = replace(observation, instructions=(NEUTRAL_INSTRUCTION,) * len(observation.instructions))
        seen = replace(
            observation,
            state=self.unitless("state", observation.state),
            streams={
                name: replace(readings, values=self.normalize(name, readings.values))
                for name, readings in observation.streams.items()
            },
        )
        with self.autocast(observation.state.device):
            said: Tokens = self.backbone(seen, memory)
        return seen, said

    def shared(self, observation: Observation, looked: Looked | None = None) -> Looked | None:
        """As `look`, where nothing of the backbone learns or is adapted, so that its base says the same; else None.

        `looked` is what `look` gave, where that is known.
        """
        learns = any(parameter.requires_grad for parameter in self.backbone.parameters())
        apart = learns or any(name.startswith("backbone.") for name, _ in self.adapters.layers())
        return None if apart else looked or self.look(observation)

    def join(self, seen: Observation, said: Tokens, dropped: Bool[Tensor, " B"] | None) -> ContextTokens:
        """Context tokens of what `look` gives, and which of them may be looked at; None: no sample is dropped.

        Of a dropped one no part hears what the backbone says: the camera encoder would pass the instruction on.
        """
        words, mask = said
        tokens = {"backbone": (words if dropped is None else words.masked_fill(dropped[:, None, None], 0), mask)}
        with self.autocast(words.device):
            for name in self.encoders:
                tokens[name] = PARTS[row_of(name)].see(name, self.get_submodule(name), seen, tokens)
            context: ContextTokens = self.expert.context(tokens, dropped)
        return context

    def context(
        self, observation: Observation, coin: Float[Tensor, " B"] | None = None, looked: Looked | None = None
    ) -> ContextCache:
        """What the expert computes of B observations alone: once, whatever the chunks and times.

        Those whose coin (of `Draws`) lies below the configured share go without the instruction; None: none does.
        `looked` is what `look` gave of them, where that is known.
        """
        share = self.config.diffusion.unconditional
        dropped = None if coin is None or share == 0 else coin < share
        return self.cache(self.join(*(looked or self.look(observation)), dropped))

    def contexts(self, looked: Looked) -> ContextCache:
        """Those of B observations with the instruction, then without it; the backbone has looked once."""
        seen, (words, mask) = looked
        rows = torch.arange(2 * len(mask), device=mask.device)
        twice = seen.rows([*range(len(mask))] * 2)
        return self.cache(self.join(twice, (words.repeat(2, 1, 1), mask.repeat(2, 1)), rows >= len(mask)))

    def cache(self, context: ContextTokens) -> ContextCache:
        """What each block of the expert computes of context tokens."""
        with self.autocast(context[0].device):
            cached: ContextCache = self.expert.cache(*context)
        return cached

    def predict(
        self,
        context: ContextCache,
        x0: Chunk,
        valid: Bool[Tensor, "N H"],
        time: Float[Tensor, " N"],
        noise: Chunk,
        *,
        given: Bool[Tensor, "N H A"] | None = None,
    ) -> Prediction:
        """What the expert says of clean chunks, unitless, once they are noised; as many a row of the context.

        `valid` hides the padded steps of a chunk; numbers that are `given` are shown nearly as they are.
        """
        config = self.config.diffusion
        coefficients = diffusion.coefficients(config.path, time)
        x_t = diffusion.mix(coefficients, x0, noise)
        x_t = x_t if given is None else torch.where(given, x0 + diffusion.NEARLY * noise, x_t)
        out, labels = self.answer(context, x_t, time, valid)
        return Prediction(
            kind=config.prediction,
            coefficients=coefficients,
            x_t=x_t,
            out=out,
            target=diffusion.target(config.prediction, coefficients, x0, noise),
            valid=valid,
            labels=labels,
            known=None if given is None else ~given,
        )

    def given(self, shown: Float[Tensor, " N"]) -> Bool[Tensor, "N 1 A"] | None:
        """Which numbers samples of these draws show as they are: the motion beside forces; None: none of any."""
        body, share = self.contract.body, self.config.diffusion.given
        if share == 0 or body is None or not body.forces:
            return None
        return (shown < share)[:, None, None] & (torch.arange(self.contract.action_dim).to(shown) < len(body.joints))

    def answer(
        self, context: ContextCache, x_t: Float32[Tensor, "N H A"], t: Float[Tensor, " N"], valid: Bool[Tensor, "N H"]
    ) -> tuple[Float32[Tensor, "N H A"], Labels]:
        """The expert's output and its labels for noised chunks, in float32."""
        with self.autocast(x_t.device):
            out, labels = self.expert(x_t, t, valid, context)
        return out.float(), {name: said.float() for name, said in labels.items()}

    def autocast(self, device: torch.device) -> torch.autocast:
        """bfloat16 where the policy computes in it; otherwise full precision, whatever surrounds the call."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """In what sizes its parts look at a camera's frame."""
        parts = [(PARTS[row_of(name)].size, own) for name, own in fitting(self.config.encoders, self.contract).items()]
        sizes = [self.backbone.size, *(size(own) for size, own in parts if size is not None)]
        return tuple(size for size in sizes if size is not None)

    def fresh_parts(self) -> dict[str, nn.Module]:
        """What begins with fresh weights, by name: every part but the backbone."""
        return {name: self.get_submodule(name) for name in (*self.encoders, "expert")}

    def sample_by(self, sampling: Sampling) -> None:
        """Sample otherwise than the configuration says. ValueError where it was not trained for that."""
        self.config = replace(self.config, diffusion=sampling.of(self.config.diffusion))

    def set_mode(self, training: bool) -> None:
        """Training mode exactly where something inside is trained, so that frozen parts have no dropout; or eval mode.

        Modules without parameters follow the one they belong to. Call it after freezing and after `prepare`.
        """
        enter_mode(self, training=training, parent=training)
        self.memory.forget()

    def learned(self) -> dict[str, Tensor]:
        """By name, the parameters a policy folder holds: all of them but the backbone's own, unless those are tuned.

        Named adapters have folders of their own.
        """
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if UPDATES not in name
            and (not name.startswith("backbone.") or "lora_" in name or parameter.requires_grad or name in self.tuned)
        }
