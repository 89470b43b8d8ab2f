"""Ablation: verdicts on a policy whose use of its inputs is known, exact pairing, and the table."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vla.evaluation.standins import CONTRACT, FRAMES, FRONT, Known, Recordings
from vla.batch import Sample
from vla.errors import CorruptData
from vla.evaluation.ablation import AblationConfig, Answers, answer, stand_ins
from vla.evaluation.alteration import Alteration, Kind, inputs_of
from vla.evaluation.changes import constant_error, frequent, sample_errors
from vla.evaluation.figures import draw_ablation
from vla.evaluation.findings import Ablation, Baseline, Change, Effect, Finding, Rate, Where, shown
from vla.evaluation.open_loop import Predictions
from vla.evaluation.phases import Phases
from vla.evaluation.verdicts import compare, find, judge

INPUTS = inputs_of(CONTRACT)
CONFIG = AblationConfig(delay_s=0.3, batch_size=32)
EPISODES = {None: 20, "search": 20}


def answers(policy: Known | None = None, data: Recordings | None = None) -> Answers:
    data = Recordings() if data is None else data
    return answer(Known() if policy is None else policy, data, range(len(data)), INPUTS, CONFIG)


def halves(data: Recordings) -> Phases:
    names = tuple("early" if frame < 10 else "late" for frame in range(FRAMES))
    return Phases(
        names=("early", "late"), by_episode={data.locate(FRAMES * row)[0]: names for row in range(data.episodes)}
    )


@pytest.fixture(scope="module")
def result() -> Ablation:
    return judge(answers(), CONFIG, policy="run/policy", phases=halves(Recordings()))


def test_what_a_policy_uses_is_found_and_what_it_ignores_too(result: Ablation) -> None:
    verdicts = {finding.input: finding.verdict for finding in result.inputs}
    assert verdicts == {
        FRONT: "used",
        "observation.images.wrist": "not used",
        "instruction": "used",
        "state": "used",
        "sensor": "not used",
    }
    ignored = result.inputs[-1].kinds
    assert [(effect.kind, effect.change, effect.moved) for effect in ignored] == [
        (kind, 0.0, 0.0) for kind in ("zeroed", "shuffled", "delayed", "frozen")
    ]
    assert result.inputs[0].sentence.startswith("front is used: ")
    assert "5 %" in result.inputs[1].sentence


def test_a_policy_that_listens_to_noise_is_not_said_to_use_it() -> None:
    found = judge(answers(Known(uses=(*INPUTS,))), CONFIG, policy="p").inputs
    *_, state, sensor = found
    assert state.verdict == "used"
    # It moves the answers, but neither nearer to the recorded actions nor further away.
    assert min(effect.moved for effect in sensor.kinds) > 0.3
    assert sensor.verdict != "used"


def test_what_never_changes_cannot_be_shown() -> None:
    data = Recordings(instructions=("left",))
    data.state[:] = data.state[0, 0]
    found = {finding.input: finding for finding in judge(answers(data=data), CONFIG, policy="p").inputs}
    for name in ("instruction", "state"):
        assert found[name].sentence == f"{name} is not shown: it is the same in all these frames"
        assert [effect.kind for effect in found[name].kinds] == ["zeroed"]
    assert found[FRONT].verdict == "used"


def test_a_phase_of_few_episodes_is_left_out() -> None:
    episodes = [f"episode_{row}" for row in range(6)] * 2
    labels = ["approach"] * 6 + ["search"] * 4 + [None] * 2
    assert frequent(("approach", "search", "insert"), labels, episodes) == ("approach",)


def test_few_episodes_show_nothing() -> None:
    data = Recordings(episodes=6)
    found = {finding.input: finding for finding in judge(answers(data=data), CONFIG, policy="p").inputs}
    assert found["state"].kinds[1].low > 0.5, "however clear it looks"
    assert found["state"].sentence == "state is not shown: 6 episodes are too few to tell, 7 would do"
    assert found["instruction"].verdict == "used", "one interval needs fewer episodes than three that hold together"
    seven, phased = answers(data=Recordings(episodes=7)), answers(data=Recordings(episodes=8))
    assert judge(seven, CONFIG, policy="p").inputs[3].verdict == "used"
    told = judge(phased, CONFIG, policy="p", phases=halves(Recordings(episodes=8))).inputs[3].sentence
    assert told == "state is not shown: 8 episodes are too few to tell, 9 would do"
    with pytest.raises(ValueError, match="only one to evaluate on"):
        answers(data=Recordings(episodes=1))


def test_a_phase_of_too_few_episodes_decides_nothing() -> None:
    baseline = Baseline(error=1.0, by_phase={"search": 0.5}, success=None)
    rare = {None: 20, "search": 8}
    for change in (Change(change=0.4, low=0.3, high=0.5), Change(change=0.0, low=-0.01, high=0.01)):
        seen = effect(0.02, 0.01, 0.03, search=change)
        found = find("state", [seen], baseline, CONFIG, label="state", episodes=rare, needed=9)
        assert found.sentence == "state is not shown: 8 episodes in search are too few to tell, 9 would do"
    clear = effect(0.4, 0.3, 0.5, search=Change(change=0.0, low=-0.01, high=0.01))
    assert find("state", [clear], baseline, CONFIG, label="state", episodes=rare, needed=9).verdict == "used"
    assert find("state", [seen], baseline, CONFIG, label="state", episodes=rare, needed=8).verdict == "not used"


def test_stand_ins_are_of_the_episode_they_should_be_of() -> None:
    data = Recordings(instructions=("left", "right", "middle"))
    chosen = list(range(0, len(data), 3))
    stands = stand_ins(data, chosen, 3, seed=1)
    for index, stand in zip(chosen, stands, strict=True):
        episode, frame = divmod(index, FRAMES)
        assert stand.frozen == episode * FRAMES
        assert stand.delayed == episode * FRAMES + max(0, frame - 3)
        assert stand.shuffled // FRAMES != episode
        assert stand.instruction != data[index].instruction
    assert stands == stand_ins(data, chosen, 3, seed=1)
    assert len({stand.shuffled // FRAMES for stand in stands}) == data.episodes
    assert stand_ins(data, chosen[5:6], 3, seed=1)[0].shuffled == stands[5].shuffled


def test_altered_chunks_start_from_the_same_noise_and_see_the_stand_ins() -> None:
    data, policy = Recordings(), Known()
    made = answer(policy, data, [30, 47, 111], ("state",), CONFIG)
    assert len(policy.seen) == 5
    stands = stand_ins(data, [30, 47, 111], 3, CONFIG.seed)
    for kind in ("shuffled", "delayed", "frozen"):
        altered = made.altered[Alteration(input="state", kind=kind, delay_steps=3)]
        pairs = zip([30, 47, 111], stands, strict=True)
        sources = [data[vars(stand)[kind]].state[0] - data[at].state[0] for at, stand in pairs]
        shift = np.asarray(sources)[:, None, None] * np.array([1, 1000], dtype=np.float32)
        assert np.allclose(altered.predicted - made.plain.predicted, shift, rtol=1e-3, atol=1e-3)
    assert np.array_equal(made.plain.recorded[1], data[47].actions)


def test_what_cannot_be_read_is_one_sentence_from_a_loader_process_too() -> None:
    class Damaged(Recordings):
        def __getitem__(self, index: int, /) -> Sample:
            if index == 47:
                raise CorruptData("front.mp4 is damaged; copy it again")
            return super().__getitem__(index)

    for workers in (0, 1):
        with pytest.raises(CorruptData, match=r"^front.mp4 is damaged; copy it again$"):
            answer(Known(), Damaged(), [30, 47], (), dataclasses.replace(CONFIG, workers=workers))


def test_the_change_is_the_mean_paired_difference(result: Ablation) -> None:
    made = answers()
    scale = constant_error(made.plain)
    valid = made.plain.valid
    error = np.abs(made.plain.predicted - made.plain.recorded) / scale
    by_sample = [error[row][valid[row]].mean() for row in range(len(valid))]
    assert sample_errors(made.plain, scale) == pytest.approx(by_sample, rel=1e-5)
    assert result.baseline.error == pytest.approx(np.mean(by_sample), rel=1e-5)
    altered = made.altered[Alteration(input=FRONT, kind="frozen", delay_steps=3)]
    difference = sample_errors(altered, scale) - sample_errors(made.plain, scale)
    effect = next(effect for effect in result.inputs[0].kinds if effect.kind == "frozen")
    assert effect.change == pytest.approx(difference.mean())
    assert effect.error == pytest.approx(result.baseline.error + effect.change)
    assert effect.low < effect.change < effect.high
    late = np.asarray(made.plain.frames) >= 10
    assert effect.by_phase["late"].change == pytest.approx(difference[late].mean())
    assert effect.moved == pytest.approx(
        sample_errors(dataclasses.replace(altered, recorded=made.plain.predicted), scale).mean()
    )
    # Metres count as much as the gripper's thousands.
    assert scale[1] / scale[0] == pytest.approx(1000, rel=0.2)


def test_a_constant_angle_weighs_nothing() -> None:
    made = answers()
    flat = judge(made, CONFIG, policy="p")
    periods = (*CONTRACT.action_periods, 6.283185307179586)
    contract = dataclasses.replace(
        CONTRACT, action_dim=3, action_names=("x_m", "gripper", "yaw"), action_periods=periods
    )

    def turned(data: Predictions) -> Predictions:
        recorded = np.concatenate([data.recorded, np.full_like(data.recorded[..., :1], 0.7)], axis=-1)
        predicted = np.concatenate([data.predicted, np.full_like(data.predicted[..., :1], 0.6)], axis=-1)
        return dataclasses.replace(data, contract=contract, recorded=recorded, predicted=predicted)

    altered = {entry: turned(data) for entry, data in made.altered.items()}
    with_angle = judge(dataclasses.replace(made, plain=turned(made.plain), altered=altered), CONFIG, policy="p")
    assert with_angle.baseline.error == pytest.approx(flat.baseline.error)
    assert [finding.sentence for finding in with_angle.inputs] == [finding.sentence for finding in flat.inputs]


def effect(
    change: float, low: float, high: float, success: Rate | None = None, kind: Kind = "frozen", **phases: Change
) -> Effect:
    return Effect(
        kind=kind, error=1 + change, change=change, low=low, high=high, moved=0.0, by_phase=phases, success=success
    )


@pytest.mark.parametrize(
    ("change", "low", "high", "verdict"),
    [
        (0.2, 0.1, 0.3, "used"),
        (0.03, 0.01, 0.06, "used"),
        (0.02, 0.01, 0.04, "not used"),
        (0.0, -0.04, 0.04, "not used"),
        (0.0, -0.06, 0.02, "not shown"),
        (0.2, -0.1, 0.5, "not shown"),
    ],
)
def test_the_verdict_follows_from_the_interval(change: float, low: float, high: float, verdict: str) -> None:
    baseline = Baseline(error=1.0, by_phase={}, success=None)
    assert (
        find("state", [effect(change, low, high)], baseline, CONFIG, label="state", episodes=EPISODES, needed=9).verdict
        == verdict
    )


def test_a_sentence_says_where_and_which_way() -> None:
    baseline = Baseline(error=1.0, by_phase={"search": 0.5}, success=None)

    def sentence(*effects: Effect) -> str:
        return find("state", effects, baseline, CONFIG, label="state", episodes=EPISODES, needed=9).sentence

    better = effect(-0.12, -0.16, -0.08)
    assert sentence(better) == "state is not shown: frozen, it changes the error by -12 [-16 -8] %, for the better"
    # An alteration that changes nothing is not why the verdict is open.
    assert sentence(better, effect(0.0, -0.01, 0.01, kind="delayed")) == sentence(better)
    doubtful = effect(0.01, 0.0, 0.02, search=Change(change=0.1, low=-0.05, high=0.2))
    assert sentence(doubtful) == (
        "state is not shown: frozen, it changes the error in search by +20 [-10 40] %, which may be nothing"
    )


def rate(successes: int, episodes: int = 100) -> Rate:
    """Of episodes of which the easier ones succeed."""
    return Rate.of([episode < successes for episode in range(episodes)])


def test_an_input_is_called_unused_only_where_a_fall_of_success_is_excluded() -> None:
    nothing, clear = effect(0.0, -0.01, 0.01), effect(0.2, 0.1, 0.3)

    def found(before: Rate, *effects: tuple[Effect, Rate]) -> Finding:
        baseline = Baseline(error=1.0, by_phase={}, success=before)
        altered = [dataclasses.replace(entry, success=after) for entry, after in effects]
        return find("state", altered, baseline, CONFIG, label="state", episodes=EPISODES, needed=9)

    assert rate(36, 50).high > rate(45, 50).low, "the intervals overlap, so the fall is not shown either"
    assert found(rate(45, 50), (nothing, rate(36, 50))).sentence == (
        "state is not shown: no alteration changes the error by more than 5 %, but frozen, success goes from 90% to "
        "72%, and a fall by more than 10 points is not excluded (-30 to -7)"
    )
    settled = found(rate(180, 200), (nothing, rate(175, 200)))
    assert settled.sentence == (
        "state is not used: no alteration changes the error by more than 5 %, nor takes more than 10 points from "
        "success; frozen, success goes from 90% to 88%"
    )
    # Each alteration counts, and success is told where it does not decide.
    delayed = dataclasses.replace(nothing, kind="delayed")
    assert found(rate(180, 200), (nothing, rate(175, 200)), (delayed, rate(166, 200))).verdict == "not shown"
    used = found(rate(45, 50), (clear, rate(36, 50))).sentence
    assert used == "state is used: frozen, it changes the error by +20 [10 30] %; frozen, success goes from 90% to 72%"


def test_success_in_an_environment_decides_first() -> None:
    before = rate(90)
    baseline = Baseline(error=1.0, by_phase={}, success=before)
    fallen = effect(0.0, -0.01, 0.01, rate(5))
    for recordings in (20, 4):
        found = find("state", [fallen], baseline, CONFIG, label="state", episodes={None: recordings}, needed=9)
        assert found.sentence == "state is used: frozen, it takes success from 90% to 5%"
    asked: list[Alteration | None] = []

    def success_of(alteration: Alteration | None) -> Rate:
        asked.append(alteration)
        return before if alteration is None else rate(10)

    told: list[int] = []
    done = judge(answers(), CONFIG, policy="p", success_of=success_of, progress=told.append)
    assert asked[0] is None
    assert len(asked) == len(told) == 1 + 4 * 4 + 2
    assert done.inputs[-1].sentence == "sensor is used: shuffled, it takes success from 90% to 10%"
    where = Where(environment="a_module_of_mine:make_it", settings={}, within=40, seed=0, executed=1)
    for told in (done, dataclasses.replace(done, where=where)):
        assert max(map(len, told.lines())) <= 80
    assert any("success in a_module_of_mine:make_it within 40 steps" in line for line in told.lines())


def test_the_table_has_80_columns_and_a_sentence_a_row(result: Ablation) -> None:
    lines = result.lines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert all(finding.sentence in text for finding in result.inputs)
    assert sum(line.startswith("  late") for line in lines) == len(INPUTS)
    long = dataclasses.replace(result.inputs[0], label="left.fingertip", input="observation.left.fingertip")
    told = dataclasses.replace(result, inputs=[long, dataclasses.replace(long, label="left.fingertips")]).lines()
    assert {"left.fingertip", "left.fingertips"} < set(told)
    assert max(map(len, told)) <= 80
    assert shown(Change(change=0.5, low=-9.994, high=9.994), 1.0) == "+50 [-999 999]"
    assert shown(Change(change=8.6, low=4.3, high=12.3), 1.0) == "+860 [430 1230]"
    assert shown(Change(change=50.0, low=-100.0, high=1000.0), 1.0) == "+5e+03"
    content = json.loads(json.dumps(result.to_json()))
    assert set(content) >= {"policy", "samples", "episodes", "phases", "baseline", "inputs", "control"}
    assert set(content["inputs"][0]["kinds"][0]) >= {"kind", "error", "change", "low", "high", "by_phase", "success"}


def test_the_picture_is_drawn(result: Ablation, tmp_path: Path) -> None:
    draw_ablation(result, tmp_path / "ablation.png")
    with Image.open(tmp_path / "ablation.png") as picture:
        assert len(picture.convert("L").getcolors()) > 20


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a delay of 0.01 s is no frame at 10 Hz; give 0.1 s"):
        AblationConfig(delay_s=0.01).delay_steps(10.0)
    made = answers()
    still = dataclasses.replace(made.plain, recorded=np.ones_like(made.plain.recorded))
    with pytest.raises(ValueError, match="all recorded actions are the same"):
        constant_error(still)


def without(input_: str) -> Predictions:
    """What a policy answers that was never given an input."""
    data = Recordings()
    kept = tuple(name for name in Known().uses if name != input_)
    return answer(Known(uses=kept), data, range(len(data)), (), CONFIG).plain


def test_a_control_tells_what_an_input_is_worth(result: Ablation) -> None:
    plain, phases = answers().plain, halves(Recordings())
    needed = compare(result, plain, without("state"), CONFIG, name="state", policy="c", phases=phases)
    assert needed.verdict == "needed"
    assert needed.change == pytest.approx(needed.error - result.baseline.error)
    assert needed.low < needed.change < needed.high
    assert set(needed.by_phase) == {"early", "late"}
    ignored = compare(result, plain, without("sensor"), CONFIG, name="sensor", policy="c", phases=phases)
    assert (ignored.verdict, ignored.change) == ("not needed", 0.0)
    told = dataclasses.replace(result, control=[needed, ignored])
    lines = told.lines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert needed.sentence in text
    assert ignored.sentence in text
    assert sum(line.startswith("  late") for line in lines) == len(INPUTS) + 2
    assert set(told.to_json()["control"]) == {"state", "sensor"}


@pytest.mark.parametrize(
    ("name", "after", "verdict", "end"),
    [
        ("sensor", 20, "needed", "success falls from 90% to 20%"),
        ("sensor", 88, "not needed", "fall by more than 10 points; success goes from 90% to 88%"),
        ("sensor", 80, "not shown", "fall by more than 10 points is not excluded (-17 to -4)"),
        ("state", 88, "not shown", " %; success goes from 90% to 88%"),
        ("state", 20, "needed", "success falls from 90% to 20%"),
    ],
)
def test_success_decides_what_an_input_is_worth(
    result: Ablation, name: str, after: int, verdict: str, end: str
) -> None:
    beside = dataclasses.replace(result, baseline=dataclasses.replace(result.baseline, success=rate(90)))
    found = compare(beside, answers().plain, without(name), CONFIG, name=name, policy="c", success=rate(after))
    assert found.verdict == verdict, found.sentence
    assert found.sentence.endswith(end)


def test_a_control_on_few_episodes_shows_nothing() -> None:
    made = answers(data=Recordings(episodes=5))
    baseline = judge(made, CONFIG, policy="p")
    worse = dataclasses.replace(made.plain, predicted=made.plain.predicted + np.array([5, 5000], dtype=np.float32))
    for other in (made.plain, worse):
        found = compare(baseline, made.plain, other, CONFIG, name="state", policy="c")
        assert found.sentence == "state is not shown: trained without it, 5 episodes are too few to tell, 6 would do"


def test_a_control_tells_of_the_change_that_leaves_it_open(result: Ablation) -> None:
    made, phases = answers().plain, halves(Recordings())
    late, odd = np.asarray(made.frames) >= 10, np.asarray([name[-1] in "13579" for name in made.episodes])
    predicted = made.predicted.copy()
    predicted[late & odd] += np.array([0.5, 500], dtype=np.float32)  # worse in some episodes only, late in them
    predicted[late & ~odd] = made.recorded[late & ~odd]
    swaying = dataclasses.replace(made, predicted=predicted)
    found = compare(result, made, swaying, CONFIG, name="state", policy="c", phases=phases)
    assert found.by_phase["early"].change == 0
    assert found.sentence.startswith("state is not shown: trained without it, the error in late changes by ")


def test_a_control_is_drawn_beside_the_alterations(result: Ablation, tmp_path: Path) -> None:
    found = compare(result, answers().plain, without("state"), CONFIG, name="state", policy="c")
    sizes = []
    for place, told in enumerate((result, dataclasses.replace(result, phases=[], control=[found]))):
        draw_ablation(told, tmp_path / f"{place}.png")
        with Image.open(tmp_path / f"{place}.png") as picture:
            red = np.asarray(picture.convert("RGB")).astype(int)
            sizes.append(int(((red[..., 0] > 180) & (red[..., 1] < 80) & (red[..., 2] < 80)).sum()))
    assert sizes[0] == 0
    assert sizes[1] > 20
