"""What an adapter says it has unlearned, and what of it is looked for."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clips import poses
from tests.policies import build_policy
from vla.adapter_settings import AdapterConfig
from vla.adapters.file import Base, Description
from vla.commands.styles import style_of
from vla.data.dataset import open_dataset
from vla.data.episode import Reader
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.evaluation.adapted.concepts import Wanted, captions_of, concept_of, shipped, told_apart
from vla.evaluation.adapted.inversion import FOUND, apart, search_embedding, search_texts
from vla.motion_settings import MotionConfig
from vla.parts.text import TextBackbone
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.sampling import Asked, observation, style_for
from vla.settings import BackboneConfig, DataConfig, ExpertConfig

ACTIONS = {
    "kick": ("a person kicks", "a man does a kick"), "soccer": ("a man plays soccer", "a person kicks a soccer ball"),
    "walking": ("someone is walking",), "punch": ("a person throws punches",), "dance": ("a person dances",),
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concepts") / "clips"
    folder.mkdir()
    rows = ["file,text,action"]
    for place, (action, texts) in enumerate(ACTIONS.items()):
        np.savez(folder / f"{action}.npz", **poses(40, 20.0, 0.8 + 0.2 * place))  # type: ignore[arg-type]
        rows += [f"{action}.npz,{text},{action}" for text in texts]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def reader(clips: Path) -> Reader:
    return open_folder(clips, Selection(motion=MotionConfig(rate_hz=20.0)))


@pytest.fixture
def policy(clips: Path) -> Policy:
    settings = DataConfig(roots=(str(clips),), horizon=8, normalization="z-score", validation_share=0.0)
    data = open_dataset(settings, 0)
    config = PolicyConfig(backbone=BackboneConfig(path="hash"), expert=ExpertConfig(width=32, depth=1, heads=2))
    made = build_policy(config, data.contract, data.statistics, torch.float32, 0)
    made.set_mode(training=False)
    return made


def described(**made: Any) -> Description:
    base = Base(weights="", normalizer="", body="", backbone="", fingerprint="")
    return Description(adapter=AdapterConfig(), base=base, weights="", made=made)


def test_clips_of_a_caption_are_told_from_others_of_their_action(reader: Reader) -> None:
    caption = "a person kicks a soccer ball"
    (renamed,) = told_apart([reader], [caption])
    shown = {action: set(some) for action, some in captions_of([renamed]).items()}
    assert shown == {action: set(texts) for action, texts in ACTIONS.items() if action != "soccer"} | {
        caption: set(ACTIONS["soccer"])
    }
    assert all(isinstance(own, Reader) for own in (reader, renamed))
    for own, before in zip(renamed.episodes, reader.episodes, strict=True):
        assert own.actions is before.actions and own.name == before.name
    assert {action: set(some) for action, some in captions_of([reader]).items()}.keys() == ACTIONS.keys()


@pytest.mark.parametrize(
    ("where", "style"),
    [
        (["action=zombie"], "zombie"),
        (["instruction=a person walks slowly forward"], "a person walks slowly forward"),
        (["subject=3"], None),
        (["action=zombie", "instruction=a person walks"], None),
    ],
)
def test_an_adapter_does_what_it_was_trained_on(where: list[str], style: str | None) -> None:
    assert style_of({"roles": {"where": where}}) == style


def test_the_header_says_what_it_was(policy: Policy, reader: Reader) -> None:
    """Captions, neighbours by caption and by action, method; the nearest caption of a neighbour is asked with."""
    found = concept_of(
        policy,
        [described(
            concepts=[{"name": "kick", "where": "action=kick", "captions": ["a person kicks"]}],
            neighbours=[
                {"caption": "a man plays soccer", "similarity": 0.5},
                {"caption": "a person kicks a soccer ball", "similarity": 0.74}, {"action": "punch", "similarity": 0.6},
            ],
            method="esd", anchor="a person walks",
        )],
        [reader],
        Wanted(),
    )  # fmt: skip
    method = "esd, towards 'a person walks'"
    assert (found.action, found.captions, found.method) == ("kick", ("a person kicks",), method)
    assert found.neighbours == {"soccer": 0.74, "punch": 0.6}
    assert list(found.neighbours) == ["soccer", "punch"]
    assert found.texts["soccer"] == ("a person kicks a soccer ball", "a man plays soccer"), "the nearest first"
    assert set(found.texts) == set(ACTIONS) - {"kick"}
    assert found.paraphrases == shipped("kick")
    assert not found.remarks


@pytest.mark.parametrize(
    "entry", [{"name": "kicking", "where": "action == 'kick'"}, {"name": "x", "captions": ["A person kicks."]}]
)
def test_a_concept_of_another_name_is_found(entry: dict[str, Any], policy: Policy, reader: Reader) -> None:
    assert concept_of(policy, [described(concepts=[entry])], [reader], Wanted()).action == "kick"


def test_training_captions_are_no_paraphrases(policy: Policy, reader: Reader) -> None:
    given = ("A man does a kick!", "someone kicks", "a man plays soccer", "someone kicks")
    found = concept_of(policy, [], [reader], Wanted(concept="kick", paraphrases=given))
    assert found.paraphrases == ("someone kicks",)
    assert found.left_out == ("A man does a kick!", "a man plays soccer")


def test_without_a_list_the_nearest_texts_are_neighbours(policy: Policy, reader: Reader) -> None:
    """By the cosine of the encoder's own vectors, in numpy."""
    found = concept_of(policy, [], [reader], Wanted(concept="kick"))
    assert isinstance(policy.backbone, TextBackbone)
    vectors = {text: policy.backbone.encoder(text, torch.device("cpu")).numpy() for text in sum(ACTIONS.values(), ())}
    cosines = {
        action: max(float(vectors[own] @ vectors[text]) for own in ACTIONS["kick"] for text in texts)
        for action, texts in ACTIONS.items()
        if action != "kick"
    }
    nearest = sorted(cosines, key=lambda action: -cosines[action])[:3]
    assert list(found.neighbours) == nearest
    assert list(found.neighbours.values()) == pytest.approx([cosines[action] for action in nearest], abs=1e-6)
    assert "No adapter lists neighbours of kick" in found.remarks[0]


REFUSED: dict[str, tuple[list[Description], Wanted]] = {
    "no adapter says what it has unlearned: name it with --concept ACTION": ([described()], Wanted()),
    "no clip of --training shows the action 'fly'": ([], Wanted(concept="fly")),
    "there is no paraphrase of kick": ([], Wanted(concept="kick", paraphrases=("a person kicks",))),
    "the adapters have unlearned kick, punch: name one of them": (
        [described(concepts=[{"name": "kick"}]), described(concepts=[{"name": "punch"}])], Wanted(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_nobody_knows_is_refused(sentence: str, policy: Policy, reader: Reader) -> None:
    descriptions, wanted = REFUSED[sentence]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        concept_of(policy, descriptions, [reader], wanted)


def test_the_hill_climb_keeps_to_its_budget_and_scores_no_text_twice() -> None:
    """The score is the share of wanted words; the climb finds more of them than it was given."""
    asked: list[str] = []

    def score(text: str) -> float:
        asked.append(text)
        return worth(text)

    def worth(text: str) -> float:
        return len({"red", "ball"} & set(text.split())) - 0.01 * len(text.split())

    words = ["red", "ball", "tree", "house", "cat"]
    found = search_texts(score, ["a cat", "a tree"], words, evaluations=60, seed=0)
    assert len(asked) == len(set(asked)) == found.evaluations == 60
    assert {"red", "ball"} <= set(found.best.split())
    assert found.score == max(map(worth, asked))
    assert search_texts(score, ["a cat"], words, evaluations=1, seed=0).best == "a cat"


def test_an_embedding_that_answers_like_the_base_is_found(policy: Policy) -> None:
    """From another caption's embedding, of an adapter that changes nothing, towards the answers to the caption."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.expert.parameters():  # fresh weights answer nothing to any text
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    policy.adapters.add(AdapterConfig(name="none", targets=(r"expert\..*",)))
    policy.adapters.set({"none": 1.0})
    caption, other = "a person kicks", "a man is walking"
    motions = policy.sample(caption, 0.4, n=8, seed=0, steps=2)
    scores = iter(range(100))
    found = search_embedding(policy, motions, caption, lambda _: float(next(scores)), steps=20, seed=0, begin=other)
    assert found.evaluations == 5, "at the beginning, and every five steps"
    assert isinstance(policy.backbone, TextBackbone)
    asked = Asked(text=caption, state=policy.usual_state(), style=style_for(policy, None), pictures=())
    clean = policy.normalize("actions", torch.stack([torch.from_numpy(motion.rows) for motion in motions]))
    losses = [
        float(
            apart(
                policy,
                observation(asked, 0, 8),
                clean=clean,
                time=torch.linspace(0.1, 0.9, 8),
                noise=torch.randn(clean.shape, generator=generator.manual_seed(1)),
                vector=policy.backbone.embed([text], torch.device("cpu"))[0],
            ).detach()
        )
        for text in (caption, other, FOUND)
    ]
    assert losses[0] == 0, "the caption's own embedding answers as the base does"
    assert losses[2] < 0.7 * losses[1]
