"""Unlearning from end to end on a few clips, and what is refused before anything is written."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from rich.console import Console
from safetensors.torch import load_file

from tests import clips
from tests.book import Book
from tests.faults import runs
from tests.forkserver import ForkServer, free_port
from tests.training import launch
from tests.training.test_adapters import measured
from tests.training.test_verify_resume import forked
from training import editing, loop, recipes
from training.ending import exits
from training.flags import parse
from training.verify_resume import verify
from vla import errors
from vla.adapters.file import read
from vla.adapting import load_adapter
from vla.errors import UsageError
from vla.policy_folder import load_policy

KINDS = (
    ("kick", "a person kicks"), ("kick", "a man does a kick"), ("kick", "a person kicks with the right leg"),
    ("soccer", "a person kicks a soccer ball"), ("soccer", "a man plays soccer"), ("walking", "a person walks forward"),
    ("walking", "a man is walking"), ("jumping", "a person jumps"), ("punch", "a person throws punches"),
)  # fmt: skip
STEPS = 4
SMALL = {"stage.steps": STEPS, "data.validation-share": 0, "batch-size": 8, "micro-batch": 4}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    fresh()


def fresh() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips whose labels say what they show."""
    folder = clips.write_clips(tmp_path_factory.mktemp("unlearning") / "data", len(KINDS))
    rows = [f"walk_{number}.npz,{text},{action}" for number, (action, text) in enumerate(KINDS)]
    (folder / "labels.csv").write_text("\n".join(["file,text,action", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(data: Path) -> Path:
    """The policy of a short pre-training."""
    out = data.parent / "base"
    loop.train(parse(recipes.pretrain(), clips.flags(data, out=out, **SMALL), {}))
    fresh()
    return out / "policy"


def words(data: Path, base: Path, out: Path, *more: object, steps: int = STEPS) -> list[str]:
    flags = ["--init-from", base, "--data.roots", data, "--out", out, "--data.workers", 0, "--tracker", "jsonl"]
    flags += ["--batch-size", 8, "--micro-batch", 4, "--data.validation-share", 0]
    return [*map(str, flags), *(["--stage.steps", str(steps)] if steps else []), *map(str, more)]


def several(data: Path, base: Path, *, dropout: float = 0.0) -> list[object]:
    """Flags of a training that several ranks share as one does; of no folder and no number of steps."""
    flags = ["--init-from", base, "--data.roots", data, "--data.workers", 0, "--tracker", "jsonl", "--batch-size", 8]
    return [*flags, "--micro-batch", 4, "--data.validation-share", 0, "--adapter.dropout", dropout]


def unlearned(data: Path, base: Path, out: Path, *more: object) -> Path:
    loop.train(parse(recipes.unlearn(), words(data, base, out, *more), {}))
    fresh()
    return out


@pytest.fixture(scope="module")
def trained(data: Path, base: Path) -> Path:
    """A run that has unlearned two concepts."""
    return unlearned(data, base, data.parent / "run", "--concept", "kick", "--concept", "punch")


def described(run: Path) -> dict[str, Any]:
    found = read(run / "adapter").description
    assert found is not None
    return dict(found.made["forgotten"])


def test_the_file_says_what_is_forgotten_and_from_what(trained: Path) -> None:
    stored, settings = read(trained / "adapter"), json.loads((trained / "config.json").read_text())
    made = described(trained)
    assert stored.config.name == "no-kick-punch"
    assert (stored.config.rank, stored.config.alpha) == (16, 16)
    assert made["concept"] == ["kick", "punch"]
    assert made["captions"] == sorted(text for action, text in KINDS if action in ("kick", "punch"))
    assert made["neighbours"] == ["a person kicks a soccer ball"]
    assert made["preserved"] == sorted(text for action, text in KINDS if action not in ("kick", "punch"))
    assert all(len(digest) == 64 for digest in made["data"].values()) and len(made["data"]) == 2
    assert settings["data"]["where"] == ["action=kick,punch"]
    assert settings["data"]["near"] == ["instruction=a person kicks a soccer ball"]
    lines = runs.lines(trained)
    assert len(lines) == STEPS
    assert all(line["losses"].keys() == {"erase", "preserve"} for line in lines)
    assert lines[0]["losses"]["preserve"] == 0 < lines[0]["losses"]["erase"], (
        "nothing has changed before the first step"
    )


def test_two_runs_of_one_seed_are_bitwise_equal_and_so_is_one_by_its_settings(
    data: Path, base: Path, trained: Path, tmp_path: Path
) -> None:
    """What was decided stands in config.json and is not decided again."""
    replayed = tmp_path / "replayed"
    loop.train(parse(recipes.unlearn(), ["--config", str(trained / "config.json"), "--out", str(replayed)], {}))
    fresh()
    again = unlearned(data, base, tmp_path / "again", "--concept", "kick", "punch")
    first = load_file(trained / "adapter" / "adapter_model.safetensors")
    for other in (replayed, again):
        found = load_file(other / "adapter" / "adapter_model.safetensors")
        assert found.keys() == first.keys()
        assert all(torch.equal(found[name], weight) for name, weight in first.items())


def test_a_resumed_run_has_the_roles_of_before_or_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    unlearned(data, base, out, "--concept", "kick", "--stop-after", 2)
    before = runs.lines(out)
    other = words(data, base, out, "--concept", "jump", "--resume-from", "auto")[2:]
    with pytest.raises(ValueError, match=r"data\.where"):
        loop.train(parse(recipes.unlearn(), other, {}))
    fresh()
    other = words(data, base, out, "--concept", "kick", "--adapter.rank", 8, "--resume-from", "auto")[2:]
    with pytest.raises(ValueError, match="adapter.rank is 8, the checkpoint has 16. Give the same settings"):
        loop.train(parse(recipes.unlearn(), other, {}))
    fresh()
    same = words(data, base, out, "--concept", "kick", "--resume-from", "auto")[2:]
    loop.train(parse(recipes.unlearn(), same, {}))
    fresh()
    straight = unlearned(data, base, tmp_path / "straight", "--concept", "kick")
    assert runs.lines(out)[:2] == before
    one, two = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (out, straight))
    assert all(torch.equal(two[name], weight) for name, weight in one.items())


def test_a_concept_in_closed_form_is_an_adapter_like_any_other(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "uce"
    editing.edit(parse(recipes.unlearn(), words(data, base, out, "--concept", "kick", "--method", "uce", steps=0), {}))
    fresh()
    made, stored = described(out), read(out / "adapter")
    assert (made["method"], stored.config.rank, [*stored.tensors]) == ("uce", 4, [editing.PROJECTION])
    policy = load_policy(base)
    projection = policy.get_submodule(editing.PROJECTION.removesuffix(".1"))
    texts = ["a person kicks", "a person walks forward"]
    heard = policy.backbone.embed(texts, torch.device("cpu"))  # type: ignore[operator]
    with torch.no_grad():
        before = projection(heard)
        load_adapter(policy, out / "adapter")
        policy.adapters.set({stored.config.name: 1.0})
        after = projection(heard)
    moved = ((after - before).norm(dim=1) / before.norm(dim=1)).tolist()
    assert moved[0] > 0.3 and moved[1] < 0.05
    policy.adapters.set({})
    assert torch.equal(projection(heard), before)
    for flag, value in (("rank", 4), ("alpha", 8), ("dropout", 0.5), ("targets", r"expert\.out")):
        more = ["--concept", "kick", "--method", "uce", f"--adapter.{flag}", value]
        with pytest.raises(ValueError, match=f"--adapter.{flag} would have no effect: --method uce computes"):
            editing.edit(parse(recipes.unlearn(), words(data, base, tmp_path / "none", *more), {}))
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="already holds an adapter"):
        editing.edit(parse(recipes.unlearn(), words(data, base, out, "--concept", "kick", "--method", "uce"), {}))


def test_an_anchor_s_answer_takes_the_place_of_what_is_forgotten(data: Path, base: Path, tmp_path: Path) -> None:
    """Also on motions of others, of which half have an instruction that is forgotten; the file says it."""
    out = unlearned(data, base, tmp_path / "run", "--concept", "kick", "--anchor", "a man is walking")
    made, settings = described(out), json.loads((out / "config.json").read_text())
    assert (made["anchor"], made["negative_guidance"], settings["data"]["renamed"]) == ("a man is walking", 0, 0.5)


def edited(topology: str, argv: list[str]) -> None:
    """A rank of an unlearning in closed form."""
    if topology.startswith("zero"):
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = f"ds_configs/{topology}.json"
    exits.main(lambda: editing.edit(parse(recipes.unlearn(), argv, {})))


@pytest.mark.deep
def test_a_concept_in_closed_form_is_the_same_on_several_ranks(
    server: ForkServer, data: Path, base: Path, tmp_path: Path
) -> None:
    found = []
    for topology, ranks in (("cpu", 1), ("ddp", 2), ("zero3", 2)):
        out = tmp_path / topology
        argv = words(data, base, out, "--concept", "kick", "--method", "uce", steps=0)
        life = server.call(edited, topology, argv, ranks=ranks, environment={"MASTER_PORT": str(free_port())})
        assert life.wait() == [0] * ranks, life.report()
        found.append((load_file(out / "adapter" / "adapter_model.safetensors"), described(out)))
    (one, made), *others = found
    for several, made_there in others:
        assert several.keys() == one.keys() and all(torch.equal(several[name], one[name]) for name in one)
        assert made_there == made


@pytest.mark.deep
@pytest.mark.parametrize("topology", ["ddp", "zero2", "zero3"])
def test_every_topology_unlearns_the_same(book: Book, data: Path, base: Path, topology: str) -> None:
    """The answers that are aimed at and those that are preserved are the base's, which each rank asks by itself."""
    flags = [*several(data, base), "--stage.steps", STEPS, "--concept", "kick"]
    one, two = (
        book.of(flags, ranks=ranks, topology=name, recipe="unlearn") for name, ranks in (("cpu", 1), (topology, 2))
    )
    assert measured(two) == pytest.approx(measured(one), rel=1e-5)
    assert [line["losses"].keys() for line in runs.lines(two)] == [{"erase", "preserve"}] * STEPS
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (two, one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)
    assert described(two) == described(one)


@pytest.mark.deep
def test_an_unlearning_that_is_killed_goes_on_bitwise(
    server: ForkServer, data: Path, base: Path, tmp_path: Path
) -> None:
    asked = ["--recipe", "unlearn", "--steps", "16", "--kill-at", "3", "6", "--topologies", "zero3:2", "--seed", "1"]
    asked += ["--work", str(tmp_path / "runs"), "--json", str(tmp_path / "result.json"), "--leg-seconds", "600", "--"]
    asked += [*map(str, several(data, base, dropout=0.1)), "--concept", "kick"]
    with (tmp_path / "shown.txt").open("w") as shown:
        code = verify(asked, Console(width=80, file=shown), forked(server))
    assert code == errors.DONE, (tmp_path / "shown.txt").read_text()
    kills, *others = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert kills["count"] == "2 of 2"
    assert {row["verdict"] for row in others} <= {"bitwise equal", "each once, in order", "as they should"}


def test_episodes_are_chosen_by_instructions_where_some_have_no_label(data: Path, base: Path, tmp_path: Path) -> None:
    """And what is spared is near, whatever it says."""
    bare = Path(shutil.copytree(data, tmp_path / "data"))
    rows = [f"walk_{number}.npz,{text}" for number, (_, text) in enumerate(KINDS)]
    (bare / "labels.csv").write_text("\n".join(["file,text", *rows]) + "\n")
    made = described(unlearned(bare, base, tmp_path / "run", "--concept", "kick", "--spare", "soccer"))
    assert made["captions"] == sorted(text for action, text in KINDS if action == "kick")
    assert "a person kicks a soccer ball" in made["neighbours"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "nothing to forget is named: give --concept kick, or episodes with --data.where"),
        (["--concept", "yoga"], "--concept yoga is in no instruction and no action of the data; the nearest"),
        (["--concept", "a person"], "--concept a person names no action, no more than an article"),
        (
            ["--concept", "soccer", "--spare", "ball"],
            "--spare ball spares nothing of --concept soccer, which the labels",
        ),
        (["--concept", "kick", "--data.preserve", 0], "--data.preserve 0 would let everything else change"),
        (["--data.where", "action=kick,soccer,walking,jumping,punch"], "all 9 episodes are forgotten"),
        (["--data.where", "action=yoga"], "no episode has action=yoga"),
        (["--concept", "kick", "--ridge", 0], "--ridge is 0; give a number above 0"),
        (["--concept", "kick", "--anchor", "someone is kicking"], "--anchor 'someone is kicking' is itself forgotten"),
        (
            ["--concept", "hit", "--data.where", "action=punch", "--anchor", "a person throws punches"],
            "itself forgotten",
        ),
        (["--concept", "kick", "--data.renamed", 1], "--data.renamed is 1, expected 0 <= share < 1"),
        (["--concept", "kick", "--method", "uce", "--data.renamed", 0.5], "--method uce looks at instructions alone"),
        (["--concept", "kick", "--data.withhold", "instruction"], "the base reads no instruction"),
    ],
)
def test_what_cannot_be_forgotten_is_refused_and_nothing_written(
    data: Path, base: Path, tmp_path: Path, more: list[object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        loop.train(parse(recipes.unlearn(), words(data, base, tmp_path / "run", *more), {}))
    assert not (tmp_path / "run").exists()


@pytest.mark.deep
def test_the_entry_point_exits_78_and_writes_nothing(data: Path, base: Path, tmp_path: Path) -> None:
    found = launch.entry("unlearn", "cpu", *words(data, base, tmp_path / "run", "--concept", "yoga"))
    assert found.returncode == errors.REFUSED
    assert "--concept yoga is in no instruction and no action of the data" in found.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--name", "--init-from"),
        ("--dataset_name", "--data.roots"),
        ("--target_concept", "--concept"),
        ("--lora_rank", "--adapter.rank"),
        ("--lora_alpha", "--adapter.alpha"),
        ("--unlearn_lr", "--stage.lr.adapter"),
        ("--unlearn_epochs", "--stage.epochs"),
        ("--negative_guidance", "--stage.objective.negative-guidance"),
    ],
)
def test_flags_of_before_name_ours(flag: str, instead: str) -> None:
    with pytest.raises(UsageError, match=f"there is no flag {flag} here; give .*{instead}"):
        parse(recipes.unlearn(), [flag, "4"], {})


def test_concepts_of_other_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"training/unlearn\.py"):
        parse(recipes.sft(), ["--concept", "kick"], {})
    config = parse(recipes.unlearn(), ["--concept", "kick", "hit", "--seed", "1", "--concept=jump"], {})
    assert config.forget.concept == ("kick", "hit", "jump")
    with pytest.raises(ValueError, match=r"--data\.renamed is of training/unlearn\.py"):
        parse(recipes.adapter(), ["--init-from", "base", "--data.where", "action=kick", "--data.renamed", "0.5"], {})
