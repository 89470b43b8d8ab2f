"""Trainings on motion with pictures: who moves, who is told of and who is seen are one, in every epoch and rank."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from accelerate.state import AcceleratorState, GradientState

from tests import clips, pictures
from tests.faults import runs
from tests.forkserver import ForkServer
from training import loop, recipes
from training.flags import parse
from vla.commands.evaluate import Evaluate, check_settings
from vla.commands.recordings import EvaluationData
from vla.commands.sample import Sample, sample
from vla.motion_settings import NamedMotionFiles
from vla.policy import Policy
from vla.policy_folder import load_policy

ACTORS, FRAMES, RANKS = (1, 2, 1, 1), 8, 2
SHOWN = {0: (0,), 1: (2, 5), 2: tuple(range(FRAMES))}
"""At which frames the samples have pictures; the last one has none."""


def watch() -> None:
    """Let the policy write down, a line a sample, what it is shown in training."""
    forward, place = Policy.forward, Path(os.environ["SEEN"]) / f"rank-{os.environ['RANK']}.jsonl"

    def watched(policy: Policy, batch: Any) -> Any:
        seen = batch.observation
        if policy.training:
            with place.open("a") as file:
                for row, position in enumerate(batch.positions.tolist()):
                    frames = [frame for image in seen.images[row] for frame in image.values()]
                    told = {
                        "position": position,
                        "motion": sorted(set(batch.actions[row, 0].tolist())),
                        "text": seen.instructions[row],
                        "colours": [frame.flatten(1).unique(dim=1).T.tolist() for frame in frames],
                        "valid": seen.image_valid[row].tolist(),
                    }
                    file.write(json.dumps(told) + "\n")
        return forward(policy, batch)

    Policy.forward = watched  # type: ignore[method-assign]


def flags(scenes: tuple[Path, Path], **changes: object) -> list[str]:
    own = {"data.motion.pictures": scenes[1], "data.motion.rate-hz": 25, "data.horizon": 4, "backbone.path": "tiny"}
    own |= {"data.validation-share": 0, "stage.objective.motion.feet": 0, "stage.steps": 2, "dropout": 0}
    return clips.flags(scenes[0], **(own | changes))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pictures.write_scenes(tmp_path_factory.mktemp("made") / "scenes", ACTORS, frames=FRAMES, shown=SHOWN)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def trained(server: ForkServer, scenes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs on two ranks, with loader processes."""
    folder = tmp_path_factory.mktemp("trained")
    words = flags(
        scenes, out=folder / "run", **{"data.workers": 1, "batch-size": 8, "micro-batch": 4, "stage.steps": 10}
    )
    prepare = f"{__name__}:watch"
    life = server.start(words, ranks=RANKS, recipe="pretrain", environment={"SEEN": str(folder)}, prepare=prepare)
    assert life.wait() == [0] * RANKS, life.report()
    return folder


@pytest.mark.promise(
    29, "picture, text and motion are one", "every sample of 2 shuffled epochs on 2 ranks, as the policy has it"
)
def test_picture_text_and_motion_are_of_one_clip_on_all_ranks(trained: Path) -> None:
    """What is shown is written down by the policy itself, and compared with what files were made to say."""
    of_rank = [runs.lines(trained, f"rank-{rank}.jsonl") for rank in range(RANKS)]
    told = sorted((line for own in of_rank for line in own), key=lambda line: line["position"])
    count = sum(ACTORS) * FRAMES
    assert [line["position"] for line in told] == [*range(2 * count)], "each position once, on either rank"
    assert [len(own) for own in of_rank] == [count, count]
    moved = []
    for line in told:
        (number,) = line["motion"]
        name, at = int(number), round(16 * (number % 1))
        clip, actor = divmod(name, 10)
        assert line["text"] == pictures.text(clip)
        times = SHOWN.get(clip, ())
        still = len(times) == 1
        newest = max((time for time in times if still or time <= at), default=None)
        assert line["valid"] == [newest is not None] * 2
        for view, colours in enumerate(line["colours"]):
            expected = (0, 0, 0) if newest is None else pictures.colour(clip, actor, view, newest)
            assert colours == [list(expected)]
        moved.append((clip, actor, at))
    first, second = moved[:count], moved[count:]
    everyone = {(clip, actor, at) for clip, n in enumerate(ACTORS) for actor in range(n) for at in range(FRAMES)}
    assert Counter(first) == Counter(second) == Counter(everyone), "each once an epoch"
    assert first != second and first != sorted(first), "shuffled, otherwise in each"


def test_samples_see_the_pictures_that_they_are_given(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(trained / "run" / "policy")
    policy.set_mode(training=False)
    shown = [np.full((3, 56, 56), shade, np.uint8) for shade in (0, 200, 200)]

    def made(*views: np.ndarray) -> np.ndarray:
        return np.stack([moves.rows for moves in policy.sample("scene 1 moves", 0.16, n=1, pictures=views)])

    blind, one, both = made(), made(shown[1]), made(*shown[1:])
    assert np.array_equal(blind, made()) and np.isfinite(blind).all()
    assert not np.array_equal(blind, one) and not np.array_equal(one, both)
    assert not np.array_equal(one, made(shown[0]))
    with pytest.raises(
        ValueError, match=r"^3 pictures were given to a policy that looks at observation.images.view_00000"
    ):
        made(*shown)
    PIL.Image.fromarray(shown[1].transpose(1, 2, 0)).save(tmp_path / "one.png")
    asked = {"policy": trained / "run" / "policy", "text": "scene 1 moves", "seconds": 0.16}
    sample(Sample(out=tmp_path / "seen", pictures=(tmp_path / "one.png",), **asked))
    assert "nothing is seen of observation.images.view_00001: --pictures" in capsys.readouterr().out
    sample(Sample(out=tmp_path / "blind", json=True, **asked))
    assert len(json.loads(capsys.readouterr().out)["unseen"]) == 2


def test_another_trainer_s_file_of_pictures_trains_here(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    """A camera encoder of its size looks at them beside the text's, and learns."""
    file = tmp_path / "small.yaml"
    file.write_text(
        "training: {learning_rate: 0.002}\n"
        f"data: {{train_data: {scenes[0]}, use_parallax_augmentation: true, parallax_root: {scenes[1]},\n"
        "       parallax_image_size: [32, 32], parallax_conditioning_mode: first_frame}\n"
    )
    words = flags(scenes, out=tmp_path / "run", **{"backbone.path": "hash"})
    own = [words.index(flag) for flag in ("--data.roots", "--data.motion.pictures")]
    words = [word for place, word in enumerate(words) if place not in {at + step for at in own for step in (0, 1)}]
    loop.train(parse(recipes.pretrain(), ["--config", str(file), *words], {}))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["encoders"]["camera"] == {"width": 64, "pixels": 32, "tokens": 4}
    last = runs.lines(tmp_path / "run")[-1]
    assert last["grad_norm"]["camera"] > 0 and last["lr"].keys() == {"expert", "camera"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"backbone.path": "hash"},
            r"hash is .* sees nothing of .*view_00000.*; give --camera\.width 64 .*pictures out$",
        ),
        ({"backbone.path": "hash", "camera.width": 16}, r"nothing trains the camera encoder.*--stage\.lr\.camera 3e-4"),
        ({"data.motion.pictures": "/nowhere"}, r"^--data\.motion\.pictures /nowhere is no folder"),
    ],
)
def test_pictures_that_nothing_would_look_at_are_refused(
    scenes: tuple[Path, Path], tmp_path: Path, more: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        loop.train(parse(recipes.pretrain(), flags(scenes, out=tmp_path / "run", **more), {}))
    assert "\n" not in str(refused.value)


def test_where_pictures_lie_is_no_part_of_what_is_learned(scenes: tuple[Path, Path]) -> None:
    here, there = (
        parse(recipes.pretrain(), flags((scenes[0], folder)), {}) for folder in (scenes[1], Path("elsewhere"))
    )
    assert here.data != there.data and here.identity() == there.identity()


def test_motions_that_are_judged_are_made_of_texts_alone(scenes: tuple[Path, Path], trained: Path) -> None:
    data = EvaluationData(roots=(str(scenes[0]),), motion=NamedMotionFiles(pictures=str(scenes[1])))
    command = Evaluate(policy=trained / "run" / "policy", data=data, training=(str(scenes[0]),))
    with pytest.raises(ValueError, match=r"^--data\.motion\.pictures has no effect with --training"):
        check_settings(command)
