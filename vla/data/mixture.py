"""Several roots as one source of training data: the configuration, what the roots must agree on, the split."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla.contract import SENSOR, DataContract, told_body
from vla.data.agreement import agree_on_names, agree_on_units, apart
from vla.data.angles import parse_angles
from vla.data.dimensions import parse_dimensions
from vla.data.emphasis import parse_condition
from vla.data.episode import Episode, Layout
from vla.data.facts import parse_words, some, value_of
from vla.data.roles import check_text
from vla.data.streams import agree_on_streams, check_asked, parse_each
from vla.depth import parse_depth
from vla.randomness import derive
from vla.settings import DataConfig
from vla.units import units_of


def check_config(config: DataConfig) -> None:
    """Refuse a configuration that no data could satisfy (ValueError)."""
    if not config.roots:
        raise ValueError("no data was given: name at least one dataset folder with --data.roots DIR")
    seen: dict[Path, str] = {}
    for root in config.roots:
        path = Path(root).resolve()
        if path in seen:
            raise ValueError(
                f"{root} is given twice in --data.roots (as {seen[path]}): give it once, with --data.weights"
            )
        seen[path] = root
    if config.motion.pictures and len(config.roots) > 1:
        raise ValueError(
            "--data.motion.pictures numbers the clips of one list, and several --data.roots were given: give one list"
        )
    if config.weights and len(config.weights) != len(config.roots):
        raise ValueError(
            f"{len(config.weights)} weights were given for {len(config.roots)} roots: "
            "give one number a root with --data.weights, or none"
        )
    for name, value, least in (
        ("horizon", config.horizon, 1),
        ("quarantine", config.quarantine, 0),
        ("workers", config.workers, 0),
    ):
        if value < least:
            raise ValueError(f"--data.{name} is {value}, expected at least {least}")
    for name, number in (
        *(("weights", weight) for weight in config.weights),
        ("sensor-weight", config.sensor_weight),
    ):
        if not 0 < number < float("inf"):
            raise ValueError(f"--data.{name} has {number:g}, expected a finite number > 0")
    if not 0 <= config.retarget <= 1:
        raise ValueError(f"--data.retarget is {config.retarget:g}, expected a share from 0 to 1")
    if not 0 <= config.validation_share < 1:
        raise ValueError(f"--data.validation-share is {config.validation_share:g}, expected 0 <= share < 1")
    check_asked(config.sensor)
    parse_each(config.sensor_samples, "sensor-samples", whole=True)
    parse_each(config.sensor_rate_hz, "sensor-rate-hz")
    parse_dimensions(config.dims)
    parse_angles(config.angles)
    parse_depth(config.depth)
    check_emphasis(config)
    check_balance(config)
    config.check_roles()
    parse_words(config.where, "--data.where")
    parse_words(config.near, "--data.near")
    check_text(config)
    check_drawing(config)


def check_drawing(config: DataConfig) -> None:
    """Refuse ways to draw and to split that exclude one another (ValueError)."""
    flags = {"--data.preserve": config.preserve > 0, "--data.sampling trials": config.sampling == "trials"}
    for flag, given in flags.items():
        if given and config.emphasis:
            raise ValueError(
                f"{flag} decides how often each sample is drawn, and so does --data.emphasis: leave one of them out"
            )
    if config.split_by and not config.validation_share:
        raise ValueError(
            f"--data.split-by {config.split_by} says what is held out together, and --data.validation-share 0 holds "
            "nothing out: leave one of them out"
        )


def check_balance(config: DataConfig) -> None:
    """Refuse shares that a balance takes the place of (ValueError)."""
    for flag, given in (("weights", config.weights), ("emphasis", config.emphasis)):
        if config.balance and given:
            raise ValueError(
                f"--data.balance {config.balance} decides how often each sample is drawn, and so does --data.{flag}: "
                "leave one of them out"
            )


def check_emphasis(config: DataConfig) -> None:
    """Refuse an emphasis that says nothing (ValueError)."""
    if not 0 < config.emphasis_share < 1:
        raise ValueError(f"--data.emphasis-share is {config.emphasis_share:g}, expected 0 < share < 1")
    if config.emphasis:
        parse_condition(config.emphasis)
    elif config.emphasis_share != DataConfig.emphasis_share:
        raise ValueError(
            f"--data.emphasis-share {config.emphasis_share:g} says how many frames --data.emphasis gives, which is "
            "missing: say which frames, e.g. --data.emphasis 'phase == 1'"
        )


def agree(layouts: Sequence[Layout], config: DataConfig) -> DataContract:
    """What all roots give, as one contract. ValueError names the two roots that cannot be mixed, and the difference."""
    first = layouts[0]
    for layout in layouts[1:]:
        _check_same(first, layout, "frames per second", first.fps, layout.fps)
        _check_same(first, layout, "state values", first.state_dim, layout.state_dim)
        _check_same(first, layout, "action values", first.action_dim, layout.action_dim)
    roots = [layout.root for layout in layouts]
    ordered = "give both one order by name with --data.dims"
    action_names = agree_on_names("action names", roots, [layout.action_names for layout in layouts], ordered)
    state_names = agree_on_names("state names", roots, [layout.state_names for layout in layouts], ordered)
    action_units = agree_on_units(
        "action units", roots, [units_of(layout.action_names, layout.action_units) for layout in layouts]
    )
    state_units = agree_on_units(
        "state units", roots, [units_of(layout.state_names, layout.state_units) for layout in layouts]
    )
    for layout in layouts[1:]:
        _check_same(first, layout, "angle periods", first.action_periods, layout.action_periods)
    for layout in layouts[1:]:
        _check_same(first, layout, "body", told_body(first.body), told_body(layout.body))
    contract = DataContract(
        body=first.body,
        cameras=_agree_on_cameras(layouts, config),
        state_dim=first.state_dim,
        action_dim=first.action_dim,
        horizon=config.horizon,
        fps=first.fps,
        streams=agree_on_streams(layouts, config),
        state_names=state_names,
        action_names=action_names,
        state_units=state_units,
        action_units=action_units,
        action_periods=first.action_periods or (0.0,) * first.action_dim,
        instructed="instruction" not in config.withhold,
        state_key=config.state_key,
        action_key=config.action_key,
        dims=config.dims,
        depth={camera: shown for layout in layouts for camera, shown in layout.depth.items()},
    )
    present = {"actions": True, "state": contract.state_dim > 0, SENSOR: bool(contract.streams)}
    if absent := [stream for stream in config.compand if not present[stream]]:
        raise ValueError(f"--data.compand names {' and '.join(absent)}, which the policy is not given: leave that out")
    return contract


def _check_same(first: Layout, layout: Layout, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ValueError(apart(first.root, layout.root, what, (_shown(ours), _shown(theirs))))


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _agree_on_cameras(layouts: Sequence[Layout], config: DataConfig) -> tuple[str, ...]:
    """The cameras of a sample, in order; the readers have already chosen those of --data.cameras."""
    cameras = tuple(dict.fromkeys(camera for layout in layouts for camera in layout.cameras))
    for layout in layouts:
        missing = [camera for camera in cameras if camera not in layout.cameras]
        if missing and config.missing_cameras == "refuse":
            raise ValueError(
                f"{layout.root} has no camera {', '.join(missing)} but {', '.join(layout.cameras) or 'none'}: choose "
                "common ones with --data.cameras, or train on black frames with --data.missing-cameras mask"
            )
    return cameras


def split(num_episodes: Sequence[int], share: float, seed: int) -> tuple[tuple[int, ...], ...]:
    """Of each root, the places (0, 1, ... among its episodes) held out for validation: whole episodes, never samples.

    Pure in (seed, root's place, number of episodes): the same data in another format or folder is split alike. With a
    share above 0 at least one episode is held out, and each root keeps at least one to train on.

    ValueError when no root has two.
    """
    wanted = [max(0, min(number - 1, round(share * number))) for number in num_episodes]
    if share > 0 and not any(wanted):
        largest = int(np.argmax(num_episodes))
        if num_episodes[largest] < 2:
            raise ValueError(
                "a single episode cannot be split into training and validation: give more, or train without validation "
                "with --data.validation-share 0"
            )
        wanted[largest] = 1
    return tuple(
        tuple(sorted(derive(seed, "split", root).permutation(number)[:count].tolist()))
        for root, (number, count) in enumerate(zip(num_episodes, wanted, strict=True))
    )


def split_by(
    episodes: Sequence[Sequence[Episode]], fact: str, share: float, seed: int
) -> tuple[tuple[tuple[int, ...], ...], str]:
    """Of each root, the places of the episodes with the held-out values of a fact, and a sentence on these values.

    They follow from the seed and their names, so that most stay when others come.

    ValueError where an episode lacks the fact, or there is but one value.
    """
    values = [[value_of(episode, fact, "--data.split-by") for episode in root] for root in episodes]
    names = {value for root in values for value in root}
    if len(names) < 2:
        raise ValueError(
            f"every episode has the {fact} {next(iter(names))}, so --data.split-by {fact} cannot hold one out: leave "
            "it out, which splits by trial"
        )
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())[:count]
    places = tuple(tuple(place for place, value in enumerate(root) if value in held) for root in values)
    return places, f"held out for validation, {count} of {len(names)} of {fact}: {some(sorted(held))}"
