"""A policy that acts once for each line it is given, for acting.py: of whichever version `vla` is found in.

    python tests/benchmarks/acting_worker.py needle POLICY       lines are samplers and calls, `ab2 4`
    python tests/benchmarks/acting_worker.py large BACKBONE      lines are `changing` or `still`: the cameras' frames
    python tests/benchmarks/acting_worker.py large_before BACKBONE     the same, of commit a3da51d

Prints the seconds that the process had cores for. The large policy is random, over a backbone of 77 million parameters.
"""

import dataclasses
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

VIEWS, PIXELS, STATE, ACTIONS, HORIZON, SAMPLES, CHANNELS = 3, 224, 8, 7, 16, 50, 6
WORDS = "pick up the red cube and place it in the blue bowl then open the drawer take out the bottle and close it again"
RATE_HZ = 1000.0
SIZES: dict[str, int] = {"width": 256, "depth": 4, "heads": 8}
"""Of the expert."""


def drawn(*shape: int) -> np.ndarray:
    """Numbers as of some data."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def frames(seed: int) -> tuple[torch.Tensor, ...]:
    """What the cameras show."""
    source = np.random.default_rng(seed)
    return tuple(torch.from_numpy(source.integers(0, 256, (3, PIXELS, PIXELS), np.uint8)) for _ in range(VIEWS))


def shape_of_data() -> dict[str, Any]:
    """What contracts of both versions say alike."""
    cameras = tuple(f"observation.images.{view}" for view in range(VIEWS))
    names, periods = tuple("xyzabcg"), (0.0,) * ACTIONS
    return {
        "cameras": cameras,
        "state_dim": STATE,
        "action_dim": ACTIONS,
        "horizon": HORIZON,
        "fps": 30.0,
        "state_names": (),
        "action_names": names,
        "action_periods": periods,
    }


def large(backbone: str) -> tuple[Any, Any]:
    """A random policy as it acts today, and an observation."""
    from tests.policies import build_policy
    from vla.adapter_settings import LoraConfig
    from vla.assembling import fold_backbone
    from vla.batch import Observation, Readings
    from vla.contract import DataContract, StreamContract
    from vla.parts import Encoders
    from vla.policy_settings import PolicyConfig
    from vla.settings import BackboneConfig, ExpertConfig
    from vla.statistics import fit

    stream = StreamContract(key="observation.wrench", channels=CHANNELS, samples=SAMPLES, rate_hz=RATE_HZ)
    contract = DataContract(**shape_of_data(), streams={"sensor": stream})
    config = PolicyConfig(
        backbone=BackboneConfig(path=backbone), encoders=Encoders(), expert=ExpertConfig(**SIZES), lora=LoraConfig()
    )
    widths = {"actions": ACTIONS, "state": STATE, "sensor": CHANNELS}
    fitted = {name: fit(drawn(200, width), [0.0] * width) for name, width in widths.items()}
    policy = build_policy(config, contract, fitted, torch.float32, 0)
    fold_backbone(policy)
    felt = Readings(
        values=torch.from_numpy(drawn(1, SAMPLES, CHANNELS)), valid=torch.ones(1, SAMPLES, dtype=torch.bool)
    )
    return policy, Observation(**seen(), streams={"sensor": felt})


def large_before(backbone: str) -> tuple[Any, Any]:
    """The same at commit a3da51d."""
    from vla.backbone import BackboneConfig
    from vla.expert import ExpertConfig
    from vla.lora import LoraConfig

    from vla.batch import DataContract, Observation
    from vla.normalize import fit
    from vla.policy import PolicyConfig, build_policy

    sensor = {"sensor": "observation.wrench", "sensor_channels": CHANNELS, "sensor_samples": SAMPLES}
    contract = DataContract(**shape_of_data(), **sensor, sensor_rate_hz=RATE_HZ)
    config = PolicyConfig(backbone=BackboneConfig(path=backbone), expert=ExpertConfig(**SIZES), lora=LoraConfig())
    widths = {"actions": ACTIONS, "state": STATE, "sensor": CHANNELS}
    fitted = {name: fit(drawn(200, width), [0.0] * width) for name, width in widths.items()}
    felt = {
        "sensor": torch.from_numpy(drawn(1, SAMPLES, CHANNELS)),
        "sensor_valid": torch.ones(1, SAMPLES, dtype=torch.bool),
    }
    return build_policy(config, contract, fitted, torch.float32, 0), Observation(**seen(), **felt)


def seen() -> dict[str, Any]:
    """What observations of both versions hold alike."""
    return {
        "images": (frames(0),),
        "image_valid": torch.ones(1, VIEWS, dtype=torch.bool),
        "instructions": (WORDS,),
        "state": torch.from_numpy(drawn(1, STATE)),
    }


def acting_large(policy: Any, observation: Any) -> Callable[[str], None]:
    """What each line asks for; the frames of a line are made before its clock starts."""
    policy.set_mode(training=False)
    noise = torch.from_numpy(drawn(1, HORIZON, ACTIONS))
    shown = [observation]

    def act(_: str) -> None:
        policy.act(shown[0], noise)

    def prepare(line: str) -> None:
        if line == "changing":
            shown[0] = dataclasses.replace(observation, images=(frames(time.monotonic_ns()),))

    return timed(act, prepare)


def acting_needle(folder: str) -> Callable[[str], None]:
    """The policy of a folder on one observation of the needle, as it acts in this version."""
    from vla.environment import observe
    from vla.evaluation.environments import open_environment
    from vla.policy_folder import load_policy
    from vla.policy_settings import Sampling

    folded = {"fold": True} if "fold" in inspect.signature(load_policy).parameters else {}
    policy = load_policy(Path(folder), **folded)
    policy.set_mode(training=False)
    environment = open_environment("needle", policy.contract, (), 100)
    observation = observe([environment.reset(seed=5)[0]], policy.contract)
    environment.close()
    noise = torch.from_numpy(drawn(1, policy.contract.horizon, policy.contract.action_dim))

    def act(line: str) -> None:
        policy.act(observation, noise, int(line.split()[1]))

    def prepare(line: str) -> None:
        policy.sample_by(Sampling(sampler=line.split(maxsplit=1)[0]))
        policy.set_mode(training=False)  # the frame counts as another one

    return timed(act, prepare)


def timed(act: Callable[[str], None], prepare: Callable[[str], None]) -> Callable[[str], None]:
    """Prints what acting takes, without its preparation."""

    def once(line: str) -> None:
        prepare(line)
        began = time.process_time()
        act(line)
        print(time.process_time() - began, flush=True)

    return once


def main() -> None:
    torch.set_num_threads(1)
    kind, place = sys.argv[1:]
    makers = {"large": large, "large_before": large_before}
    act = acting_needle(place) if kind == "needle" else acting_large(*makers[kind](place))
    for line in sys.stdin:
        act(line.strip())


if __name__ == "__main__":
    main()
