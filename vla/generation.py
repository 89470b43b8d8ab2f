"""A policy of motion behind two calls: make a motion that is safe, and say whether one is."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla.critic.critic import Critic
from vla.critic.verdict import Verdict
from vla.critic_settings import CriticConfig
from vla.motion.moves import Moves
from vla.policy_folder import load_policy
from vla.rejection import Rejection
from vla.sampling import body_of, offsets_of

TRIES = 8
"""Motions that are made for one, where they are checked."""


class InferenceGenerator:
    """Motions of a policy folder.

        generator = InferenceGenerator(model_path="runs/motion/policy", enable_safety_check=True)
        (motion,) = generator.generate("a person walks forward", seconds=4.0)
        is_safe, result = generator.check_motion_safety(motion)
        if not is_safe:
            print(result.get_rejection_reasons())

    With the check each motion is made until it is safe, 8 times at most; without it, once.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        enable_safety_check: bool = False,
        safety_config: CriticConfig | None = None,
        backbone: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.policy = load_policy(Path(model_path), backbone, torch.float32, fold=True).to(torch.device(device))
        self.policy.set_mode(training=False)
        self.body = body_of(self.policy)
        self.rejection = Rejection(critic=Critic(config=safety_config or CriticConfig()), tries=TRIES)
        """What was found of the motions that were generated last stands in its `results`."""
        self.enable_safety_check = enable_safety_check

    def generate(self, text: str, seconds: float, *, n: int = 1, seed: int = 0) -> list[Moves]:
        """Some motions that show a text. Errors as `vla.sampling.sample`."""
        rejection = self.rejection if self.enable_safety_check else None
        return self.policy.sample(text, seconds, n=n, seed=seed, rejection=rejection)

    def check_motion_safety(
        self, motion: Moves | Float[np.ndarray, "T A"] | Float[Tensor, "T A"], text: str = ""
    ) -> tuple[bool, Verdict]:
        """Whether a motion is safe, and all that was found: a `Moves`, or rows of the policy's own numbers.

        Rows have the skeleton in the middle of those that were trained on. `text` is what the motion is to show.

        Raises:
            ValueError: the rows are none of this policy's, or the motion cannot be judged.
        """
        if not isinstance(motion, Moves):
            rows = np.asarray(torch.as_tensor(motion).float().cpu().numpy())
            width = self.policy.contract.action_dim
            if rows.ndim != 2 or rows.shape[1] != width:
                raise ValueError(f"a motion of this policy is (frames, {width}) numbers, not {rows.shape}: give such")
            offsets = offsets_of(self.body, self.policy.usual_state())
            motion = Moves(rows=rows, body=self.body, offsets=offsets, rate_hz=self.policy.contract.fps, text=text)
        verdict = self.rejection.critic.judge(motion, text or None)
        return verdict.is_safe, verdict
