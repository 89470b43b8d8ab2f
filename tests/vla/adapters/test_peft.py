"""What the pinned peft does where our adapters do otherwise: each trap beside our path on the same layers.

A trap that a later peft has mended is skipped, and says so.
"""

import warnings
from collections.abc import Callable

import peft
import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vla.adapter_settings import AdapterConfig
from vla.adapters.host import Adapters
from vla.adapters.layer import Blend
from vla.parts.attention import Attention

WIDTH = 16
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Alone(nn.Module):
    """One layer, so that peft has something around it."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = layer()
        self.requires_grad_(requires_grad=False)


class Foreign(Alone):
    """torch's own attention."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, x, x, need_weights=False)[0]
        return out


class Own(Alone):
    """Ours, of plain linear layers."""

    def __init__(self) -> None:
        super().__init__(lambda: Attention(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, x, torch.ones(x.shape[:2], dtype=torch.bool))
        return out


class Plain(Alone):
    """A linear layer."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.layer(x))
        return out


class EncoderLayer(Alone):
    """torch's transformer layer."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def theirs(module: nn.Module, targets: list[str], *names: str) -> PeftModel:
    config = PeftLoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(module, config, adapter_name=names[0] if names else "default")
        for name in names[1:]:
            model.add_adapter(name, config)
    assert isinstance(model, PeftModel)
    return model


def ours(module: nn.Module, *names: str) -> Adapters:
    adapters = Adapters(module, Blend())
    for seed, name in enumerate(names):
        adapters.add(AdapterConfig(name=name, rank=2, alpha=4, dropout=0.0, targets=(r"layer.*",)), seed)
        for parameter in adapters.parameters(name).values():
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    return adapters


def mended(*, still: bool, what: str) -> None:
    if not still:
        pytest.skip(f"peft {peft.__version__} {what}")


def test_an_output_projection_counts_once_here_and_twice_in_peft() -> None:
    """peft on nn.MultiheadAttention answers with W + 2 dW where it is asked for W + dW."""
    module = Foreign()
    weight, bias = module.layer.out_proj.weight.clone(), module.layer.out_proj.bias.clone()
    model = theirs(module, ["layer"])
    target = model.base_model.model.layer
    inner = target.base_layer.out_proj
    assert isinstance(inner, nn.Module)
    delta = inner.get_delta_weight("default")
    input_delta = target.get_delta_weight("default")

    def by_hand(times: int) -> Tensor:
        whole = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        whole.in_proj_weight.data = target.base_layer.in_proj_weight + input_delta
        whole.in_proj_bias.data = target.base_layer.in_proj_bias
        whole.out_proj.weight.data, whole.out_proj.bias.data = weight + times * delta, bias
        out: Tensor = whole(X, X, X, need_weights=False)[0]
        return out

    with torch.no_grad():
        said, once, twice = model(X), by_hand(1), by_hand(2)
    own = Own()
    adapters = ours(own, "a")
    adapters.set({"a": 1.0})
    live = own(X)
    adapters.fold()
    torch.testing.assert_close(own(X), live, rtol=1e-5, atol=1e-6)
    mended(still=(said - twice).abs().max() < (said - once).abs().max(), what="counts it once")
    assert (said - once).abs().max() > 1e-2
    torch.testing.assert_close(said, twice, rtol=0, atol=1e-5)


def test_an_adapter_answers_in_eval_mode_here_and_not_in_peft_s_transformer_layers() -> None:
    """torch's layers skip their children's forward in eval mode, and with it what peft has put there."""
    effect = {}
    for training in (True, False):
        base, module = EncoderLayer().train(training), EncoderLayer()
        model = theirs(module, ["linear1", "linear2"]).train(training)
        with torch.no_grad():
            effect[training] = float((model(X) - base(X)).abs().max())
    own = Own()
    before = own(X)
    adapters = ours(own, "a")
    adapters.set({"a": 1.0})
    assert torch.equal(own.train()(X), own.eval()(X))
    assert (own(X) - before).abs().max() > 1e-2
    assert effect[True] > 1e-2
    mended(still=effect[False] < 1e-5, what="answers there in eval mode too")


def test_a_pass_without_adapters_changes_what_is_trainable_in_peft_alone() -> None:
    """peft's disable_adapter opens the active adapter when it ends, though it was frozen."""
    module = Plain()
    adapters = ours(module, "a", "b")
    for parameter in adapters.parameters("b").values():
        parameter.requires_grad_()
    adapters.set({"b": 1.0})
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    with adapters.off():
        module(X)
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == trainable
    model = theirs(Plain(), ["layer"])
    model.requires_grad_(requires_grad=False)
    with model.disable_adapter():
        model(X)
    mended(still=any(parameter.requires_grad for parameter in model.parameters()), what="leaves it as it is")


def grads(recomputed: bool, *, of_peft: bool) -> dict[str, Tensor]:
    """Of a loss in which two adapters answer in turn before one backward."""
    module = Plain()
    if of_peft:
        model = theirs(module, ["layer"], "a", "b")
        named = {name: own for name, own in model.named_parameters() if "lora_" in name}
        call: Callable[[], Tensor] = lambda: (  # noqa: E731
            checkpoint(model, X, use_reentrant=False) if recomputed else model(X)
        )
        switch: Callable[[str], None] = model.set_adapter
    else:
        adapters = ours(module, "a", "b")
        named = {key: own for name in ("a", "b") for key, own in adapters.parameters(name).items()}
        call = lambda: (  # noqa: E731
            checkpoint(module, X, use_reentrant=False, context_fn=adapters.blend.bound) if recomputed else module(X)
        )
        switch = lambda name: adapters.set({name: 1.0})  # noqa: E731
    loss = torch.zeros(())
    for name in ("a", "b"):
        switch(name)
        for parameter in named.values():
            parameter.requires_grad_()
        loss = loss + call().square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(own) if own.grad is None else own.grad for name, own in named.items()}


def test_recomputed_activations_give_the_gradients_of_both_adapters_here_alone() -> None:
    kept, again = grads(recomputed=False, of_peft=False), grads(recomputed=True, of_peft=False)
    for name, gradient in kept.items():
        assert torch.equal(again[name], gradient), name
    kept, again = grads(recomputed=False, of_peft=True), grads(recomputed=True, of_peft=True)
    wrong = max(float((again[name] - kept[name]).abs().max() / kept[name].abs().max()) for name in kept)
    mended(still=wrong > 0.1, what="binds an adapter to its call")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_stays_bit_by_bit_here_and_moves_in_peft_s_attention(dtype: torch.dtype) -> None:
    """peft merges into the frozen weight of an nn.MultiheadAttention around each forward, and subtracts again."""
    own = Own().to(dtype)
    before = {name: value.clone() for name, value in own.named_parameters()}
    adapters = ours(own, "a")
    named = adapters.parameters("a")
    for parameter in named.values():
        parameter.requires_grad_()
    adapters.set({"a": 1.0})
    optimizer = torch.optim.AdamW(named.values(), lr=1e-2)
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            own(X.to(dtype)).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        adapters.fold()
        adapters.set({"a": 1.0})
    assert all(torch.equal(value, before[name]) for name, value in own.named_parameters() if name in before)

    foreign = Foreign().to(dtype)
    frozen = foreign.layer.in_proj_weight
    kept = frozen.clone()
    model = theirs(foreign, ["layer"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            model(X.to(dtype))
    moved = [own for name, own in model.named_parameters() if name.endswith("in_proj_weight")]
    mended(still=bool(moved) and not torch.equal(moved[0], kept), what="leaves the frozen weight as it is")
