"""A policy on disk: it comes back the same, and what does not fit is refused."""

import copy
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.vla.test_policy import BARE, CONFIG, CONTRACT, SEEING, batch, build
from vla.adapting import base_of
from vla.commands.recordings import open_policy
from vla.errors import CorruptData
from vla.merging import merge_policy
from vla.parts import tiny
from vla.parts.backbone import fingerprint
from vla.policy import Policy
from vla.policy_folder import READERS, HeldOut, digest, load_policy, read_description, save_policy
from vla.policy_settings import Sampling


def opened(policy: Policy) -> Policy:
    """The policy as after some training: every learned weight is random."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in policy.learned().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    policy.set_mode(training=False)
    return policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return opened(build())


@pytest.fixture(scope="module")
def written(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "policy"
    save_policy(policy, folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "policy"))


def test_a_policy_comes_back_the_same(policy: Policy, written: Path) -> None:
    again = load_policy(written)
    assert again.config == policy.config
    assert again.contract == policy.contract
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    data = batch()
    assert torch.equal(policy.act(data.observation, data.draws.noise), again.act(data.observation, data.draws.noise))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_policy_that_only_acts_has_its_adapter_folded(policy: Policy, written: Path, tmp_path: Path) -> None:
    """It answers the same but for rounding, and adapters know it as the same policy."""
    data, folded = batch(), load_policy(written, fold=True)
    assert base_of(folded) == base_of(load_policy(written))
    weights = dict(folded.backbone.named_parameters())
    changed = [name for name, value in policy.backbone.named_parameters() if not torch.equal(value, weights[name])]
    assert len(changed) == 2 * 4 and all(name.endswith(".base_layer.weight") for name in changed)
    answers = [each.act(data.observation, data.draws.noise) for each in (policy, folded)]
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-4)
    assert torch.equal(
        open_policy(written, None, "cpu", Sampling()).act(data.observation, data.draws.noise), answers[1]
    )


def test_a_policy_that_tuned_blocks_keeps_its_adapter_beside_them(tmp_path: Path) -> None:
    """Adapters know it by the blocks themselves."""
    policy = opened(build())
    policy.tuned = frozenset(f"backbone.{name}" for name in policy.backbone.last_layer_names(1))
    save_policy(policy, tmp_path / "policy")
    folded = load_policy(tmp_path / "policy", fold=True)
    assert all(torch.equal(value, folded.learned()[name]) for name, value in policy.learned().items())


def test_a_scale_that_is_missing_is_named(folder: Path) -> None:
    file = folder / "normalizer.safetensors"
    scales = load_file(file)
    save_file({name: tensor for name, tensor in scales.items() if name != "actions.offset"}, file)
    relist(folder)
    with pytest.raises(ValueError, match="actions.offset is missing"):
        load_policy(folder)


def test_what_training_held_out_is_kept(policy: Policy, folder: Path, tmp_path: Path) -> None:
    known = HeldOut(seed=3, episodes=("episode_000004 9f86d081884c7d65",))
    save_policy(policy, folder, held_out=known)
    merge_policy(folder, tmp_path / "merged")
    for place in (folder, tmp_path / "merged"):
        assert read_description(place).held_out == known


def test_the_folder_holds_what_the_interface_names(written: Path, policy: Policy) -> None:
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()) == [
        "README.md",
        "action_expert.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
        "normalizer.safetensors",
        "sensor_encoder.safetensors",
        "state_encoder.safetensors",
    ]
    content = json.loads((written / "config.json").read_text())
    assert content["contract"]["cameras"] == list(CONTRACT.cameras)
    assert content["backbone"] == {"id": "tiny", "fingerprint": fingerprint("tiny")}
    stored = sum(
        tensor.numel()
        for file in written.rglob("*.safetensors")
        if file.name != "normalizer.safetensors"
        for tensor in load_file(file).values()
    )
    assert stored == sum(tensor.numel() for tensor in policy.learned().values())


def test_the_card_has_front_matter(written: Path) -> None:
    card = (written / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: touchstone\npipeline_tag: robotics\n")
    assert "load_policy" in card
    assert "x, y, gripper" in card


def test_the_card_shows_how_to_load(written: Path) -> None:
    """The code of the card runs."""
    code = (written / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {"observation": batch(size=1).observation}
    exec(code.replace("path/to/this/folder", str(written)), scope)
    assert scope["actions"].shape == (1, CONTRACT.horizon, CONTRACT.action_dim)


# peft 0.21 asks transformers 5.23 by a name that version 6 will drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_plain_peft_loads_the_adapter(written: Path, policy: Policy) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny.build(), attn_implementation="sdpa")
    theirs = copy.deepcopy(policy.backbone)
    theirs.model = PeftModel.from_pretrained(model, written / "adapter").eval()
    observation = batch().observation
    with torch.no_grad():
        assert torch.equal(theirs(observation)[0], policy.backbone(observation)[0])


def test_given_tensors_are_written_instead_of_the_policys_own(policy: Policy, tmp_path: Path) -> None:
    averaged = {name: tensor + 1 for name, tensor in policy.learned().items()}
    partial = {name: tensor for name, tensor in averaged.items() if not name.startswith("sensor.")}
    save_policy(policy, tmp_path / "policy", partial)
    again = load_policy(tmp_path / "policy").learned()
    for name, tensor in policy.learned().items():
        assert torch.equal(again[name], tensor if name.startswith("sensor.") else averaged[name]), name


def test_a_policy_without_sensor_state_camera_and_adapter(tmp_path: Path) -> None:
    policy = opened(build(dataclasses.replace(CONFIG, lora=None), BARE))
    save_policy(policy, tmp_path / "policy")
    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "README.md",
        "action_expert.safetensors",
        "config.json",
        "normalizer.safetensors",
    }
    data = batch(BARE)
    again = load_policy(tmp_path / "policy")
    assert torch.equal(policy.act(data.observation, data.draws.noise), again.act(data.observation, data.draws.noise))


def test_a_camera_encoder_is_kept_and_named(tmp_path: Path) -> None:
    policy = opened(build(SEEING))
    save_policy(policy, tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert again.config == policy.config
    stored = load_file(tmp_path / "policy" / "camera_encoder.safetensors")
    assert stored.keys() == {name for name, _ in policy.camera.named_parameters()}
    data = batch()
    assert torch.equal(policy.act(data.observation, data.draws.noise), again.act(data.observation, data.draws.noise))
    assert "2 tokens of each camera, from 32 x 32 pixels" in (tmp_path / "policy" / "README.md").read_text()
    (tmp_path / "policy" / "camera_encoder.safetensors").unlink()
    with pytest.raises(ValueError, match=r"camera_encoder.safetensors is missing"):
        load_policy(tmp_path / "policy")


def test_trained_blocks_of_the_backbone_are_kept(tmp_path: Path) -> None:
    policy = build(dataclasses.replace(CONFIG, lora=None))
    policy.tuned = frozenset(f"backbone.{name}" for name in policy.backbone.last_layer_names(1))
    opened(policy)
    save_policy(policy, tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert again.tuned == policy.tuned
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in policy.state_dict().items())
    merge_policy(tmp_path / "policy", tmp_path / "merged")
    data = batch()
    merged = load_policy(tmp_path / "merged")
    assert torch.equal(policy.act(data.observation, data.draws.noise), merged.act(data.observation, data.draws.noise))


def test_merging_keeps_the_actions(policy: Policy, folder: Path, tmp_path: Path) -> None:
    merge_policy(folder, tmp_path / "merged")
    # The merged policy has its backbone within, and may be moved.
    shutil.move(tmp_path / "merged", tmp_path / "elsewhere")
    merged = load_policy(tmp_path / "elsewhere")
    assert merged.config.lora is None
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    data = batch()
    actions = policy.act(data.observation, data.draws.noise)
    assert torch.allclose(merged.act(data.observation, data.draws.noise), actions, atol=1e-5)
    assert not torch.allclose(build().backbone(data.observation)[0], merged.backbone(data.observation)[0], atol=1e-3)
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_policy(tmp_path / "elsewhere", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "policy"]


def test_a_merged_policy_can_be_saved_again(folder: Path, tmp_path: Path) -> None:
    merge_policy(folder, tmp_path / "merged")
    save_policy(load_policy(tmp_path / "merged"), tmp_path / "copy")
    data = batch()
    one, two = (load_policy(tmp_path / name).act(data.observation, data.draws.noise) for name in ("merged", "copy"))
    assert torch.equal(one, two)


def change(folder: Path, **values: object) -> None:
    """Overwrite keys of config.json, given as `part__key`."""
    content = json.loads((folder / "config.json").read_text())
    for path, value in values.items():
        *parents, key = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[key] = value
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 7}, "schema 4"),
        ({"schema": 1}, f"check out commit {READERS[1]}, which reads it"),
        ({"schema": 2}, f"check out commit {READERS[2]}, which reads it"),
        ({"backbone__fingerprint": "0" * 64}, "give the folder of the same backbone"),
        ({"contract__action_dim": 7}, "instead of"),
        ({"contract__colour": 7}, "colour"),
        ({"policy__expert__flavour": 7}, "flavour"),
        ({"policy__expert__depth": 3}, "is missing"),
        ({"policy__expert__depth": 1}, "is unexpected"),
        ({"policy__lora__rank": 8}, "rank"),
        ({"backbone__id": "./nothing"}, "is not a folder"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, values: dict[str, object], message: str) -> None:
    change(folder, **values)
    with pytest.raises(ValueError, match=message):
        load_policy(folder)


def test_damaged_files_are_corrupt(folder: Path) -> None:
    file = folder / "action_expert.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptData, match="action_expert"):
        load_policy(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptData, match="config.json is damaged"):
        load_policy(folder)


def test_missing_files_and_tensors_are_named(folder: Path, tmp_path: Path) -> None:
    file = folder / "sensor_encoder.safetensors"
    tensors = load_file(file)
    del tensors["no_sensor"]
    save_file(tensors, file)
    relist(folder)
    with pytest.raises(ValueError, match="no_sensor is missing"):
        load_policy(folder)
    file.unlink()
    with pytest.raises(ValueError, match="sensor_encoder.safetensors is missing"):
        load_policy(folder)
    with pytest.raises(ValueError, match="no policy folder"):
        load_policy(tmp_path)


def relist(folder: Path) -> None:
    """Let config.json list what lies there, as nobody should."""
    content = json.loads((folder / "config.json").read_text())
    content["files"] = {name: digest(folder / name) for name in content["files"]}
    (folder / "config.json").write_text(json.dumps(content))


def test_a_folder_that_lost_a_file_or_has_one_of_another_policy_is_refused(folder: Path, tmp_path: Path) -> None:
    """Blocks that were trained and are not there once loaded as the backbone's own, without a word."""
    listed = json.loads((folder / "config.json").read_text())["files"]
    assert set(listed) == {
        "action_expert.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "normalizer.safetensors",
        "sensor_encoder.safetensors",
        "state_encoder.safetensors",
    }
    for name, expected in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptData, match=f"{name} is not the file that config.json lists"):
            load_policy(folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=f"{name} is missing from the policy folder"):
            load_policy(folder)
        (folder / name).write_bytes(whole)
    (folder / "README.md").write_text("Edited.")
    (folder / "notes.txt").write_text("It is fine to keep notes here.")
    load_policy(folder)
    shutil.copy(folder / "state_encoder.safetensors", folder / "backbone_blocks.safetensors")
    with pytest.raises(ValueError, match=r"backbone_blocks\.safetensors is not listed in config\.json"):
        load_policy(folder)


def test_trained_blocks_that_are_lost_are_missed(tmp_path: Path) -> None:
    policy = opened(build(dataclasses.replace(CONFIG, lora=None), BARE))
    name = next(name for name, _ in policy.backbone.named_parameters())
    policy.tuned = frozenset({f"backbone.{name}"})
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy").tuned == policy.tuned
    (tmp_path / "policy" / "backbone_blocks.safetensors").unlink()
    with pytest.raises(ValueError, match=r"backbone_blocks\.safetensors is missing from the policy folder"):
        load_policy(tmp_path / "policy")


def test_only_a_policy_is_replaced(policy: Policy, folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no policy folder"):
        save_policy(policy, precious)
    assert (precious / "thesis.txt").read_text() == "years of work"
    (folder / "stale").touch()
    save_policy(policy, folder)
    assert not (folder / "stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy", "precious"]


def test_a_run_is_told_from_its_policy(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    for folder in (tmp_path, tmp_path / "policy"):
        (folder / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=f"{tmp_path} is a run and no policy folder: give its policy, {tmp_path}/policy"
    ):
        load_policy(tmp_path)
