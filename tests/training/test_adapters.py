"""Trainings of named adapters: of motion and of a robot, what they share with their base, refuse, leave and keep."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from tests import clips
from tests.book import Book
from tests.faults import runs
from tests.training.adapting import SMALL, Taken, config, forget, train, weights
from tests.vla.motion.test_losses import of_body
from training import bases, loop, recipes
from training.checkpoints import checkpoint
from training.ending import exits
from training.flags import parse
from training.session import Session
from vla.adapters import file
from vla.adapters.host import UPDATES
from vla.adapting import load_adapter
from vla.data.formats.motion import kinetic
from vla.documents import to_json
from vla.errors import REFUSED
from vla.motion.body import Body
from vla.motion_settings import Forces
from vla.policy import Policy
from vla.policy_folder import load_policy, save_policy

CROUCH = ["--data.where", "condition=crouch", "--stage.steps", "4", "--validation-samples", "2"]
RANKS = {"cpu": 1, "ddp": 2, "zero2": 2, "zero3": 2}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    forget()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six walks; every other one crouches, or so it says."""
    folder = clips.write_clips(tmp_path_factory.mktemp("made") / "clips", 6)
    with (folder / "labels.csv").open("w", newline="") as opened:
        rows = [(f"walk_{clip}.npz", f"walk {clip}", "crouch" if clip % 2 else "normal") for clip in range(6)]
        csv.writer(opened).writerows([("file", "text", "condition"), *rows])
    return folder


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "run"
    words = clips.flags(data, out=out, **{"stage.steps": 3, "stage.objective.draws": 2})
    loop.train(parse(recipes.pretrain(), words, {}))
    forget()
    return out


def asked(base: Path, data: Path, out: Path, *more: object) -> list[str]:
    return ["--init-from", str(base), "--data.roots", str(data), "--out", str(out), *SMALL, *CROUCH, *map(str, more)]


@pytest.fixture(scope="module")
def taken(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    return Taken(config(*asked(base, data, tmp_path_factory.mktemp("taken") / "run", "--dropout", 0)))


class TestSettings:
    """What an adapter shares with its base comes from there."""

    @pytest.mark.parametrize("place", ["", "policy", "checkpoints/step-00000003"])
    def test_the_base_says_what_both_must_share(
        self, base: Path, place: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = config("--init-from", str(base / place))
        assert (found.data.horizon, found.backbone.path, found.expert.width, found.diffusion.prediction) == (
            8, "hash", 32, "data",
        )  # fmt: skip
        assert (found.data.normalization, found.data.clamp, found.expert.positions) == ("z-score", False, "waves")
        assert found.data.retarget == 0.5, "or motions on other skeletons than the adapter's clips would be another's"
        assert found.data.validation_share == 0.34, "or the adapter trains on what its base was not shown"
        objective = found.stages["adapter"].objective
        assert (objective.draws, objective.motion.joints) == (2, 20.0)
        assert (found.batch_size, found.adapter.rank, found.stages["adapter"].lr.by_group()) == (
            32,
            16,
            {"adapter": 1e-3},
        )
        assert "--data.normalization z-score" in " ".join(capsys.readouterr().out.split())

    def test_a_policy_without_its_run_says_it_too(self, base: Path, tmp_path: Path) -> None:
        alone = tmp_path / "alone"
        alone.mkdir()
        for own in (base / "policy").iterdir():
            (alone / own.name).write_bytes(own.read_bytes())
        found = config("--init-from", str(alone))
        assert (found.data.horizon, found.data.clamp, found.data.motion.rate_hz) == (8, False, 20.0)
        assert found.data.motion.representation == "rotations" and found.expert.width == 32
        assert found.data.retarget == 0.5

    @pytest.mark.parametrize("kind", kinetic.NAMES)
    def test_a_policy_of_gait_says_which_forces_it_models(self, kind: Forces) -> None:
        names = kinetic.NAMES[kind]
        body = Body(kind="coordinates", joints=("pelvis_ty", "knee_angle_r"), parents=(), forces=names)
        told = bases.of_contract(json.loads(json.dumps(to_json(of_body(body)))))
        assert told.get("data.motion.forces", "none") == kind and "data.motion.representation" not in told

    @pytest.mark.parametrize("seed", [3, 0])
    def test_what_the_base_was_not_shown_is_not_trained_on_or_that_is_said(
        self, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
    ) -> None:
        with Session(config(*asked(base, data, tmp_path / "run", "--seed", seed))) as session:
            own = {
                episode.name.rpartition("/")[2] for root in session.run.data.validation.episodes() for episode in root
            }
        base_s = {
            mark.split()[0]
            for mark in json.loads((base / "policy" / "config.json").read_text())["held_out"]["episodes"]
        }
        assert len(base_s) == len(own) == 2
        said = f"{len(base_s - own)} of the 2 episodes that {base} held out are trained on here" if base_s - own else ""
        assert (seed == 3) == (base_s == own) and said in capsys.readouterr().out

    def test_a_flag_goes_before_the_base(self, base: Path) -> None:
        assert config("--init-from", str(base), "--data.horizon", "6").data.horizon == 6

    def test_a_run_that_goes_on_finds_its_base_in_itself(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text((base / "config.json").read_text())
        assert config("--resume-from", "auto", "--out", str(tmp_path / "run")).data.horizon == 8


class TestTraining:
    """One run in this process, watched."""

    def test_the_base_stays_bit_by_bit_and_every_factor_learns(self, taken: Taken) -> None:
        after = weights(taken.policy)
        own = {name for name in after if UPDATES in name}
        assert {name for name in after if not torch.equal(after[name], taken.before[name])} == own
        assert taken.reached == own, "from the second step on B is not 0, so A has a gradient too"
        assert all(parameter.grad is None for name, parameter in taken.policy.named_parameters() if name not in own)

    def test_without_dropout_training_answers_as_evaluation(self, taken: Taken) -> None:
        policy = taken.policy
        with torch.no_grad():
            policy.set_mode(training=True)
            learning = policy(taken.batch)
            policy.set_mode(training=False)
            assert {name: loss.tolist() for name, loss in policy(taken.batch).items()} == {
                name: loss.tolist() for name, loss in learning.items()
            }

    def test_the_teacher_leaves_who_is_trained_as_it_is(self, taken: Taken) -> None:
        assert taken.batch.preserved is not None and 0 < taken.batch.preserved.sum() < 12
        open_before = {name for name, own in taken.policy.named_parameters() if own.requires_grad}
        losses = taken.policy(taken.batch)
        assert "preserve" in losses
        assert {name for name, own in taken.policy.named_parameters() if own.requires_grad} == open_before

    def test_a_look_that_is_shared_changes_no_bit(self, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = []
        look = Policy.look
        monkeypatch.setattr(Policy, "look", lambda self, seen: looks.append(1) or look(self, seen))
        with torch.no_grad():
            shared = taken.policy(taken.batch)
            assert len(looks) == 1
            monkeypatch.setattr(Policy, "shared", lambda *_: None)
            apart = taken.policy(taken.batch)
        assert len(looks) == 3, "the student's, and the teacher's"
        assert all(torch.equal(shared[name], apart[name]) for name in apart)

    def test_what_a_run_leaves_fits_its_base_alone(
        self, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        train(asked(base, data, out, "--save-every", "0.5epoch", "--adapter.name", "crouch", "--validate-every", 2))
        said = capsys.readouterr().out
        epoch = json.loads((out / "config.json").read_text())
        assert epoch["save_every"] == "0.5epoch"
        assert "--save-every 0.5epoch: every" in said
        assert "adapter crouch: 6 layers, " in said and "gradient of the first step by layer" in said
        policy = load_policy(base / "policy")
        for place in (out / "adapter", out / "best"):
            stored = load_adapter(policy, place, place.name)
            assert stored.description is not None and stored.config.name == "crouch" and stored.config.rank == 4
            assert stored.description.made["roles"]["where"] == ["condition=crouch"]
        count = sum(value.numel() for value in policy.adapters.parameters("adapter").values())
        whole = sum(own.numel() for name, own in policy.named_parameters() if UPDATES not in name)
        assert f"{count:,} parameters, {100 * count / whole:.2g} % of {whole:,}" in said
        last = checkpoint.find(str(out), Accelerator(cpu=True)).state().moments["ema"]
        held = load_file(out / "adapter" / file.WEIGHTS_FILE)
        assert {key: value.tolist() for key, value in held.items()} == {
            file.peft_key(name, "crouch"): value.tolist() for name, value in last.items()
        }

    def test_each_save_leaves_the_adapter_of_its_step(self, base: Path, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        train(asked(base, data, out, "--save-every", 2, "--keep", 1))
        assert sorted(place.name for place in (out / "weights").iterdir()) == ["step-00000002", "step-00000004"]
        first = file.read(out / "weights" / "step-00000002")
        assert first.description is not None and first.description.made["steps"] == 2
        assert file.read(out / "weights" / "step-00000004").tensors.keys() == first.tensors.keys()

    def test_a_run_that_was_stopped_ends_as_one_that_was_not(self, base: Path, data: Path, tmp_path: Path) -> None:
        straight, stopped = tmp_path / "straight", tmp_path / "stopped"
        train(asked(base, data, straight, "--dropout", 0.1))
        train(asked(base, data, stopped, "--dropout", 0.1, "--stop-after", 2))
        again = asked(base, data, stopped, "--dropout", 0.1, "--resume-from", "auto")
        train([word for word in again if word not in ("--init-from", str(base))])
        ours, theirs = (load_file(run / "adapter" / file.WEIGHTS_FILE) for run in (stopped, straight))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert runs.losses(stopped) == runs.losses(straight)


def measured(run: Path) -> dict[str, Any]:
    """Losses and gradient norms of each step, and the weights that are left."""
    found = {f"loss {line['step']}": line["loss"] for line in runs.lines(run)}
    return found | {f"norm {line['step']}": line["grad_norm"]["all"] for line in runs.lines(run)}


@pytest.mark.deep
@pytest.mark.parametrize("topology", ["ddp", "zero2", "zero3"])
def test_every_topology_trains_the_same_adapter(book: Book, base: Path, data: Path, topology: str) -> None:
    words = ["--init-from", base, "--data.roots", data, *SMALL, *CROUCH, "--adapter.dropout", 0]
    one, two = (book.of(words, ranks=RANKS[name], topology=name, recipe="adapter") for name in ("cpu", topology))
    assert measured(two) == pytest.approx(measured(one), rel=1e-5)
    ours, theirs = (load_file(run / "adapter" / file.WEIGHTS_FILE) for run in (two, one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.deep
def test_a_second_adapter_that_is_loaded_stays_and_changes_nothing_under_zero3(
    book: Book, base: Path, data: Path
) -> None:
    words = ["--init-from", base, "--data.roots", data, *SMALL, *CROUCH, "--adapter.dropout", 0]
    alone, beside = (
        book.of(words, ranks=2, topology="zero3", recipe="adapter", prepare=prepare)
        for prepare in ("", "tests.training.resting_worker:beside")
    )
    assert json.loads((beside / "RESTING.json").read_text()) == {"weights": 12, "moved": 0, "zero": 3}
    assert measured(beside) == measured(alone)
    ours, theirs = (load_file(run / "adapter" / file.WEIGHTS_FILE) for run in (beside, alone))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class TestRefusals:
    """One sentence, exit code 78, and no run folder."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--adapter.targets", r"expert\.nothing"], "matches the whole name of none of the"),
            (["--data.horizon", "6"], "the steps of a chunk"),
            (["--expert.width", "64"], "--expert.width is 64, the weights of"),
            (["--diffusion.prediction", "noise"], "was trained with --diffusion.prediction data, not noise"),
            (["--stage.lr.expert", "1e-4"], "an adapter is trained alone, .* give --stage.lr.expert None"),
            (["--data.where"], "--data.preserve 0.5 keeps what --data.where leaves out"),
            (["--init-from", "None"], "goes on from the weights of another run: give --init-from RUN"),
            (["--init-from", "None", "--stage.begins", "anew"], "an adapter of fresh weights is of no use"),
            (
                ["--stage.objective.kind", "erase", "--diffusion.unconditional", "0"],
                "needs a base that answers without",
            ),
            (["--save-every", "0epoch"], "--save-every is 0epoch; give a number of steps, or of epochs"),
        ],
    )
    def test_what_cannot_be_trained(self, base: Path, data: Path, tmp_path: Path, words: list[str], said: str) -> None:
        refused(lambda: train([*asked(base, data, tmp_path / "run"), *words]), said)
        assert not (tmp_path / "run").exists()

    def test_a_layer_that_no_answer_goes_through(
        self, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = Policy.__init__

        def with_idle(self: Policy, **settings: Any) -> None:
            build(self, **settings)
            self.expert.idle = torch.nn.Linear(4, 4)

        monkeypatch.setattr(Policy, "__init__", with_idle)
        words = [*asked(base, data, tmp_path / "run"), "--allow-missing", "expert.idle.*"]
        said = r"--adapter.targets matches expert.idle, which no answer of this policy on these data goes through"
        refused(lambda: train([*words, "--adapter.targets", r"expert\.(idle|out)"]), said)
        assert not (tmp_path / "run").exists()

    def test_a_base_whose_weights_are_no_numbers(self, base: Path, data: Path, tmp_path: Path) -> None:
        """Every step of it would be passed over, and a fresh adapter be written as if it had been trained."""
        policy = load_policy(base / "policy")
        policy.expert.out.weight[0, 0] = float("nan")
        save_policy(policy, tmp_path / "broken")
        said = "tensor 'expert.out.weight' holds numbers that are not finite: begin with other weights"
        refused(lambda: train(asked(tmp_path / "broken", data, tmp_path / "run")), said)
        assert not (tmp_path / "run").exists()

    def test_the_run_of_an_adapter_is_no_base_of_another(self, base: Path, data: Path, tmp_path: Path) -> None:
        train(asked(base, data, tmp_path / "first", "--stage.steps", 1))
        words = asked(tmp_path / "first", data, tmp_path / "second", "--adapter.name", "other")
        refused(lambda: train(words), "are those of an adapter called adapter, beside its base's")
        assert not (tmp_path / "second").exists()
        train(asked(tmp_path / "first", data, tmp_path / "more", "--stage.steps", 1))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ["--data.where", "condition=crouch", "--data.preserve", "0.5"],
                "without its adapter, and pretrain trains none",
            ),
            (["--stage.objective.kind", "erase"], "what to forget, and none is trained: use training/adapter.py"),
        ],
    )
    def test_what_only_an_adapter_can(self, data: Path, tmp_path: Path, words: list[str], said: str) -> None:
        out = tmp_path / "run"
        refused(lambda: loop.train(parse(recipes.pretrain(), [*clips.flags(data, out=out), *words], {})), said)
        assert not out.exists()


def refused(attempt: Any, said: str) -> None:
    """As the entry point answers: one sentence, and the code that says so."""
    with pytest.raises(ValueError, match=said) as error:
        attempt()
    assert "\n" not in str(error.value)
    assert exits.told(error.value)[0] == REFUSED
