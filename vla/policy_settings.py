"""What decides what a policy computes; nothing heavy is loaded for it."""

from dataclasses import dataclass, field, replace

from vla.adapter_settings import AdapterConfig, LoraConfig
from vla.parts import Encoders
from vla.settings import BackboneConfig, DiffusionConfig, ExpertConfig, Normalization, Sampler


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Everything that decides what a policy computes, but its weights and the data it is made for."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model, or the sentence encoder."""
    encoders: Encoders = field(default_factory=Encoders)
    """The other parts; a policy has those that its data has something for."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The diffusion action expert."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Path, prediction and sampler."""
    lora: LoraConfig | None = None
    """Adapters on the backbone's language model, or none."""
    adapter: AdapterConfig | None = None
    """The named adapter that is trained beside all of this, or none; a policy folder holds none."""
    normalization: Normalization = "quantile"
    """How actions, state and sensor were made unitless."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a policy that is measured samples; None: as it says."""

    sampler: Sampler | None = None
    guidance: float | None = None

    def of(self, config: DiffusionConfig) -> DiffusionConfig:
        """The settings of a policy, changed.

        Raises:
            ValueError: it was not trained for guidance.
        """
        return replace(config, **{name: value for name, value in vars(self).items() if value is not None})
