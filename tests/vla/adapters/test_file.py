"""Adapters on disk: plain peft reads ours and we read its, and what does not fit is refused with the reason."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.vla.test_policy import BARE, CONFIG, batch, build
from vla import adapting
from vla.adapter_settings import AdapterConfig
from vla.adapters import file
from vla.adapters.file import CONFIG_FILE, KEY, WEIGHTS_FILE
from vla.errors import CorruptData
from vla.merging import merge_policy
from vla.policy import Policy
from vla.policy_folder import ADAPTERS, load_policy, read_description, save_policy
from vla.policy_settings import PolicyConfig

TARGETS = (r"expert\..*attention\.(query|key_value|out)", r"expert\.context\.projections\..*")
PLAIN = dataclasses.replace(CONFIG, lora=None)
# peft 0.21 asks transformers 5.23 by a name that version 6 will drop; not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def shared() -> Policy:
    policy = build(PLAIN)
    generator = torch.Generator().manual_seed(0)
    for block in policy.expert.blocks:  # open the gates, or the expert hears little of its layers
        block.modulation.bias.data.add_(0.3 * torch.randn(block.modulation.bias.shape, generator=generator))
    policy.requires_grad_(requires_grad=False)
    policy.set_mode(training=False)
    return policy


@pytest.fixture
def policy(shared: Policy) -> Policy:
    return copy.deepcopy(shared)


def train(policy: Policy, name: str, seed: int = 0) -> None:
    """Stand in for training."""
    policy.adapters.add(AdapterConfig(name=name, rank=3, alpha=6, dropout=0.0, targets=TARGETS), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.adapters.parameters(name).values():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def write(policy: Policy, folder: Path, name: str = "slow", seed: int = 0) -> Path:
    """An adapter of a policy that has none afterwards."""
    base = adapting.base_of(policy)
    train(policy, name, seed)
    adapting.save_adapter(policy, name, folder, base=base, made={"recipe": "adapter"})
    policy.adapters.remove(name)
    return folder


def said(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy(batch())["diffusion"]


def test_plain_peft_computes_the_same_from_our_folder(policy: Policy, tmp_path: Path) -> None:
    folder, before = write(policy, tmp_path / "slow"), said(policy)
    theirs = copy.deepcopy(policy)
    PeftModel.from_pretrained(theirs, str(folder))
    adapting.load_adapter(policy, folder)
    policy.adapters.set({"slow": 1.0})
    torch.testing.assert_close(said(policy), said(theirs), rtol=1e-6, atol=1e-7)
    assert (said(policy) - before).abs().max() > 1e-3


@pytest.mark.parametrize("targets", [TARGETS[0], ["query", "key_value"]])
def test_a_folder_of_plain_peft_computes_the_same_here(
    policy: Policy, tmp_path: Path, targets: str | list[str]
) -> None:
    theirs = copy.deepcopy(policy)
    config = PeftLoraConfig(r=2, lora_alpha=5, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        get_peft_model(theirs, config).save_pretrained(str(tmp_path / "theirs"))
    expected = said(theirs.eval())
    told = adapting.blend(policy, [f"{tmp_path / 'theirs'}:1.0"])
    torch.testing.assert_close(said(policy), expected, rtol=1e-5, atol=1e-6)
    assert "does not say what policy it fits" in told[0]


def test_the_header_says_what_it_is_and_fits(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "slow")
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        header = json.loads(opened.metadata()[KEY])
    assert header["adapter"] == {"name": "slow", "rank": 3, "alpha": 6, "dropout": 0.0, "targets": list(TARGETS)}
    assert header["base"].keys() == {"weights", "normalizer", "body", "backbone", "fingerprint"}
    assert file.read(folder / WEIGHTS_FILE).description == file.read(folder).description


def test_a_policy_from_its_folder_is_the_base_that_it_was(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    folder = write(policy, tmp_path / "policy" / ADAPTERS / "slow")
    again = load_policy(tmp_path / "policy")
    assert adapting.base_of(again) == adapting.base_of(policy)
    adapting.blend(again, ["slow:0.5", f"{folder}:0.25"], tmp_path / "policy")
    assert again.blend.weights == {"slow": 0.5, "slow-2": 0.25}
    save_policy(policy, tmp_path / "policy")
    assert (tmp_path / "policy" / ADAPTERS / "slow" / WEIGHTS_FILE).is_file(), "adapters outlive another export"


def test_the_last_colon_counts() -> None:
    def parts(word: str) -> tuple[str, float]:
        return adapting.parse(word).place, adapting.parse(word).weight

    assert parts("runs/zombie:0.7") == ("runs/zombie", 0.7)
    assert parts("a:b:-1.5") == ("a:b", -1.5)
    assert parts("runs/zombie") == ("runs/zombie", 1.0)
    assert parts("C:folder") == ("C:folder", 1.0)
    assert parts("12:30:half") == ("12:30:half", 1.0)
    for word in ("a:nan", "a:inf"):
        with pytest.raises(ValueError, match="give a number, such as a:0.7"):
            adapting.parse(word)


def test_merged_is_the_blend_and_the_source_stays(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    before = {path: path.read_bytes() for path in (tmp_path / "policy").rglob("*") if path.is_file()}
    first = write(policy, tmp_path / "one", "one", 1)
    second = write(policy, tmp_path / "two", "two", 2)
    words = [f"{first}:0.7", f"{second}:-0.4"]
    merge_policy(tmp_path / "policy", tmp_path / "merged", adapters=words)
    merged = load_policy(tmp_path / "merged")
    for name, seed in (("one", 1), ("two", 2)):
        train(policy, name, seed)
    policy.adapters.set({"one": 0.7, "two": -0.4})
    torch.testing.assert_close(said(merged), said(policy), rtol=1e-5, atol=1e-6)
    assert not any(isinstance(layer, nn.ModuleDict) and "one" in layer for layer in merged.modules())
    assert [line.rpartition(" ")[2] for line in read_description(tmp_path / "merged").merged] == ["0.7", "-0.4"]
    assert {path: path.read_bytes() for path in (tmp_path / "policy").rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match="on a policy of other weights"):
        adapting.blend(merged, [str(first)])
    with pytest.raises(ValueError, match="has no adapter, so there is nothing to merge"):
        merge_policy(tmp_path / "policy", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_adapter_of_the_backbone_is_merged_into_one_of_the_policy_s_own(tmp_path: Path) -> None:
    policy = build(PLAIN)
    policy.requires_grad_(requires_grad=False)
    policy.set_mode(training=False)
    save_policy(policy, tmp_path / "policy")
    base = adapting.base_of(policy)
    policy.adapters.add(AdapterConfig(name="words", rank=2, dropout=0.0, targets=(r"backbone\..*\.mlp\.down_proj",)))
    for parameter in policy.adapters.parameters("words").values():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    adapting.save_adapter(policy, "words", tmp_path / "words", base=base, made={})
    policy.adapters.set({"words": 0.5})
    merge_policy(tmp_path / "policy", tmp_path / "merged", adapters=[f"{tmp_path / 'words'}:0.5"])
    assert (tmp_path / "merged" / "backbone" / "config.json").is_file()
    torch.testing.assert_close(said(load_policy(tmp_path / "merged")), said(policy), rtol=1e-5, atol=1e-6)


def other(config: PolicyConfig = PLAIN, seed: int = 0, **contract: object) -> Policy:
    changed = dataclasses.replace(BARE, **contract) if contract else build(PLAIN).contract  # type: ignore[arg-type]
    policy = build(config, changed, seed)
    policy.requires_grad_(requires_grad=False)
    policy.set_mode(training=False)
    return policy


OTHERS: list[tuple[Callable[[], Policy], str]] = [
    (lambda: other(seed=1), "on a policy of other weights"),
    (lambda: other(action_dim=2, action_names=("x", "y"), action_periods=(0.0, 0.0)), "the policy a robot of 2 dim"),
    (lambda: rescaled(other()), "other scales of actions and inputs"),
]


def rescaled(policy: Policy) -> Policy:
    policy.normalizer_of("actions").scale.mul_(2)
    return policy


@pytest.mark.parametrize(("build_other", "reason"), OTHERS)
def test_an_adapter_of_another_policy_is_refused(
    policy: Policy, tmp_path: Path, build_other: Callable[[], Policy], reason: str
) -> None:
    folder, one = write(policy, tmp_path / "slow"), build_other()
    before = said(one) if one.contract == policy.contract else None
    with pytest.raises(ValueError, match=reason):
        adapting.load_adapter(one, folder)
    assert one.adapters.names == ()
    assert before is None or torch.equal(said(one), before)


def test_another_text_encoder_is_named(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "slow")
    base = dataclasses.replace(adapting.base_of(policy), backbone="minilm", fingerprint="f" * 64)
    with pytest.raises(ValueError, match=r"beside the backbone tiny .*, the policy has minilm \(ffffffffffff\)"):
        adapting.load_adapter(policy, folder, base=base)


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], None], *, header: bool) -> None:
    """The weights of a folder, changed; without our header peft's configuration says what they are."""
    weights = folder / WEIGHTS_FILE
    with safe_open(weights, framework="pt") as opened:
        metadata = opened.metadata() if header else {"format": "pt"}
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights, metadata)


def reconfigured(folder: Path, **settings: object) -> None:
    said = json.loads((folder / CONFIG_FILE).read_text()) | settings
    (folder / CONFIG_FILE).write_text(json.dumps(said))


FIRST = "base_model.model.expert.blocks.0.attention.query"


def attention(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.layers.0.self_attn.in_proj_weight.lora_A.weight"] = torch.zeros(3, 8)


FOREIGN: list[tuple[str, Callable[[Path], None]]] = [
    ("adapts an nn.MultiheadAttention", lambda folder: rewritten(folder, attention, header=False)),
    ("lacks lora_B of", lambda folder: rewritten(folder, lambda t: t.pop(f"{FIRST}.lora_B.weight"), header=False)),  # type: ignore[arg-type, return-value]
    ("which are not of rank 4", lambda folder: reconfigured(folder, r=4)),
    ("has use_rslora = True, which changes what", lambda folder: reconfigured(folder, use_rslora=True)),
    ("has bias = 'all', which changes what", lambda folder: reconfigured(folder, bias="all")),
    ("an adapter of type IA3; only LORA", lambda folder: reconfigured(folder, peft_type="IA3")),
    (r"has 1 layers, such as expert\.blocks\.9", lambda folder: rewritten(folder, deeper, header=False)),
    ("does not fit: beside the policy's it lacks", lambda folder: rewritten(folder, shallower, header=False)),
    ("does not say what adapter it is", lambda folder: (folder / CONFIG_FILE).unlink()),
    ("matches the whole name of none", lambda folder: reconfigured(folder, target_modules=["nothing"])),
    (
        "init_lora_weights = 'pissa', with which peft",
        lambda folder: reconfigured(folder, init_lora_weights="pissa"),
    ),
    ("has use_later = True, which changes what", lambda folder: reconfigured(folder, use_later=True)),
    ("cannot be loaded: LoRA of rank 3 and alpha 0", lambda folder: reconfigured(folder, lora_alpha=0)),
    (r"lora_A\.weight with numbers that are no weights \(torch.float32", lambda folder: filled(folder, float("nan"))),
    (r"lora_A\.weight with numbers that are no weights \(torch.float32", lambda folder: filled(folder, float("inf"))),
    (r"lora_A\.weight with numbers that are no weights \(torch.int64", lambda folder: filled(folder, 1)),
]


def filled(folder: Path, value: float) -> None:
    """The first factor full of a number, of its type."""

    def change(tensors: dict[str, Tensor]) -> None:
        name = f"{FIRST}.lora_A.weight"
        tensors[name] = torch.full(tensors[name].shape, value)

    rewritten(folder, change, header=False)


def deeper(tensors: dict[str, Tensor]) -> None:
    for factor in ("lora_A", "lora_B"):
        own = tensors[f"{FIRST}.{factor}.weight"].clone()
        tensors[f"{FIRST.replace('blocks.0', 'blocks.9')}.{factor}.weight"] = own


def shallower(tensors: dict[str, Tensor]) -> None:
    for factor in ("lora_A", "lora_B"):
        del tensors[f"{FIRST}.{factor}.weight"]


@pytest.mark.parametrize(("reason", "change"), FOREIGN, ids=[reason[:24] for reason, _ in FOREIGN])
def test_files_that_would_compute_something_else_are_refused(
    policy: Policy, tmp_path: Path, reason: str, change: Callable[[Path], None]
) -> None:
    folder = write(policy, tmp_path / "slow")
    rewritten(folder, lambda _: None, header=False)
    change(folder)
    before = said(policy)
    with pytest.raises(ValueError, match=reason):
        adapting.load_adapter(policy, folder)
    assert policy.adapters.names == ()
    assert torch.equal(said(policy), before)


@pytest.mark.parametrize("begun", [True, False, "gaussian", "orthogonal", "olora", "pissa"])
def test_what_peft_takes_from_the_weights_is_told_from_what_it_leaves(
    policy: Policy, tmp_path: Path, begun: bool | str
) -> None:
    """Peft itself says what its folder computes: the same is computed here, or the folder is refused."""
    theirs = copy.deepcopy(policy)
    config = PeftLoraConfig(r=2, lora_alpha=2, target_modules=["query"], init_lora_weights=begun)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        trained = get_peft_model(theirs, config)
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
    trained.save_pretrained(str(tmp_path / "theirs"))
    expected = said(theirs.eval())
    if begun in ("olora", "pissa"):
        with pytest.raises(ValueError, match=f"init_lora_weights = '{begun}', with which peft changes the weights"):
            adapting.blend(policy, [str(tmp_path / "theirs")])
        return
    adapting.blend(policy, [str(tmp_path / "theirs")])
    torch.testing.assert_close(said(policy), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "name"), [("v1.2 slöw", "v1-2-sl-w"), ("half", "adapter-half"), ("-a:b", "a-b"), ("ü", "adapter")]
)
def test_a_folder_of_plain_peft_may_be_called_anything(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str
) -> None:
    place = write(policy, tmp_path / ADAPTERS / folder)
    rewritten(place, lambda _: None, header=False)
    monkeypatch.chdir(place)
    for word in (str(place), ".", WEIGHTS_FILE):
        assert adapting.blend(policy, [word])[0].startswith(f"adapter {name}: ")
        policy.adapters.unfold()
        policy.adapters.remove(name)


def test_a_rank_that_is_no_whole_number_is_damage(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "slow")
    rewritten(folder, lambda _: None, header=False)
    for settings in ({"r": 3.0}, {"lora_alpha": float("nan")}):
        reconfigured(folder, **{"r": 3, "lora_alpha": 6} | settings)
        with pytest.raises(CorruptData, match="adapter_config.json is damaged"):
            adapting.load_adapter(policy, folder)


def test_what_stands_behind_the_last_colon_is_explained(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "slow")
    for end in ("", "speed", "0,5", "50%", "Speed=1"):
        with pytest.raises(ValueError, match="no weight, as in .*slow:0.7, nor a quantity .*slow:speed=0.9"):
            adapting.blend(policy, [f"{folder}:{end}"])
    with pytest.raises(ValueError, match="--adapter '' is no file or folder"):
        adapting.blend(policy, [""])
    with pytest.raises(ValueError, match="are no finite numbers: give smaller weights"):
        adapting.blend(policy, [f"{folder}:1e300"])


def test_merging_replaces_neither_the_source_nor_adapters(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    save_policy(policy, tmp_path / "there")
    folder = write(policy, tmp_path / "policy" / ADAPTERS / "slow")
    shutil.copytree(folder, tmp_path / "there" / ADAPTERS / "mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(tmp_path / "policy")
    for destination, reason in (
        ("policy", "is the policy that is merged, which stays as it is"),
        ("link", "is the policy that is merged, which stays as it is"),
        ("there", "holds adapters of the policy that is there, which would not fit"),
    ):
        with pytest.raises(ValueError, match=reason):
            merge_policy(tmp_path / "policy", tmp_path / destination, adapters=["slow:0.5"])
    (tmp_path / "link").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match="are no finite numbers"):
        merge_policy(tmp_path / "policy", tmp_path / "merged", adapters=["slow:1e300"])
    assert not (tmp_path / "merged").exists()


def test_damage_is_told(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "slow")
    copied = shutil.copytree(folder, tmp_path / "changed")
    rewritten(copied, lambda tensors: tensors[f"{FIRST}.lora_A.weight"].add_(1), header=True)  # type: ignore[arg-type, return-value]
    with pytest.raises(CorruptData, match="holds other weights than its header says"):
        adapting.load_adapter(policy, copied)
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptData, match="cannot be read"):
        adapting.load_adapter(policy, folder)
    with pytest.raises(ValueError, match="is no file or folder: give the folder that training wrote"):
        adapting.blend(policy, [str(tmp_path / "nothing")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no adapter"):
        adapting.blend(policy, [str(tmp_path / "empty")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    train(policy, "again")
    with pytest.raises(ValueError, match="exists and is no adapter"):
        adapting.save_adapter(policy, "again", tmp_path / "full", base=adapting.base_of(policy), made={})
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"
