"""What is learned, preserved and held out: on clips that ship, against their labels, and on made-up robots."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from tests.fakes import FakeReader, FakeRoot, edited
from tests.vla.data.test_dataset import assert_same, opened, with_facts
from tests.vla.data.test_labels import motion_root
from vla.batch import collate
from vla.data.dataset import Dataset, ValidationSamples, open_dataset, open_root
from vla.data.order import BLOCK
from vla.data.texts import Texts
from vla.settings import DataConfig

CMU = Path(__file__).resolve().parents[3] / "examples" / "motion" / "cmu" / "train"
ROOT = FakeRoot()


@pytest.fixture(scope="module")
def labels() -> Mapping[str, list[dict[str, str]]]:
    """The rows of labels.csv, by the name of the episode that they are of."""
    rows = defaultdict(list)
    with (CMU / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[f"train/{row['file'].removesuffix('.npz')}"].append(row)
    return rows


def clips(**config: object) -> Dataset:
    return open_dataset(DataConfig(roots=(str(CMU),), horizon=20, **config), 0)  # type: ignore[arg-type]


def names_of(samples: ValidationSamples) -> list[str]:
    """Of the episodes whose frames they are."""
    return [episode.name for root in samples.episodes() for episode in root]


def read(data: Dataset) -> set[str]:
    """The names of the episodes that are read, to train or to validate on."""
    return {*names_of(data.everything), *names_of(data.validation)}


def drawn(data: Dataset, block: int) -> list[str]:
    """The names of the episodes at the positions of a block."""
    return [data.train.locate(BLOCK * block + place)[0] for place in range(BLOCK)]


def test_only_what_is_asked_for_is_read_and_counted(labels: Mapping[str, list[dict[str, str]]]) -> None:
    data = clips(where=("action=walking,running", "subject=35,07"))
    wanted = {
        name: rows[0]["subject"]
        for name, rows in labels.items()
        if rows[0]["action"] in ("walking", "running") and rows[0]["subject"] in ("35", "07")
    }
    assert read(data) == set(wanted)
    counts = Counter(wanted.values())
    assert len(counts) == 2
    said = f"{len(wanted)} of {len(labels)} episodes are learned; subject: 07 {counts['07']}, 35 {counts['35']}"
    assert data.remarks[0] == f"--data.where action=walking,running subject=35,07: {said}"
    assert said in " ".join(line.strip() for line in data.table())
    assert not any(data.train[position].preserved for position in range(5))
    assert data.contract == clips().contract


def test_any_instruction_of_an_episode_counts_and_may_have_commas(labels: Mapping[str, list[dict[str, str]]]) -> None:
    data = clips(where=("instruction=a man jumps up and down",))
    assert read(data) == {
        name for name, rows in labels.items() if "a man jumps up and down" in {row["text"] for row in rows}
    }
    both = ("instruction=a man jumps up and down", "action=jumping", "instruction=a person runs")
    assert read(clips(where=both)) == read(clips(where=both[:1])), "any of the instructions, and the action"
    reader = edited(ROOT.open(), 1, instructions=Texts.of(["reach", *["push, then pull"] * 24]))
    assert len(read(opened(reader, where=("instruction=push, then pull",), validation_share=0.0))) == 1


def test_shares_of_the_roles_are_exact_in_each_block(labels: Mapping[str, list[dict[str, str]]]) -> None:
    """What is asked for by the text is not preserved: it would contradict what is learned."""
    text = "a person walks forward"
    data = clips(
        where=("action=jumping",), preserve=0.4, near=("action=soccer", "instruction=a person runs"), near_share=0.3,
        text=text,
    )  # fmt: skip
    actions = {name: rows[0]["action"] for name, rows in labels.items()}
    contrary = {name for name, rows in labels.items() if text in {row["text"] for row in rows}}
    assert contrary
    assert read(data) == set(labels) - contrary
    for block in (0, 2):
        found = Counter(actions[name] for name in drawn(data, block))
        near = found["soccer"] + found["running"]
        assert (found["jumping"], near, found.total() - found["jumping"] - near) == (600, 120, 280)
    said = " ".join(data.remarks)
    assert f"not preserved, since --data.text is an instruction of theirs: {len(contrary)} episodes" in said
    for position in range(40):
        sample, (name, frame) = data.train[position], data.train.locate(position)
        assert sample.preserved == (actions[name] != "jumping")
        texts = list(dict.fromkeys(row["text"] for row in labels[name]))
        assert sample.instruction == (texts[frame % len(texts)] if sample.preserved else text)
    batch = collate([data.train[position] for position in range(40)], 0, "noise")
    flags = [actions[data.train.locate(position)[0]] != "jumping" for position in range(40)]
    assert batch.preserved.tolist() == flags
    assert batch.map(lambda tensor: tensor[:3]).preserved.tolist() == flags[:3]


def test_preserving_holds_out_what_is_held_out_without() -> None:
    """So a policy that goes on is not shown what it had not seen, and each held-out sample has its role."""
    plain, both = clips(), clips(where=("subject=35",), preserve=0.5)
    held = [names_of(data.validation) for data in (plain, both)]
    assert held[0] == held[1]
    assert len(both.validation) == len(plain.validation)
    marks = Counter[str]()
    for index in range(0, len(both.validation), 16):
        subject = both.validation.episodes()[0][held[1].index(both.validation.locate(index)[0])].facts["subject"]
        assert both.validation[index].preserved == (subject != "35")
        marks[str(subject)] += 1
    assert len(marks) > 1
    assert both.statistics.keys() == plain.statistics.keys()
    for kind, found in plain.statistics.items():
        assert (found.mean == both.statistics[kind].mean).all()


def people(name: str, *lengths_of: tuple[str, int]) -> FakeReader:
    """A robot's root whose episodes somebody has shown, each of so many frames."""
    root = FakeRoot(name=name, lengths=tuple(frames for _, frames in lengths_of))
    return with_facts(root, *({"who": who} for who, _ in lengths_of))


def shown_by(*readers: FakeReader) -> dict[str, str]:
    """Who has shown each episode, by its name."""
    return {episode.name: episode.facts["who"] for reader in readers for episode in reader.episodes}


@pytest.mark.parametrize(("who", "role", "share"), [("a", "learned", 0.75), ("b", "preserved", 0.25)])
def test_values_are_balanced_within_each_role(who: str, role: str, share: float) -> None:
    facts = [{"action": action, "who": one} for one in "ab" for action in ("up", "down", "up")]
    reader = with_facts(FakeRoot(lengths=(20, 25, 30, 20, 60, 21)), *facts)
    data = opened(reader, where=("who=a",), preserve=0.25, balance="action", validation_share=0.0)
    by_name = {episode.name: episode.facts for episode in reader.episodes}
    found = Counter(by_name[name]["action"] for name in drawn(data, 1) if by_name[name]["who"] == who)
    assert found == {"up": BLOCK * share / 2, "down": BLOCK * share / 2}
    row = next(row for row in data.rows if row[1] == f"  {role} action up")
    assert row[-1] == f"{50 * share:.1f} %"


def test_a_value_that_is_rare_in_one_root_is_balanced_over_all() -> None:
    """4 of its 1,250 frames are of the second root: less than one of the 125 positions of the value in a block."""
    readers = people("first", ("a", 20), ("b", 1246), ("c", 20)), people("second", ("b", 4))
    config = {"where": ("who=a",), "preserve": 0.25, "balance": "who", "validation_share": 0.0}
    data = opened(*readers, **config)
    found = Counter(name for block in range(10) for name in drawn(data, block))
    assert found == {
        "first/episode_000000": 7500, "first/episode_000001": 1246, "first/episode_000002": 1250,
        "second/episode_000000": 4,
    }  # fmt: skip


def test_roots_have_their_weights_within_each_role() -> None:
    """Of those that have something of it: the third root has nothing that is learned."""
    readers = people("first", ("a", 20), ("b", 25)), people("second", ("a", 40), ("b", 80)), people("third", ("b", 30))
    data = opened(*readers, where=("who=a",), preserve=0.5, validation_share=0.0, weights=(3.0, 1.0, 1.0))
    found = Counter(drawn(data, 3))
    owner = shown_by(*readers)
    assert {(name.partition("/")[0], owner[name]): times for name, times in found.items()} == {
        ("first", "a"): 375, ("second", "a"): 125, ("first", "b"): 300, ("second", "b"): 100, ("third", "b"): 100,
    }  # fmt: skip


def test_a_role_without_weights_is_one_shuffle_of_its_samples() -> None:
    readers = people("first", ("a", 20), ("b", 25)), people("second", ("a", 40), ("b", 80))
    data = opened(*readers, where=("who=a",), preserve=0.5, validation_share=0.0)
    owner = shown_by(*readers)
    for who, size in (("a", 60), ("b", 105)):
        stood = [place for place in map(data.train.locate, range(2 * BLOCK)) if owner[place[0]] == who]
        assert len(stood) == BLOCK
        for epoch in range(BLOCK // size):
            assert len(set(stood[epoch * size : (epoch + 1) * size])) == size


def test_the_text_is_shown_and_read_again_as_it_was() -> None:
    reader = edited(people("root", ("a", 20), ("b", 25)), 0, instructions=Texts.of(["reach", *["push"] * 19]))
    plain, told = (
        opened(reader, where=("who=a",), preserve=0.5, text=text, validation_share=0.0) for text in ("", "lift")
    )
    for position in range(30):
        sample, own = told.train[position], plain.train[position]
        assert_same(sample, own if own.preserved else replace(own, instruction="lift"))
    assert plain.train.fingerprint() != told.train.fingerprint()
    swapped = opened(reader, where=("who=b",), preserve=0.5, validation_share=0.0)
    assert swapped.train.fingerprint() != plain.train.fingerprint()


def test_some_of_what_is_learned_are_preserved_episodes_under_its_instructions() -> None:
    """In exact shares of each block, the instructions in turn; all else is as it was."""
    learned = edited(people("root", ("a", 20)), 0, instructions=Texts.of([*["kick"] * 10, *["hit"] * 10]))
    readers, config = (learned, people("others", ("b", 60))), {"where": ("who=a",), "validation_share": 0.0}
    plain, data = (opened(*readers, **config, preserve=0.4, renamed=share) for share in (0.0, 0.25))
    assert plain.train.fingerprint() != data.train.fingerprint()
    counts = Counter[tuple[str, str, bool]]()
    for position in range(BLOCK):
        sample, episode = data.train[position], data.train.locate(position)[0]
        counts[episode, sample.instruction, sample.preserved] += 1
    first, second = (reader.episodes[0] for reader in readers)
    own = second.instructions.different[0]
    assert sum(counts[first.name, text, False] for text in ("kick", "hit")) == 450
    assert counts[second.name, own, True] == 400
    assert counts.keys() == {
        (first.name, "kick", False), (first.name, "hit", False), (second.name, own, True),
        (second.name, "kick", False), (second.name, "hit", False),
    }  # fmt: skip
    assert abs(counts[second.name, "kick", False] - counts[second.name, "hit", False]) < 3 * 150**0.5
    assert any("--data.renamed 0.25" in remark for remark in data.remarks)
    told = edited(people("root", ("a", 20)), 0, instructions=Texts.of(["kick"] * 20))
    other = opened(told, readers[1], **config, preserve=0.4, renamed=0.25)
    assert {other.train[position].instruction for position in range(50)} == {"kick", own}


@pytest.mark.parametrize("sampling", ["windows", "trials"])
def test_a_stream_goes_on_where_it_was(sampling: str) -> None:
    """In another process, and in workers, which get it pickled."""
    config = {"where": ("action=jumping",), "preserve": 0.5, "near": ("action=soccer",), "sampling": sampling}
    data, again = clips(**config), clips(**config)
    places = [data.train.locate(position) for position in range(2500)]
    assert [again.train.locate(position) for position in range(1300, 2500)] == places[1300:]
    worker = ForkingPickler.loads(ForkingPickler.dumps(again.train))
    assert_same(worker[2499], data.train[2499])
    assert worker.fingerprint() == data.train.fingerprint()


def test_trials_are_drawn_equally_often_and_so_are_their_windows() -> None:
    readers = people("first", ("a", 20), ("a", 60)), people("second", ("b", 35))
    data = opened(*readers, sampling="trials", validation_share=0.0)
    found = Counter(data.train.locate(position) for position in range(3 * 420))
    for name, frames in zip(
        (episode.name for reader in readers for episode in reader.episodes), (20, 60, 35), strict=True
    ):
        assert [found[name, frame] for frame in range(frames)] == [420 // frames] * frames
    assert [row[-1] for row in data.rows[1:]] == ["66.7 %", "33.3 %"]
    balanced = opened(*readers, sampling="trials", balance="who", validation_share=0.0)
    assert Counter(name for name, _ in map(balanced.train.locate, range(BLOCK))) == {
        "first/episode_000000": 250, "first/episode_000001": 250, "second/episode_000000": 500,
    }  # fmt: skip


def test_subjects_are_held_out_whole(labels: Mapping[str, list[dict[str, str]]]) -> None:
    data = clips(where=("subject=35,07,08,02,05,06,10",), split_by="subject", validation_share=0.3)
    subjects = [
        {labels[name][0]["subject"] for name in names_of(samples)} for samples in (data.everything, data.validation)
    ]
    assert not subjects[0] & subjects[1]
    assert (len(subjects[0]), len(subjects[1])) == (5, 2)  # 0.3 of 7
    assert f"held out for validation, 2 of 7 of subject: {', '.join(sorted(subjects[1]))}" in data.remarks
    rest = sorted(subjects[0])[1:] + sorted(subjects[1])
    fewer = clips(where=(f"subject={','.join(rest)}",), split_by="subject", validation_share=0.3)
    assert {labels[name][0]["subject"] for name in names_of(fewer.validation)} == subjects[1]


def test_what_a_policy_is_does_not_depend_on_what_is_learned() -> None:
    """A base has as many classes as its data have, whichever of them are learned later."""
    reader = motion_root()
    for place in range(4):
        reader = edited(reader, place, facts={"condition": "normal" if place == 2 else "crouch"})
    config = {"labels": ("action", "physics"), "horizon": 8}
    every, some = opened(reader, **config), opened(reader, **config, where=("condition=crouch",))
    assert some.contract == every.contract
    assert every.contract.labels == {"action": 30, "physics": 6}


def test_a_robot_s_episodes_are_chosen_by_their_instruction(needle: Path) -> None:
    config = DataConfig(roots=(str(needle),))
    texts = Counter(text for episode in open_root(needle, config).episodes for text in episode.instructions.different)
    text, times = texts.most_common(1)[0]
    data = open_dataset(replace(config, where=(f"instruction={text}",), preserve=0.2, validation_share=0.0), 0)
    assert sum(data.train[position].instruction == text for position in range(10)) == sum(
        not data.train[position].preserved for position in range(10)
    )
    assert f"{times} of {texts.total()} episodes are learned" in data.remarks[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"where": ("acton=up",)},
            r"no episode has the fact acton of --data.where \(nearest: action\): name one of ins",
        ),
        ({"where": ("action=upp",)}, r"no episode has action=upp of --data.where \(nearest: up\): there is down, up"),
        ({"where": ("instruction=push",)}, r"no episode has instruction=push of --data.where.*there is 'push the need"),
        (
            {"where": ("action=up", "who=b")},
            "no episode has action=up and who=b together: leave one of them out of --d",
        ),
        (
            {"where": ("action=up", "action=down")},
            "names action twice: give its values in one word, action=VALUE,VALUE",
        ),
        ({"where": ("action",)}, "--data.where has 'action', expected FACT=VALUE"),
        ({"where": ("action=",)}, "--data.where has 'action=', expected FACT=VALUE"),
        ({"preserve": 0.5}, "keeps what --data.where leaves out, which is missing: say what is learned"),
        ({"where": ("action=up",), "preserve": 1.0}, "--data.preserve is 1, expected 0 <= share < 1"),
        ({"where": ("action=up,down",), "preserve": 0.5}, "leaves no episode out, so there is none to preserve: give"),
        ({"where": ("action=up",), "preserve": 0.5, "text": "push the needle"}, "out but 2 that --data.text asks for"),
        ({"where": ("action=up",), "preserve": 0.9999}, "learned of root has less than one of the 0 positions"),
        ({"where": ("who=a",), "near": ("who=b",)}, "none are: give --data.preserve too"),
        ({"where": ("who=a",), "preserve": 0.5, "near": ("who=a",)}, "no preserved episode has who=a of --data.near"),
        ({"where": ("who=a",), "preserve": 0.5, "near": ("who=b",)}, "is one of --data.near, so none has the rest of"),
        ({"renamed": 0.5}, "--data.renamed takes preserved episodes, and there are none: leave it out"),
        ({"near_share": 0.3}, "says how many samples --data.near gives, which is missing"),
        ({"text": " "}, "--data.text has an empty instruction"),
        ({"text": "<|im_end|>"}, r"--data.text has the control token <\|im_end\|>: take it out"),
        ({"text": "go", "withhold": ("instruction",)}, "--data.withhold instruction shows none: leave one of them out"),
        ({"where": ("who=a",), "preserve": 0.5, "emphasis": "action[0] > 1"}, "and so does --data.emphasis: leave one"),
        ({"sampling": "trials", "emphasis": "action[0] > 1"}, "--data.sampling trials decides how often"),
        ({"split_by": "subject"}, r"has no subject.*let --data.split-by name one of instruction, action"),
        (
            {"split_by": "place"},
            "every episode has the place lab, so --data.split-by place cannot hold one out: leave it",
        ),
        (
            {"split_by": "who", "validation_share": 0.0},
            "--data.validation-share 0 holds nothing out: leave one of them",
        ),
    ],
)
def test_roles_that_no_data_satisfies(config: dict[str, object], said: str) -> None:
    facts = [
        {"action": action, "who": who, "place": "lab"}
        for action, who in (("up", "a"), ("up", "a"), ("down", "b"), ("down", "b"))
    ]
    with pytest.raises(ValueError, match=said) as refusal:
        opened(with_facts(ROOT, *facts), **config)
    assert "\n" not in str(refusal.value)


def test_a_role_of_which_all_is_held_out_is_refused_and_one_of_which_none_is_is_told() -> None:
    reader = people("root", ("a", 20), ("b", 25), ("b", 25), ("b", 25))
    held = {names_of(opened(reader, seed=seed, validation_share=0.25).validation)[0][-1]: seed for seed in range(12)}
    config = {"where": ("who=a",), "preserve": 0.5, "validation_share": 0.25}
    with pytest.raises(ValueError, match="all episodes of --data.where are held out for validation, so none is tr"):
        opened(reader, seed=held["0"], **config)
    told = " ".join(opened(reader, seed=held["1"], **config).remarks)
    assert "0 learned and 1 preserved episodes, so the validation loss says nothing of what is learned" in told
