"""The adapters of a module: put on, switched, blended, folded and taken off by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from vla.adapter_settings import NAME, AdapterConfig
from vla.adapters.layer import Adapted, Blend, Update, update_of
from vla.names import hint

UPDATES = ".updates."
"""In the names of the weights of adapters, and of no others."""
SHOWN = 3
"""Names that a refusal lists."""


@dataclass(frozen=True)
class Adapters:
    """What can be done with the adapters of a module; `blend` is shared by all of its adapted layers."""

    module: nn.Module
    blend: Blend

    @property
    def names(self) -> tuple[str, ...]:
        """All that are loaded, in the order in which they came."""
        return tuple(self.blend.loaded)

    def layers(self, name: str | None = None) -> Iterator[tuple[str, Adapted]]:
        """The adapted layers, or those of one adapter, by their names in the module."""
        for path, layer in self.module.named_modules():
            if isinstance(layer, Adapted) and (name is None or name in layer.updates):
                yield path, layer

    def updates(self, name: str) -> dict[str, Update]:
        """What one adapter adds, by the layer's name."""
        return {path: update_of(layer, name) for path, layer in self.layers(name)}

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter by their names in the module."""
        return {
            f"{path}{UPDATES}{name}.{own}": parameter
            for path, update in self.updates(name).items()
            for own, parameter in update.named_parameters()
        }

    def add(self, config: AdapterConfig, seed: int = 0) -> None:
        """Put on a new adapter that adds nothing yet; it counts once the blend says so.

        Raises:
            ValueError: the name is taken, or an expression matches no linear layer.
        """
        self.check_name(config.name)
        places = matching(self.module, config.targets)
        with torch.random.fork_rng(devices=[]):  # the layers draw values, which `begin` replaces
            for path, linear in places.items():
                layer = linear if isinstance(linear, Adapted) else self._adapt(path, linear)
                update = Update(linear.in_features, linear.out_features, config).to(linear.weight.device)
                update.begin(seed, f"{config.name}/{path}")
                layer.updates[config.name] = update.train(mode=False)
        self.blend.loaded[config.name] = config

    def remove(self, name: str) -> None:
        """Take an adapter off; layers without any are again what they were."""
        self.check_loaded([name])
        self.set({other: weight for other, weight in self.blend.weights.items() if other != name})
        for path, layer in list(self.layers(name)):
            del layer.updates[name]
            if not layer.updates:
                self._put(path, plain(layer))
        del self.blend.loaded[name]

    def set(self, weights: Mapping[str, float]) -> None:
        """Count these adapters, each with its weight, and no others; what was folded is unfolded.

        Raises:
            ValueError: an adapter is not loaded.
        """
        self.check_loaded(weights)
        if self.blend.folded:
            self.unfold()
        self.blend.weights = {name: weight for name, weight in weights.items() if weight != 0}

    def fold(self) -> None:
        """Compute with copies of the weights that have the blend in them: a call costs what the base's costs.

        The copies are summed in float64 and kept as float32. Layers of narrower weights, in which small updates would
        be lost, go on with the updates beside them.
        """
        weights = self.blend.weights
        for _, layer in self.layers():
            if weights.keys() & layer.updates.keys() and layer.weight.dtype == torch.float32:
                layer.folded = layer.blended(weights)
                self.blend.folded = True

    def unfold(self) -> None:
        """Compute with the kept weights and the updates beside them again; nothing is subtracted."""
        for _, layer in self.layers():
            layer.folded = None
        self.blend.folded = False

    def off(self) -> AbstractContextManager[None]:
        """Within it the module answers as it did without adapters; who is trainable stays as it is."""
        assert not self.blend.folded, "unfold before switching adapters off for a while"
        return self.blend.being({})

    def check_name(self, name: str) -> None:
        """Refuse a name that no further adapter can have (ValueError)."""
        if name in self.names:
            raise ValueError(f"an adapter called {name!r} is loaded already; give the other one another name")
        if not NAME.fullmatch(name) or name in dir(nn.ModuleDict):
            raise ValueError(f"an adapter cannot be called {name!r}; give it another name of letters, digits, - and _")

    def check_loaded(self, names: Iterable[str]) -> None:
        """Refuse names of which no adapter is loaded (ValueError)."""
        loaded = self.names
        for name in names:
            if name not in loaded:
                raise ValueError(f"no adapter called {name!r} is loaded: {hint(name, loaded) if loaded else 'none is'}")

    def _adapt(self, path: str, linear: nn.Linear) -> Adapted:
        layer = Adapted(linear, self.blend)
        self._put(path, layer)
        return layer

    def _put(self, path: str, layer: nn.Linear) -> None:
        parent, _, child = path.rpartition(".")
        setattr(self.module.get_submodule(parent), child, layer)


def plain(layer: Adapted) -> nn.Linear:
    """The layer that an adapted one stands for, with its own weight and bias."""
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.in_features, linear.out_features = layer.in_features, layer.out_features
    linear.weight, linear.bias, linear.training = layer.weight, layer.bias, layer.training
    return linear


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that can be adapted, by name: all of them, but for those that adapters are made of."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and UPDATES not in path and ".lora_" not in path
    }


def matching(module: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers whose whole name one of the expressions matches, in the module's order.

    Raises:
        ValueError: an expression matches none; says what there is.
    """
    found = linears(module)
    names: set[str] = set()
    for target in targets:
        own = {name for name in found if re.fullmatch(target, name)}
        if not own:
            some = ", ".join(list(found)[:: max(1, len(found) // SHOWN)][:SHOWN])
            raise ValueError(
                f"--adapter.targets {target} matches the whole name of none of the {len(found)} linear layers of the "
                f"policy, such as {some}"
            )
        names |= own
    return {name: layer for name, layer in found.items() if name in names}
