"""Motions that are judged as they are made: again where they are unsafe, and the best where none is safe."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.critic.test_motion import BODY, moves, walk
from tests.vla.test_sampling import policy_of
from vla.__main__ import main
from vla.critic.critic import Critic
from vla.critic_settings import CriticConfig
from vla.generation import InferenceGenerator
from vla.motion.moves import Moves
from vla.policy_folder import save_policy
from vla.rejection import Rejection

GOOD, SHAKEN = walk(), walk() + 0.03 * np.random.default_rng(0).standard_normal((81, 6, 3))
SUNK, BOTH = walk() - np.array([0, 0.3, 0]), SHAKEN - np.array([0, 0.3, 0])


def test_each_motion_is_made_until_it_is_safe_and_else_the_best_is_kept() -> None:
    """What motion k is at try j follows from both alone, so only those that are unsafe are made again."""
    shown = {
        0: [GOOD], 1: [SHAKEN, GOOD], 2: [BOTH, SUNK, BOTH], 3: [SUNK, BOTH, GOOD],
    }  # fmt: skip
    asked: list[tuple[list[int], int]] = []

    def make(numbers: Sequence[int], attempt: int) -> list[Moves]:
        asked.append((list(numbers), attempt))
        return [moves(shown[number][attempt]) for number in numbers]

    rejection = Rejection(critic=Critic(config=CriticConfig(unsafe_severity=0.6)), tries=3)
    found = rejection.choose(make, range(4), "a person walks")
    assert asked == [([0, 1, 2, 3], 0), ([1, 2, 3], 1), ([2, 3], 2)]
    kept = {0: GOOD, 1: GOOD, 2: SUNK, 3: GOOD}
    assert all(np.array_equal(found[number].rows, moves(places).rows) for number, places in kept.items())
    assert [chosen.tries for chosen in rejection.results] == [1, 2, 3, 3]
    assert [chosen.verdict.is_safe for chosen in rejection.results] == [True, True, False, True]
    assert [reason.split(":")[0] for reason in rejection.results[2].verdict.get_rejection_reasons()] == ["ground"]
    with pytest.raises(ValueError, match="0 tries at a motion were asked for; give at least 1"):
        Rejection(tries=0)


def test_the_two_calls_of_a_generator(tmp_path: Path) -> None:
    """A motion, or rows of the policy's numbers as an array or a tensor; another width is refused."""
    policy = policy_of("rotations")
    save_policy(policy, tmp_path / "policy")
    generator = InferenceGenerator(model_path=tmp_path / "policy", enable_safety_check=True)
    plain = InferenceGenerator(model_path=tmp_path / "policy")
    (made,) = plain.generate("walk", 1.0)
    assert not plain.rejection.results
    np.testing.assert_allclose(made.rows, policy.sample("walk", 1.0)[0].rows, atol=1e-5)
    (kept,) = generator.generate("walk", 1.0)
    (chosen,) = generator.rejection.results
    assert np.array_equal(chosen.motion.rows, kept.rows)
    assert chosen.tries == (1 if Critic().judge(made).is_safe else 8) or chosen.verdict.is_safe
    is_safe, result = generator.check_motion_safety(made)
    assert is_safe == Critic().judge(made).is_safe
    assert (not result.get_rejection_reasons()) == is_safe
    for rows in (made.rows, torch.from_numpy(made.rows)):
        assert generator.check_motion_safety(rows)[1].to_json() == result.to_json()
    with pytest.raises(ValueError, match=r"a motion of this policy is \(frames, \d+\) numbers, not \(250, 20\)"):
        generator.check_motion_safety(torch.randn(250, 20))


def test_a_command_says_what_is_unsafe_and_keeps_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a policy that was never trained."""
    save_policy(policy_of("rotations"), tmp_path / "policy")
    asked = ["sample", str(tmp_path / "policy"), "--text", "walk", "--n", "2", "--tries", "2", "--seconds", "1"]
    assert main([*asked, "--out", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "made" / "verdicts.json").read_text())
    unsafe = [number for number, verdict in enumerate(found) if not verdict["is_safe"]]
    assert f"safe: {2 - len(unsafe)} of 2" in said
    for number in unsafe:
        assert found[number]["tries"] == 2
        assert f"motion {number}: {'; '.join(found[number]['rejection_reasons'])}" in said
    strict = ["--critic.unsafe-severity", "0", "--critic.speed-mps", "0", "--tries", "1", "--json"]
    assert main([*asked, "--out", str(tmp_path / "strict"), *strict]) == 0
    assert json.loads(capsys.readouterr().out)["unsafe"] == 2
    asked[-1] = "0.15"
    assert main([*asked, "--out", str(tmp_path / "short")]) == 0
    assert "not judged: they are too short" in capsys.readouterr().out
    assert main([*asked, "--out", str(tmp_path / "none"), "--tries", "0"]) == 78
    assert "--tries is 0; give 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert BODY.kind == "positions"
