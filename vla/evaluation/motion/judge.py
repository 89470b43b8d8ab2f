"""Who tells actions apart, and human motions from others: the protocol, and a small network trained for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn
from torch.nn import functional

from vla.evaluation.motion.clips import Clip, Windows, stack
from vla.evaluation.motion.counterexamples import KINDS, NOT_HUMAN, Counterexamples, counterexamples
from vla.evaluation.motion.heading import Scale
from vla.evaluation.motion.landmarks import Landmarks
from vla.names import hint
from vla.randomness import derive, seeded

VERSION = 1
"""Of how a judge is taught. Raise it when the same clips would make another one: those that were kept hold no more.

It is of all that lies between the rows of a clip and the weights, in whatever module.
"""


@runtime_checkable
class Judge(Protocol):
    """Whoever judges prepared motions."""

    def features(self, windows: Windows) -> Float[np.ndarray, "N F"]:
        """What it sees in each, as vectors whose distances mean something."""

    def classify(self, windows: Windows) -> list[str]:
        """The label of each, or `not human`."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How a judge is trained."""

    width: int = 64
    features: int = 64
    steps: int = 1600
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    noise: float = 0.3
    """Added to the normalised features."""
    dropout: float = 0.2
    label_smoothing: float = 0.05
    not_human: float = 0.4
    """Share of counter-examples in a batch; the actions share the rest evenly."""
    counterexamples: Counterexamples = field(default_factory=Counterexamples)


class Network(nn.Module):
    """Three convolutions over time, the mean over a window's own frames, features, and a class each.

    What lies beyond a window's end changes nothing: every layer sets it to 0.
    """

    def __init__(self, channels: int, classes: int, settings: JudgeSettings) -> None:
        super().__init__()
        width = settings.width
        sizes = ((channels, 5), (width, 5), (width, 3))
        self.convolutions = nn.ModuleList(nn.Conv1d(inner, width, size, padding=size // 2) for inner, size in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in sizes)
        self.pooled = nn.Linear(width, settings.features)
        self.dropout = nn.Dropout(settings.dropout)
        self.classes = nn.Linear(settings.features, classes)

    def features(self, seen: Float32[Tensor, "N T C"], valid: Bool[Tensor, "N T"]) -> Float32[Tensor, "N F"]:
        """What stands out in each window, between -1 and 1."""
        keep = valid[..., None]
        inner = seen * keep
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            inner = functional.gelu(norm(convolution(inner.mT).mT)) * keep
        return torch.tanh(self.pooled(inner.sum(dim=1) / keep.sum(dim=1)))

    def forward(self, seen: Float32[Tensor, "N T C"], valid: Bool[Tensor, "N T"]) -> Float32[Tensor, "N classes"]:
        """Logits."""
        logits: Tensor = self.classes(self.dropout(self.features(seen, valid)))
        return logits


class ConvolutionalJudge:
    """A judge that `train_judge` has trained."""

    def __init__(
        self, network: Network, labels: tuple[str, ...], body: Landmarks, scale: Scale, rate_hz: float
    ) -> None:
        self.network, self.labels, self.body, self.scale, self.rate_hz = network, labels, body, scale, rate_hz

    @torch.no_grad()
    def features(self, windows: Windows) -> Float32[np.ndarray, "N F"]:
        """What it sees in each, before it names it; ValueError at another rate than that of its training."""
        described: Float32[np.ndarray, "N F"] = self.network.features(*self._seen(windows)).numpy()
        return described

    @torch.no_grad()
    def classify(self, windows: Windows) -> list[str]:
        """The label of each, or `not human`; ValueError at another rate than that of its training."""
        names = (*self.labels, NOT_HUMAN)
        return [names[place] for place in self.network(*self._seen(windows)).argmax(dim=1).tolist()]

    @torch.no_grad()
    def chances(self, windows: Windows, label: str) -> Float32[np.ndarray, " N"]:
        """How likely each shows a label, 0 to 1; errors as `classify`, and ValueError of a label it was not taught."""
        if label not in (*self.labels, NOT_HUMAN):
            raise ValueError(f"the judge knows nothing of {label!r}: {hint(label, self.labels)}")
        logits = self.network(*self._seen(windows))
        likely: Float32[np.ndarray, " N"] = logits.softmax(dim=1)[:, (*self.labels, NOT_HUMAN).index(label)].numpy()
        return likely

    def _seen(self, windows: Windows) -> tuple[Float32[Tensor, "N T C"], Bool[Tensor, "N T"]]:
        if windows.rate_hz != self.rate_hz:
            raise ValueError(
                f"the judge was trained on motions at {self.rate_hz:g} Hz, and these have {windows.rate_hz:g}; "
                "prepare them at its rate"
            )
        return _seen(windows, self.body, self.scale)


def _seen(windows: Windows, body: Landmarks, scale: Scale) -> tuple[Float32[Tensor, "N T C"], Bool[Tensor, "N T"]]:
    """Windows as a network sees them."""
    normalised = scale.normalised(windows, body).astype(np.float32)
    return torch.from_numpy(normalised), torch.from_numpy(windows.valid)


def train_judge(
    clips: Sequence[Clip], body: Landmarks, settings: JudgeSettings | None = None, *, seed: int = 0
) -> ConvolutionalJudge:
    """A judge of the labels of some prepared clips, and of what is made of them that no human does.

    The same seed gives the same judge on one machine. `varied` clips make a better one of few.
    """
    settings = JudgeSettings() if settings is None else settings
    labels = tuple(sorted({clip.label for clip in clips}))
    groups = {"": list(clips), **counterexamples(clips, body, settings.counterexamples, seed=seed)}
    everything = [(kind, clip) for kind, group in groups.items() for clip in group]
    classes = np.array([len(labels) if kind else labels.index(clip.label) for kind, clip in everything])
    shares = _shares([(kind, clip.label) for kind, clip in everything], settings.not_human)
    windows, scale = stack([clip for _, clip in everything]), Scale.of([stack(clips)], body)
    seen, valid = _seen(windows, body, scale)
    with seeded(seed, "motion/judge"):
        network = Network(seen.shape[-1], len(labels) + 1, settings)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps, pct_start=0.1)
        for step in range(settings.steps):
            rows = derive(seed, "motion/judge", step).choice(len(classes), settings.batch, p=shares)
            noised = seen[rows] + settings.noise * torch.randn_like(seen[rows])
            logits = network(noised, valid[rows])
            loss = functional.cross_entropy(
                logits, torch.from_numpy(classes[rows]), label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return ConvolutionalJudge(network.eval(), labels, body, scale, windows.rate_hz)


def _shares(groups: Sequence[tuple[str, str]], not_human: float) -> Float64[np.ndarray, " N"]:
    """How often each clip is drawn: every action as often as any other, and as often what is made of it.

    Otherwise what an action of few clips is made into would be outweighed by the action itself.
    """
    sizes = Counter(groups)
    shares = np.array([(not_human / len(KINDS) if group[0] else 1 - not_human) / sizes[group] for group in groups])
    drawn: Float64[np.ndarray, " N"] = shares / shares.sum()
    return drawn
