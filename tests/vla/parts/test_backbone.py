"""The backbone: nothing hidden leaks, batches do not matter, and what cannot be loaded is named."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vla.batch import Observation
from vla.parts import tiny
from vla.parts.backbone import fingerprint, load_backbone, resolve
from vla.parts.pretrained import digest_of
from vla.parts.qwen import QwenVL
from vla.settings import BackboneConfig

SIZES = ((60, 80), (100, 40), (56, 56))
INSTRUCTIONS = ("Go.", "Pick up the red cube and place it in the blue bowl.", "Open the drawer, then close it again.")


def look(rows: int = 3, cameras: int = 2, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    return Observation(
        images=tuple(
            tuple(
                torch.randint(0, 256, (3, *SIZES[(row + camera) % 3]), dtype=torch.uint8, generator=generator)
                for camera in range(cameras)
            )
            for row in range(rows)
        ),
        image_valid=torch.ones(rows, cameras, dtype=torch.bool),
        instructions=INSTRUCTIONS[:rows],
        state=torch.zeros(rows, 0),
        streams={},
    )


def row_of(observation: Observation, row: int) -> Observation:
    return Observation(
        images=observation.images[row : row + 1],
        image_valid=observation.image_valid[row : row + 1],
        instructions=observation.instructions[row : row + 1],
        state=observation.state[row : row + 1],
        streams={},
    )


@pytest.fixture(scope="module")
def backbone() -> QwenVL:
    return load_backbone(BackboneConfig(), torch.float32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in tiny.build().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def load(folder: Path) -> QwenVL:
    return load_backbone(BackboneConfig(path=str(folder)), torch.float32)


def test_tokens_have_the_width_of_the_config(backbone: QwenVL) -> None:
    tokens, mask = backbone(look())
    assert backbone.width == tiny.CONFIG["text_config"]["hidden_size"] == tokens.shape[-1]
    assert tokens.shape[:2] == mask.shape
    assert not tokens.requires_grad
    assert not backbone.training


def test_a_row_alone_equals_the_row_in_a_padded_batch(backbone: QwenVL) -> None:
    observation = look()
    tokens, mask = backbone(observation)
    assert len(set(mask.sum(1).tolist())) == 3, "the rows must differ in length for this test"
    for row in range(3):
        alone, seen = backbone(row_of(observation, row))
        assert seen.all()
        torch.testing.assert_close(tokens[row][mask[row]], alone[0], rtol=0, atol=2e-5)
        assert (tokens[row][~mask[row]] == 0).all()


def test_pixels_and_words_reach_the_tokens(backbone: QwenVL) -> None:
    observation = row_of(look(), 1)
    tokens, _ = backbone(observation)
    other, _ = backbone(replace(observation, images=((observation.images[0][0], 255 - observation.images[0][1]),)))
    assert (tokens - other).abs().max() > 0.1
    words, _ = backbone(replace(observation, instructions=("Pick up the blue cube and place it in the red bowl.",)))
    assert (tokens[:, -1] - words[:, -1]).abs().max() > 0.01


def test_positions_in_the_image_reach_the_tokens(backbone: QwenVL) -> None:
    """Without explicit positions the model falls back to 1-D positions without a word."""
    inputs, visible = backbone.processor.observe(row_of(look(), 0))
    tokens, _ = backbone.encode(inputs, visible)
    flat = torch.arange(visible.shape[1]).expand(3, 1, -1).contiguous()
    assert (tokens - backbone.encode(replace(inputs, position_ids=flat), visible)[0]).abs().max() > 0.01


def test_layers_that_look_back_a_little_are_those_of_transformers(backbone: QwenVL) -> None:
    """A sliding window, padded prompts and a hidden camera, beside transformers' own masks."""
    sliding = fresh_with_window(8)
    observation = replace(look(), image_valid=torch.tensor([[True, True], [False, True], [True, False]]))
    inputs, visible = sliding.processor.observe(observation)
    with torch.no_grad():
        ours, _ = sliding.encode(inputs, visible)
        theirs = sliding.plain.model(
            input_ids=inputs.input_ids, attention_mask=visible.long(), position_ids=inputs.position_ids,
            pixel_values=inputs.pixel_values, image_grid_thw=inputs.image_grid_thw, use_cache=False,
        ).last_hidden_state  # fmt: skip
        whole, _ = backbone.encode(inputs, visible)
    torch.testing.assert_close(ours[visible], theirs[visible], rtol=0, atol=2e-5)
    assert (ours - whole)[visible].abs().max() > 0.1, "the window does something"


def fresh_with_window(reach: int) -> QwenVL:
    """The tiny backbone, whose first layer looks back no further."""
    backbone = load_backbone(BackboneConfig(), torch.float32)
    assert isinstance(backbone, QwenVL)
    model = backbone.plain.model.language_model
    model.config.layer_types, model.config.sliding_window = ["sliding_attention", "full_attention"], reach
    model.has_sliding_layers = True
    return backbone


def test_pixels_of_a_masked_camera_change_nothing(backbone: QwenVL) -> None:
    observation = look()
    observation = replace(observation, image_valid=torch.tensor([[True, True], [False, True], [True, False]]))
    tokens, mask = backbone(observation)
    noise = look(seed=1).images
    other = tuple(
        tuple(frames[camera] if valid else noise[row][camera] for camera, valid in enumerate(flags))
        for row, (frames, flags) in enumerate(zip(observation.images, observation.image_valid.tolist(), strict=True))
    )
    changed, other_mask = backbone(replace(observation, images=other))
    assert torch.equal(mask, other_mask)
    assert torch.equal(tokens, changed)
    assert not torch.equal(tokens, backbone(replace(observation, image_valid=torch.ones(3, 2, dtype=torch.bool)))[0])


def test_a_masked_camera_equals_a_prompt_with_a_hole(backbone: QwenVL) -> None:
    """Hiding a camera is leaving its tokens out while the others keep their positions."""
    observation = replace(row_of(look(), 0), image_valid=torch.tensor([[False, True]]))
    inputs, visible = backbone.processor.observe(observation)
    tokens, _ = backbone(observation)
    keep = visible[0]
    first = int(inputs.image_grid_thw[0].prod())
    without = replace(
        inputs,
        input_ids=inputs.input_ids[:, keep],
        attention_mask=inputs.attention_mask[:, keep],
        position_ids=inputs.position_ids[:, :, keep],
        image_grid_thw=inputs.image_grid_thw[1:],
        pixel_values=inputs.pixel_values[first:],
        image_index=inputs.image_index[:, keep],
    )
    torch.testing.assert_close(tokens[:, keep], backbone.encode(without, visible[:, keep])[0], rtol=0, atol=2e-5)


def test_all_cameras_masked_leaves_the_text(backbone: QwenVL) -> None:
    tokens, mask = backbone(replace(look(), image_valid=torch.zeros(3, 2, dtype=torch.bool)))
    assert tokens.isfinite().all()
    assert mask.any(1).all()


def test_no_cameras_at_all(backbone: QwenVL) -> None:
    tokens, mask = backbone(look(cameras=0))
    assert tokens.shape[:2] == mask.shape
    assert tokens.isfinite().all()


def test_mean_is_over_visible_tokens() -> None:
    observation = replace(look(), image_valid=torch.tensor([[True, True], [False, True], [True, True]]))
    tokens, mask = load_backbone(BackboneConfig(), torch.float32)(observation)
    mean, seen = load_backbone(BackboneConfig(output="mean"), torch.float32)(observation)
    assert mean.shape == (3, 1, 64)
    assert seen.all()
    for row in range(3):
        torch.testing.assert_close(mean[row, 0], tokens[row][mask[row]].mean(0))


def test_the_head_is_not_computed(backbone: QwenVL) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the language-model head was computed")

    handle = backbone.plain.lm_head.register_forward_hook(never)
    backbone(look())
    handle.remove()


def test_gradients_flow_exactly_when_something_learns() -> None:
    backbone = load_backbone(BackboneConfig(), torch.float32)
    names = backbone.last_layer_names(1)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)
    tokens, _ = backbone(look())
    tokens.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in names)
    with torch.no_grad():
        assert not backbone(look())[0].requires_grad


def test_last_blocks_are_found_through_the_module_tree(backbone: QwenVL) -> None:
    last = backbone.last_layer_names(1)
    assert last == {name for name, _ in backbone.named_parameters() if ".language_model.layers.1." in name}
    assert len(last) == 12
    both = backbone.last_layer_names(2)
    assert both > last
    assert not any("visual" in name or "embed" in name or name == "norm.weight" for name in both)
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match=f"last {count} blocks.*give a number from 1 to 2"):
            backbone.last_layer_names(count)


def test_bfloat16_stays_bfloat16_and_close(backbone: QwenVL) -> None:
    tokens, mask = backbone(look())
    low = load_backbone(BackboneConfig(), torch.bfloat16)
    rounded, _ = low(look())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - tokens)[mask].abs().mean() < 0.1


class Partitioned:
    """Empties every parameter outside the forward of the module that owns it, as ZeRO-3 does."""

    def __init__(self, module: nn.Module) -> None:
        self.values: dict[nn.Parameter, Tensor] = {parameter: parameter.data for parameter in module.parameters()}
        for part in module.modules():
            part.register_forward_pre_hook(self.gather)
            part.register_forward_hook(self.release, always_call=True)
        for parameter in self.values:
            parameter.data = torch.empty(0, dtype=parameter.dtype)

    def own(self, part: nn.Module) -> Iterator[nn.Parameter]:
        return part.parameters(recurse=False)

    def gather(self, part: nn.Module, *_: object) -> None:
        for parameter in self.own(part):
            parameter.data = self.values[parameter]

    def release(self, part: nn.Module, *_: object) -> None:
        for parameter in self.own(part):
            parameter.data = torch.empty(0, dtype=parameter.dtype)


@pytest.mark.parametrize("output", ["tokens", "mean"])
def test_parameters_are_read_by_their_own_modules_alone(output: str) -> None:
    backbone = load_backbone(BackboneConfig(output=output), torch.float32)  # type: ignore[arg-type]
    expected = [part.clone() for part in backbone(look())]
    Partitioned(backbone)
    assert all(parameter.numel() == 0 for parameter in backbone.parameters())
    for part, value in zip(backbone(look(seed=0)), expected, strict=True):
        assert torch.equal(part, value)
    backbone(replace(look(), instructions=("A prompt", "that was not", "tokenised before.")))


def test_loading_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    load_backbone(BackboneConfig(), torch.float32)
    assert torch.equal(state, torch.get_rng_state())


def test_a_loaded_backbone_keeps_its_weights_when_its_file_changes(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    before = {name: parameter.clone() for name, parameter in loaded.named_parameters()}
    weights = checkpoint / "model.safetensors"
    with weights.open("r+b") as file:  # as `cp` does: the same file with other content
        file.seek(weights.stat().st_size // 4)
        file.write(bytes(weights.stat().st_size // 2))
    again = dict(load(checkpoint).named_parameters())
    assert any(not torch.equal(again[name], values) for name, values in before.items())
    assert all(torch.equal(parameter, before[name]) for name, parameter in loaded.named_parameters())


def test_fingerprint_is_of_the_content(checkpoint: Path) -> None:
    first = fingerprint(str(checkpoint))
    assert first == fingerprint("tiny") == fingerprint(str(checkpoint))
    (checkpoint / "README.md").write_text("says nothing")
    assert fingerprint(str(checkpoint)) == first
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    second = fingerprint(str(checkpoint))
    assert second != first
    template = checkpoint / "tokenizer_config.json"
    template.write_text(template.read_text().replace("helpful", "useful"))
    assert fingerprint(str(checkpoint)) not in (first, second)


def test_fingerprint_sees_every_chunk(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.parts.pretrained.CHUNK", 1000)
    seen = {fingerprint(str(checkpoint))}
    weights = checkpoint / "model.safetensors"
    for place in (20_000, 100_000, -1):
        content = bytearray(weights.read_bytes())
        content[place] ^= 1
        weights.write_bytes(content)
        seen.add(fingerprint(str(checkpoint)))
    assert len(seen) == 4


def test_a_fingerprint_is_computed_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    monkeypatch.setattr("vla.parts.pretrained.digest_of", lambda files: computed.append(len(files)) or digest_of(files))
    folder = str(checkpoint)
    first = fingerprint(folder)
    assert (fingerprint(folder), len(computed)) == (first, 1)
    assert (fingerprint(folder, verify=True), len(computed)) == (first, 2)
    (checkpoint / "model.safetensors").touch()
    assert (fingerprint(folder), len(computed)) == (first, 3)


def test_a_sharded_checkpoint_loads_and_a_lost_shard_is_named(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, checkpoint / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load(checkpoint)(look())[0], load_backbone(BackboneConfig(), torch.float32)(look())[0])
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks model-00002-of-00002.safetensors"):
        load(checkpoint)


def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    for attempt in (load, lambda folder: fingerprint(str(folder))):
        with pytest.raises(ValueError, match="holds no weights"):
            attempt(checkpoint)


def test_a_truncated_file_of_weights_is_refused(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load(checkpoint)


def test_weights_that_lack_a_tensor_are_refused(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["visual.merger.mlp.0.weight"]
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors, among them model.visual.merger.mlp.0.weight"):
        load(checkpoint)


def test_weights_of_another_size_are_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit its config.json"):
        load(checkpoint)


def test_another_model_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="of type 'llama'; give a Qwen2.5-VL checkpoint"):
        load(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match="no config.json"):
        load(checkpoint)


def test_paths_that_lead_nowhere(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=f"did you mean {checkpoint}"):
        resolve(str(checkpoint) + "s")
    with pytest.raises(ValueError, match="did you mean tiny"):
        resolve("tinny")
    with pytest.raises(ValueError, match="give a folder, a hub id .owner/name., or tiny"):
        resolve("/nowhere/at/all")
    with pytest.raises(ValueError, match="neither a folder nor a model that can be had from the hub now"):
        resolve("nobody/Qwen2.5-VL-nothing")
    assert resolve(str(checkpoint)) == checkpoint
    assert resolve("tiny") == tiny.build()


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def edit(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


class TestFoldersThatWouldRunCode:
    """Nothing is unpickled, no code of the folder runs, and no other file than the fingerprinted ones is read."""

    @pytest.fixture
    def canary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A file that must not appear, while nothing may be unpickled."""
        real = torch.load

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("torch.load was called")

        monkeypatch.setattr(torch, "load", refuse)
        yield tmp_path / "canary"
        assert not (tmp_path / "canary").exists()
        monkeypatch.setattr(torch, "load", real)

    def test_the_canary_works(self, tmp_path: Path) -> None:
        torch.save(Touch(tmp_path / "sung"), tmp_path / "file")
        torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / "sung").exists()

    @pytest.mark.parametrize("decoy", [None, "other.safetensors", "model-00001-of-00002.safetensors"])
    def test_pickled_weights_are_refused_whatever_lies_beside_them(
        self, checkpoint: Path, canary: Path, decoy: str | None
    ) -> None:
        weights = checkpoint / "model.safetensors"
        if decoy is None:
            weights.unlink()
        else:
            weights.rename(checkpoint / decoy)
        torch.save(Touch(canary), checkpoint / "pytorch_model.bin")
        with pytest.raises(ValueError, match="holds no weights"):
            load(checkpoint)

    def test_pickles_beside_the_weights_are_left_alone(self, checkpoint: Path, canary: Path) -> None:
        for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "data.pkl"):
            torch.save(Touch(canary), checkpoint / name)
        load(checkpoint)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "../other/model.safetensors", "/model.safetensors"])
    def test_an_index_names_weights_of_the_folder_only(self, checkpoint: Path, canary: Path, name: str) -> None:
        names = load_file(checkpoint / "model.safetensors")
        (checkpoint / "model.safetensors").rename(checkpoint / "other.safetensors")
        torch.save(Touch(canary), checkpoint / "pytorch_model.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="lacks"):
            load(checkpoint)

    def test_a_configuration_cannot_name_other_weights(self, checkpoint: Path, canary: Path) -> None:
        torch.save(Touch(canary), checkpoint / "adapter_model.bin")
        edit(checkpoint / "config.json", transformers_weights="adapter_model.bin")
        for attempt in (load, lambda folder: fingerprint(str(folder))):
            with pytest.raises(ValueError, match="has 'transformers_weights'"):
                attempt(checkpoint)

    def test_an_adapter_in_the_folder_cannot_swap_the_weights(
        self, checkpoint: Path, canary: Path, tmp_path: Path
    ) -> None:
        adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "elsewhere"), "r": 4}
        (checkpoint / "adapter_config.json").write_text(json.dumps(adapter))
        torch.save(Touch(canary), checkpoint / "adapter_model.bin")
        with pytest.raises(ValueError, match="is an adapter"):
            load(checkpoint)

    def test_code_that_a_configuration_names_is_not_run(
        self, checkpoint: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (checkpoint / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Model: pass\n")
        names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "evil.Model")
        edit(checkpoint / "config.json", auto_map=names, _attn_implementation="owner/kernel")
        edit(checkpoint / "preprocessor_config.json", auto_map=names)
        edit(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]})
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        load(checkpoint)

    def test_quantised_weights_are_refused_in_one_sentence(self, checkpoint: Path) -> None:
        edit(checkpoint / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
        with pytest.raises(ValueError, match="has 'quantization_config'"):
            load(checkpoint)
