"""The adapter: where it sits, how it starts, and that plain peft reads what we write."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vla.adapter_settings import LoraConfig
from vla.batch import Observation
from vla.parts import lora
from vla.parts.backbone import load_backbone
from vla.parts.qwen import QwenVL
from vla.settings import BackboneConfig

CONFIG = LoraConfig(rank=4, alpha=8, dropout=0.0)
# peft 0.21 asks transformers 5.23 by a name that version 6 will drop; not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def observation() -> Observation:
    generator = torch.Generator().manual_seed(0)
    return Observation(
        images=tuple((torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8, generator=generator),) for _ in range(2)),
        image_valid=torch.ones(2, 1, dtype=torch.bool),
        instructions=("Go.", "Pick up the red cube."),
        state=torch.zeros(2, 0),
        streams={},
    )


def fresh(dtype: torch.dtype = torch.float32, *, gradient_checkpointing: bool = False) -> QwenVL:
    return load_backbone(BackboneConfig(gradient_checkpointing=gradient_checkpointing), dtype)


def adapted(seed: int = 0, config: LoraConfig = CONFIG) -> QwenVL:
    backbone = fresh()
    lora.add(backbone, config, seed)
    return backbone.eval()


def disturb(backbone: QwenVL, scale: float = 0.05) -> None:
    """Stand in for training: an untrained adapter changes nothing, because B is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora.adapter_parameters(backbone).values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def saved(backbone: QwenVL, folder: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    lora.save(backbone, folder, tensors or {})
    return folder


def plain_peft(folder: Path) -> QwenVL:
    """The backbone with the adapter as plain peft loads it."""
    backbone = fresh()
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone.folder, dtype=torch.float32)
    backbone.model = PeftModel.from_pretrained(base, folder)
    return backbone.eval()


def large() -> QwenVL:
    """Qwen2.5-VL-3B without memory."""
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    small = fresh()
    return QwenVL(model, small.processor, small.config, small.folder)


def test_on_the_3b_model_it_has_288_tensors_and_7372800_parameters() -> None:
    backbone = large()
    lora.add(backbone, LoraConfig(), 0)
    parameters = lora.adapter_parameters(backbone)
    assert len(parameters) == 288
    assert sum(parameter.numel() for parameter in parameters.values()) == 7_372_800
    assert not any("visual" in name for name in parameters)
    last = backbone.last_layer_names(2)
    assert len(last) == 24
    assert {name.split(".layers.")[1].split(".")[0] for name in last} == {"34", "35"}
    assert not last & parameters.keys()


def test_it_sits_on_the_language_model_alone() -> None:
    names = lora.adapter_parameters(adapted())
    assert len(names) == 2 * 4 * 2
    assert {name.split(".")[-4] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert all(".language_model.layers." in name for name in names)


def test_a_new_adapter_changes_nothing(observation: Observation) -> None:
    assert torch.equal(adapted()(observation)[0], fresh()(observation)[0])


def test_it_starts_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = lora.adapter_parameters(adapted(seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    backbone = fresh()
    lora.add(backbone, CONFIG, 5)
    assert torch.equal(torch.get_rng_state(), state)
    second = lora.adapter_parameters(backbone)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = lora.adapter_parameters(adapted(seed=6))
    drawn = [name for name in first if "lora_A" in name]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    assert len({first[name][0, 0].item() for name in drawn}) == len(drawn)
    for name in drawn:
        bound = first[name].shape[1] ** -0.5
        assert first[name].abs().max() <= bound
        assert first[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_it_is_float32_on_a_bfloat16_backbone(observation: Observation) -> None:
    backbone = fresh(torch.bfloat16)
    lora.add(backbone, CONFIG, 0)
    dtypes = {name: parameter.dtype for name, parameter in backbone.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "lora_" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "lora_" not in name} == {torch.bfloat16}
    tokens, _ = backbone(observation)
    assert tokens.dtype == torch.bfloat16
    tokens.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in lora.adapter_parameters(backbone).values())


def test_two_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match="has an adapter already"):
        lora.add(adapted(), CONFIG, 0)


@pytest.mark.parametrize(
    "setting", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"layers": "top:0"}, {"layers": "2"}]
)
def test_settings_that_cannot_learn(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"LoRA|lora"):
        LoraConfig(**setting)


def gradients(backbone: QwenVL, observation: Observation) -> dict[str, Tensor]:
    tokens, _ = backbone(observation)
    tokens.square().sum().backward()
    found = {}
    for name, parameter in lora.adapter_parameters(backbone).items():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
        parameter.grad = None
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointed_gradients_equal_the_plain_ones(observation: Observation, dropout: float) -> None:
    results = []
    for checkpointing in (False, True):
        backbone = fresh(gradient_checkpointing=checkpointing)
        lora.add(backbone, replace(CONFIG, dropout=dropout), 0)
        backbone.train()
        torch.manual_seed(0)
        results.append(gradients(backbone, observation))
        assert [name for name, value in results[-1].items() if value.any()] == [n for n in results[-1] if "lora_B" in n]
        with torch.no_grad():
            for name, parameter in lora.adapter_parameters(backbone).items():
                parameter.sub_(1e-3 * results[-1][name].sign())
        results.append(gradients(backbone, observation))
        assert all(bool(value.any()) for value in results[-1].values()), "every LoRA tensor learns from step 2 on"
    for plain, checkpointed in zip(results[:2], results[2:], strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(checkpointed[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))


def test_checkpointing_recomputes_the_blocks(observation: Observation) -> None:
    """With it every block, or so many upper ones, runs twice, without it once: the test above compares two things."""
    for checkpointing, layers, runs in ((False, None, [1, 1]), (True, None, [2, 2]), (True, 1, [1, 2])):
        config = BackboneConfig(gradient_checkpointing=checkpointing, recomputed_layers=layers)
        backbone = load_backbone(config, torch.float32)
        assert isinstance(backbone, QwenVL)
        lora.add(backbone, CONFIG, 0)
        backbone.train()
        calls = [0, 0]
        for number, layer in enumerate(backbone.plain.model.language_model.layers):

            def count(*_: object, number: int = number, calls: list[int] = calls) -> None:
                calls[number] += 1

            layer.mlp.register_forward_pre_hook(count)
        gradients(backbone, observation)
        assert calls == runs
    for config, sentence in (
        (BackboneConfig(gradient_checkpointing=True, recomputed_layers=3), "is 3: give 1 to 2, the layers"),
        (BackboneConfig(recomputed_layers=1), "goes with --backbone.gradient-checkpointing: give both"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_backbone(config, torch.float32)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapts", [False, True])
def test_no_gradient_is_asked_for_of_frozen_inputs(observation: Observation, checkpointing: bool, adapts: bool) -> None:
    """Or the vision tower, and without LoRA the language model, would keep all they compute for nothing."""
    backbone = fresh(gradient_checkpointing=checkpointing)
    if adapts:
        lora.add(backbone, CONFIG, 0)
        backbone.train()
    inputs, _ = backbone.processor.observe(observation)
    assert not backbone.see(inputs).requires_grad
    assert not backbone.plain.get_input_embeddings()(inputs.input_ids).requires_grad
    assert backbone(observation)[0].requires_grad == adapts


def test_plain_peft_reads_it_bit_for_bit(observation: Observation, tmp_path: Path) -> None:
    backbone = adapted()
    disturb(backbone)
    tokens, _ = backbone(observation)
    assert (tokens - fresh()(observation)[0]).abs().max() > 0.05
    folder = saved(backbone, tmp_path / "adapter")
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert torch.equal(plain_peft(folder)(observation)[0], tokens)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(backbone.folder)
    assert settings["inference_mode"] is True
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)


def test_averaged_weights_are_written_instead_of_the_modules(observation: Observation, tmp_path: Path) -> None:
    backbone = adapted()
    disturb(backbone)
    averaged = {name: value.detach() * 0.5 for name, value in lora.adapter_parameters(backbone).items()}
    folder = saved(backbone, tmp_path / "adapter", averaged)
    with torch.no_grad():
        for parameter in lora.adapter_parameters(backbone).values():
            parameter.mul_(0.5)
    assert torch.equal(plain_peft(folder)(observation)[0], backbone(observation)[0])
    with pytest.raises(AssertionError, match="not LoRA parameters"):
        lora.save(backbone, folder, {"expert.weight": torch.zeros(1)})


def test_load_gives_back_what_was_saved(observation: Observation, tmp_path: Path) -> None:
    backbone = adapted(config=replace(CONFIG, dropout=0.1))
    disturb(backbone)
    folder = saved(backbone, tmp_path / "adapter")
    for other in (fresh(), adapted(seed=9)):
        lora.load(other, folder)
        assert torch.equal(other.eval()(observation)[0], backbone(observation)[0])
    bare = fresh()
    lora.load(bare, folder)
    assert lora.config_of(bare) == lora.config_of(backbone) == replace(CONFIG, dropout=0.1)
    assert lora.config_of(fresh()) is None


def test_folding_computes_with_the_updated_weights_alone(observation: Observation, tmp_path: Path) -> None:
    """What is in the file, multiplied out in float64 into a bare backbone; the adapter's layers are not called."""
    backbone, bare = adapted(), fresh()
    disturb(backbone)
    folder = saved(backbone, tmp_path / "adapter")
    before = {name: value.clone() for name, value in lora.adapter_parameters(backbone).items()}
    with torch.no_grad():
        tokens, _ = backbone(observation)
        lora.fold(backbone)
        called: list[str] = []
        for name, module in backbone.named_modules():
            if name.endswith((".lora_A.default", ".lora_B.default")):
                module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        folded, _ = backbone(observation)
        stored = load_file(folder / "adapter_model.safetensors")
        for name, layer in bare.plain.named_modules():
            key = f"base_model.model.{name}.lora_A.weight"
            if key in stored:
                down, up = stored[key].double(), stored[key.replace("lora_A", "lora_B")].double()
                layer.weight.copy_(layer.weight.double() + CONFIG.alpha / CONFIG.rank * up @ down)
        expected, _ = bare(observation)
    assert not called
    assert (tokens - fresh()(observation)[0]).abs().max() > 0.05
    largest = tokens.abs().max().item()
    torch.testing.assert_close(folded, expected, rtol=0, atol=2e-6 * largest)
    torch.testing.assert_close(folded, tokens, rtol=0, atol=2e-6 * largest)
    assert all(torch.equal(value, before[name]) for name, value in lora.adapter_parameters(backbone).items())


def test_in_bfloat16_updates_stay_beside_the_weights(observation: Observation) -> None:
    backbone = fresh(torch.bfloat16)
    lora.add(backbone, CONFIG, 0)
    disturb(backbone, 1e-3)
    with torch.no_grad():
        tokens, _ = backbone.eval()(observation)
        lora.fold(backbone)
        assert torch.equal(backbone(observation)[0], tokens)
    bare = fresh()
    lora.fold(bare)
    assert torch.equal(bare(observation)[0], fresh()(observation)[0])


def test_merging_gives_the_same_features(observation: Observation) -> None:
    backbone = adapted()
    disturb(backbone, 0.02)
    tokens, _ = backbone(observation)
    assert (tokens - fresh()(observation)[0]).abs().max() > 0.01
    merged = lora.merge(backbone)
    assert type(merged) is Qwen2_5_VLForConditionalGeneration
    assert not lora.adapter_parameters(backbone)
    torch.testing.assert_close(backbone(observation)[0], tokens, rtol=0, atol=1e-5)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in fresh().model.named_parameters()}


def test_it_may_be_of_the_upper_layers_alone(observation: Observation, tmp_path: Path) -> None:
    upper = replace(CONFIG, layers="top:1")
    backbone = adapted(config=upper)
    names = lora.adapter_parameters(backbone)
    assert len(names) == 4 * 2
    assert all(".layers.1." in name for name in names)
    disturb(backbone)
    tokens, _ = backbone(observation)
    folder = saved(backbone, tmp_path / "adapter")
    torch.testing.assert_close(plain_peft(folder)(observation)[0], tokens, rtol=1e-5, atol=1e-5)
    bare = fresh()
    lora.load(bare, folder)
    assert lora.config_of(bare) == upper
    assert torch.equal(bare.eval()(observation)[0], tokens)
    with pytest.raises(ValueError, match=r"of the layers top:1, the run's of all; give --lora.layers top:1"):
        lora.load(adapted(), folder)
    assert lora.merge(backbone).state_dict().keys() == fresh().model.state_dict().keys()
    with pytest.raises(ValueError, match=r"top:3, and there are 2 layers: give at most top:2"):
        adapted(config=replace(CONFIG, layers="top:3"))


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = saved(adapted(), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"rank 4 and alpha 8, the run has rank 2 .*give --lora.rank 4 --lora.alpha 8"):
        lora.load(adapted(config=replace(CONFIG, rank=2)), folder)


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = saved(adapted(), tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    first = min(weights)

    def refused(changed: dict[str, Tensor], message: str) -> None:
        save_file(changed, folder / "adapter_model.safetensors")
        backbone = adapted()
        before = {name: value.clone() for name, value in lora.adapter_parameters(backbone).items()}
        with pytest.raises(ValueError, match=message):
            lora.load(backbone, folder)
        assert all(torch.equal(value, before[name]) for name, value in lora.adapter_parameters(backbone).items())

    refused({name: value for name, value in weights.items() if name != first}, f"1 tensors missing, such as {first}")
    refused({**weights, "stray": torch.zeros(1)}, "1 tensors unexpected, such as stray")
    refused({**weights, first: torch.zeros(4, 7)}, rf"{first} is \(4, 7\) instead of \(4, 64\)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["qkv"]}, "target_modules"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "type IA3"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = saved(adapted(), tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ValueError, match=message):
        lora.load(fresh(), folder)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter_config\.json is missing"):
        lora.load(fresh(), tmp_path)
    folder = saved(adapted(), tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read"):
        lora.load(fresh(), folder)
