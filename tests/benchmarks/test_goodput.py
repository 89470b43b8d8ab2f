"""The simulator of goodput against the closed form, and the closed form against what it must become at its limits."""

import dataclasses
import math
import statistics

import pytest

from tests.benchmarks.goodput import Setting, best_interval, closed_form, kept_by, simulate

SETTINGS = [
    Setting(interval=60, stall=1.0, write=5, restart=30, between_failures=7200),
    Setting(interval=300, stall=0.1, write=20, restart=120, between_failures=7200),
    Setting(interval=1200, stall=30, write=0, restart=90, between_failures=28_800),
    Setting(interval=600, stall=10, write=300, restart=200, between_failures=1000),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.between_failures:.0f}")
def test_the_simulation_agrees_with_the_closed_form(setting: Setting) -> None:
    runs = [simulate(setting, 2000, seed) for seed in range(20)]
    error = statistics.stdev(runs) / math.sqrt(len(runs))
    assert abs(statistics.mean(runs) - closed_form(setting)) < 4 * error
    assert error < 0.01, "or else the test could not fail"


def test_a_life_keeps_what_is_complete_when_it_ends() -> None:
    setting = Setting(interval=100, stall=2, write=10, restart=30, between_failures=1)
    assert kept_by(setting, 29) == 0
    assert kept_by(setting, 30 + 102 + 9.9) == 0, "the first snapshot was still being written"
    assert kept_by(setting, 30 + 102 + 10) == 100
    assert kept_by(setting, 30 + 2 * 102 + 10) == 200


def test_without_failures_only_the_stall_costs() -> None:
    setting = Setting(interval=99, stall=1, write=10, restart=60, between_failures=1e12)
    assert closed_form(setting) == pytest.approx(0.99)


def test_youngs_interval_is_the_best_to_first_order() -> None:
    setting = Setting(interval=1, stall=2, write=0, restart=60, between_failures=7200)
    young = best_interval(setting.stall, setting.between_failures)
    there, before, after = (
        closed_form(dataclasses.replace(setting, interval=share * young)) for share in (1.0, 0.8, 1.25)
    )
    assert there > before
    assert there > after
    # To first order a run loses stall / interval to saving and half an interval a failure.
    lost = setting.stall / young + young / 2 / setting.between_failures + setting.restart / setting.between_failures
    assert 1 - there == pytest.approx(lost, rel=0.05)
