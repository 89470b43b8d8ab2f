"""Adapters of a vision-language-action policy by the same entry point, with LoRA of its own in the backbone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.faults import runs
from tests.training.adapting import SMALL, Taken, config, forget, weights
from training import loop, recipes
from training.flags import parse
from vla.adapter_settings import AdapterConfig
from vla.adapters.host import UPDATES
from vla.adapting import load_adapter
from vla.assembling import assemble
from vla.batch import Batch, collate
from vla.data.dataset import open_dataset
from vla.policy import Policy
from vla.policy_folder import load_policy
from vla.settings import DataConfig


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    forget()


@pytest.fixture(scope="module")
def robot(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robot") / "run"
    words = runs.flags(needle, out=out, **{"stage.steps": 2, "data.horizon": 4, "stage.lr.lora": 1e-3})
    loop.train(parse(recipes.stage1(), words, {}))
    forget()
    return out


class TestRobots:
    """The same entry point adapts a vision-language-action policy, with LoRA of its own in the backbone."""

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_policy_whose_backbone_was_opened_is_adapted(
        self, robot: Path, needle: Path, tmp_path: Path, precision: str
    ) -> None:
        words = ["--init-from", str(robot), "--data.roots", str(needle), "--out", str(tmp_path / "run"), *SMALL]
        words += ["--data.preserve", "0", "--stage.steps", "3", "--validation-samples", "2", "--precision", precision]
        settings = config(*words)
        assert (settings.data.horizon, settings.backbone.path, settings.expert.width) == (4, "tiny", 32)
        taken = Taken(settings)
        after = weights(taken.policy)
        changed = {name for name in after if not torch.equal(after[name], taken.before[name])}
        assert changed == taken.reached == {name for name in after if UPDATES in name}
        assert any("lora_" in name for name in after)
        load_adapter(load_policy(robot / "policy"), tmp_path / "run" / "adapter")

    def test_checkpointed_activations_give_the_same_gradients(self, robot: Path, needle: Path) -> None:
        """Two adapters in the language model, switched between two answers of one loss."""
        stored = load_policy(robot / "policy")
        samples = open_dataset(DataConfig(roots=(str(needle),), horizon=4, workers=0), 0).train
        batch = collate([samples.resized(stored.sizes)[place] for place in (0, 5)], 0, "noise")
        plain, once = two_adapters(stored, batch, recomputed=False)
        again, twice = two_adapters(stored, batch, recomputed=True)
        assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)
        assert all(gradient.any() for gradient in plain.values())
        assert (once, twice) == (2, 4), "each of the two answers goes through a layer once more"


def two_adapters(stored: Policy, batch: Batch, *, recomputed: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a loss of two answers, each by another adapter, and how often one layer was called for them."""
    backbone = replace(stored.config.backbone, gradient_checkpointing=recomputed)
    normalizers = {kind: stored.normalizer_of(kind) for kind in stored.contract.normalized}
    policy = assemble(replace(stored.config, backbone=backbone), stored.contract, normalizers, torch.float32, 0)
    policy.requires_grad_(requires_grad=False)
    for name in ("first", "second"):
        targets = (r"backbone\..*language_model\..*self_attn\.[qv]_proj(\.base_layer)?",)
        policy.adapters.add(AdapterConfig(name=name, rank=2, dropout=0.0, targets=targets))
        for key, own in policy.adapters.parameters(name).items():
            own.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(len(key)))
            own.requires_grad_()
    policy.set_mode(training=True)
    calls: list[int] = []
    layer = next(iter(dict(policy.adapters.layers()).values()))
    layer.register_forward_hook(lambda *_: calls.append(1))
    loss = torch.zeros(())
    for name in ("first", "second"):
        policy.adapters.set({name: 1.0})
        loss = loss + torch.stack([part.sum() for part in policy(batch).values()]).sum()
    policy.adapters.set({})
    loss.backward()
    return {name: own.grad for name, own in policy.named_parameters() if own.grad is not None}, len(calls)
