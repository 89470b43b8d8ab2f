"""The whole table: samples that glide beside walks, and copies."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, clip, standing, walker
from vla.evaluation.motion.clips import Clip, Windows, prepare, stack
from vla.evaluation.motion.counterexamples import NOT_HUMAN, UNSEEN, counterexamples
from vla.evaluation.motion.heading import window_features
from vla.evaluation.motion.measuring import measure
from vla.evaluation.motion.table import WIDTH, Table


class Stub:
    """Sees how knees and ankles swing along the body, and takes for a walk whose ankles do."""

    def features(self, windows: Windows) -> np.ndarray:
        return window_features(windows, BODY).std(axis=1)[:, [32, 35, 41, 44]]

    def classify(self, windows: Windows) -> list[str]:
        ahead = window_features(windows, BODY)[..., 3 * 14 + 2]
        return ["walking" if some.std() > 0.1 else NOT_HUMAN for some in ahead]


def walks(seed: int, count: int, *, amplitude_m: float = 0.3, seconds: float = 1.5) -> list[Clip]:
    draw = np.random.default_rng(seed)
    made = []
    for place in range(count):
        cadence, phase = draw.uniform(0.8, 1.1), draw.uniform(0, 6.3)
        steps = walker(seconds, 30.0, cadence_hz=cadence, phase=phase, amplitude_m=amplitude_m * draw.uniform(0.9, 1.1))
        made.append(clip(steps, 30.0, f"{seed}/{place}"))
    return made


@pytest.fixture(scope="module")
def table() -> Table:
    """Samples: a third walks as real ones do, two thirds glide."""
    samples = [*walks(0, 10), *walks(1, 20, amplitude_m=0.02)]
    return measure(samples, walks(2, 40), walks(3, 300), BODY, Stub())


def test_gliding_shows_beside_real_walks(table: Table) -> None:
    amplitude, steps = table.row("gait amplitude, walking"), table.row("steps, walking")
    assert amplitude.real.value == pytest.approx(0.6 / math.sqrt(2), rel=0.1)
    assert amplitude.samples.value == pytest.approx(0.6 / math.sqrt(2) * (1 + 2 / 15) / 3, rel=0.1)
    assert steps.samples.value == pytest.approx(1 / 3)
    assert steps.real.value == 1.0
    assert table.row("recall, walking").samples.value == pytest.approx(1 / 3)
    assert table.row("judged not human").samples.value == pytest.approx(2 / 3)
    assert table.row("judged not human").real.value == 0.0


def test_every_figure_has_three_columns_with_n_and_interval(table: Table) -> None:
    for row in table.rows:
        if row.name == "counter-examples rejected":
            assert row.samples.n == 0
            continue
        alike = row.name == "judged not human" or ("walking" in row.name and not row.name.startswith("nearer"))
        if row.name.startswith("near"):
            assert (row.samples.n, row.real.n, row.replay.n) == (30, 20 if "than" in row.name else 40, 30)
        elif row.name == "Frechet distance":
            assert row.samples.n == row.real.n == row.replay.n == 15, "half of the real motions"
        else:
            assert (row.samples.n, row.real.n, row.replay.n) == (30, 40 if alike else 30, 30), row.name
        for figure in (row.samples, row.real, row.replay):
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low - 1e-9 <= float(figure.value or 0) <= figure.high + 1e-9, row.name


def test_real_halves_and_copies_stand_beside_a_distance(table: Table) -> None:
    distance = table.row("Frechet distance")
    assert float(distance.samples.value or 0) > 10 * float(distance.real.value or 0)
    assert float(distance.replay.value or 0) < 3 * float(distance.real.value or 0)
    assert table.row("nearest training motion").replay.value == 0.0
    assert table.row("nearest training motion").samples.value > table.row("nearest training motion").real.value
    assert table.row("nearer than real ones").replay.value == 1.0
    assert float(table.row("nearer than real ones").real.value or 0) <= 0.3
    own, everything = table.row("nearer than real ones, walking"), table.row("nearer than real ones")
    assert replace(own, name=everything.name) == everything, "all motions walk here"


def test_a_judge_is_examined_by_what_it_was_not_trained_with(table: Table) -> None:
    row = table.row("counter-examples rejected")
    real = [prepare(some) for some in walks(2, 40)]
    made = [some for of_kind in counterexamples(real, BODY, UNSEEN).values() for some in of_kind]
    rejected = sum(said == NOT_HUMAN for said in Stub().classify(stack(made)))
    assert 0 < rejected < len(made) == row.real.n
    assert row.real.value == rejected / len(made)


def test_nearest_motions_are_compared_within_an_action() -> None:
    """Standing is nearer to standing than any walk is to another: by all motions it would be called a copy."""
    still = [clip(standing(1.5, 30.0) + 1e-3 * place, 30.0, f"still {place}", "standing") for place in range(50)]
    found = measure(
        [*walks(0, 10), *still[:10]], [*walks(2, 40), *still[10:30]], [*walks(3, 99), *still[30:]], BODY, Stub()
    )
    walking, standing_row = found.row("nearer than real ones, walking"), found.row("nearer than real ones, standing")
    assert (walking.samples.n, standing_row.samples.n) == (10, 10)
    assert walking.samples.value == 0.0


def test_sets_are_compared_of_as_many_motions_of_each_action() -> None:
    """Otherwise runs among walks would be taken for what the policy does differently."""
    still = [clip(standing(1.5, 30.0), 30.0, f"still {place}", "standing") for place in range(15)]
    unseen = [replace(some, label="hopping") for some in walks(4, 6, amplitude_m=0.1)]
    real = [*walks(2, 30), *still[:5]]
    found = measure([*walks(0, 12), *still[5:], *unseen], real, walks(3, 40), BODY, Stub())
    assert found.remarks[0] == (
        "Figures of no action in particular are of standing 5, walking 12 samples and as many real motions; no real "
        "motion shows hopping."
    )
    speed = found.row("foot speed below 12 cm")
    assert (speed.samples.n, speed.real.n, speed.replay.n) == (17, 17, 12), "of standing there is nothing to replay"
    assert speed.samples.value == pytest.approx(float(speed.real.value or 0), rel=0.1)
    assert found.row("gait amplitude, hopping").samples.n == 6
    others = [replace(some, label="hopping") for some in walks(0, 8)]
    apart = measure(others, walks(2, 9), others, BODY, Stub())
    assert apart.remarks[0] == "Samples and real motions show no action in common."


def test_samples_that_have_sunk_are_seen_where_the_floor_is_known() -> None:
    sunk = [replace(some, positions=some.positions - np.array((0.0, 0.35, 0.0))) for some in walks(0, 7)]
    given = measure(sunk, walks(2, 7), walks(3, 7), BODY, Stub(), floor_m=0.0).row("penetration")
    lowest = 0.05 + 0.075 * (1 - 2 / math.pi)  # one ankle is lifted by 1 - |cos| of what the other is not
    assert given.samples.value == pytest.approx(0.35 - lowest, abs=0.005)
    assert given.real.value == 0.0
    own = measure(sunk, walks(2, 7), walks(3, 7), BODY, Stub())
    assert float(own.row("penetration").samples.value or 0) < 0.01
    assert own.row("floor height").samples.value == pytest.approx(-0.3, abs=0.01)


def test_samples_that_are_copies_are_told() -> None:
    training = walks(3, 100)
    found = measure(training[:30], walks(2, 40), training, BODY, Stub())
    assert found.row("nearer than real ones").samples.value == 1.0
    assert any("some are copies" in remark for remark in found.remarks)


def test_it_is_told_in_80_columns_and_as_json(table: Table) -> None:
    lines = table.lines()
    assert max(map(len, lines)) <= WIDTH
    assert "Motions at 20 Hz, below 6 Hz." in lines[0]
    place = next(place for place, line in enumerate(lines) if line.startswith("gait amplitude, walking [m]"))
    assert lines[place].endswith("n 30, 40, 30")
    assert lines[place + 1].count("[") == 3
    written = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert written["rows"][0]["name"] == "foot skating ratio"
    assert written["rows"][0]["samples"]["n"] == 30
    assert written["rate_hz"] == 20.0


def test_what_cannot_be_measured_is_said() -> None:
    samples = [*walks(0, 6), clip(standing(1.0, 30.0), 30.0, "short", "standing")]
    found = measure(samples, walks(2, 7), walks(3, 30), BODY, Stub())
    assert "No training motion shows standing: replay has none." in found.remarks
    assert any("1 motions are shorter than 31 frames" in remark for remark in found.remarks)
    assert any("No Frechet distance: 4 features take 4 motions a side, and there are 3." in r for r in found.remarks)
    assert found.row("recall, standing").real.n == 0
    assert found.row("recall, standing").samples.n == 1
    assert "steps, standing" not in {row.name for row in found.rows}
    json.dumps(found.to_json(), allow_nan=False)
    assert max(map(len, found.lines())) <= WIDTH


@pytest.mark.parametrize("empty", ["samples", "held-out real motions", "training motions"])
def test_an_empty_set_is_refused(empty: str) -> None:
    sets = [[] if what == empty else walks(0, 3) for what in ("samples", "held-out real motions", "training motions")]
    with pytest.raises(ValueError, match=f"there are no {empty} to measure"):
        measure(*sets, BODY, Stub())
