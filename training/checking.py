"""What can be said of a run before it is started, for --dry-run: no run is begun and nothing downloaded."""

import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from training import forgetting, launching
from training.config import RunConfig
from training.opening import check_adapted, check_begins, check_fresh, check_preserving
from training.rehearsal import rehearse
from training.run.sizes import with_suited_sizes
from vla.contract import DataContract
from vla.data.dataset import agree_on_readers, open_root
from vla.data.mixture import check_config
from vla.parts.backbone import NAMED, check_checkpoint, folder_of, kind_of, resolve, width_of
from vla.parts.demands import check_demands
from vla.run_folder import BEST
from vla.settings import DataConfig


def check(config: RunConfig, environment: Mapping[str, str]) -> list[str]:
    """What was checked, a line each, and what only a start can tell.

    Raises:
        ValueError: the run would be refused.
        CorruptData: the metadata of its data are damaged.
    """
    launching.check(environment, ignore_cluster=config.ignore_cluster)
    ranks = int(environment.get("WORLD_SIZE") or 1)
    config.check_batch(ranks)
    check_places(config)
    check_adapted(config)
    check_begins(config, config.init_from)
    check_preserving(config)
    config, decided = forgetting.rehearsed(config)
    lines, contract = data(config.data, config.seed)
    kind = backbone(config, contract)
    if config.init_from is None and config.resume_from is None:
        check_fresh(config, contract)
    if config.init_from is None and is_here(config.backbone.path):
        with_suited_sizes(config, contract, width_of(config.backbone.path))
    rehearsed = rehearse(config) if contract.body is not None and is_here(config.backbone.path) else []
    shares = f"{config.share(ranks)} x {launching.counted(ranks, 'rank', 's')}, as many at once as fit"
    if config.micro_batch != "auto":
        accumulation = config.accumulation(ranks)
        shares = f"{config.micro_batch} x {launching.counted(ranks, 'rank', 's')} x {accumulation} accumulated"
    return [
        f"batch: {config.batch_size} samples = {shares}",
        *decided,
        *lines,
        f"backbone: {kind}",
        *rehearsed,
        "not checked: the weights; a start reads them"
        if rehearsed
        else "not checked: the numbers and videos of the data, and the weights; a start reads them",
    ]


def check_places(config: RunConfig) -> None:
    """Refuse a run folder that cannot be written or holds another run, and weights that are not there (ValueError)."""
    out = Path(config.out)
    nearest = next(place for place in (out, *out.absolute().parents) if os.path.lexists(place))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"--out {out} cannot be written ({nearest}); give a folder that can")
    if config.resume_from is None and (out / "metrics.jsonl").exists():
        raise ValueError(f"{out} already holds a run; go on with --resume-from auto, or choose another --out")
    for flag, place in (("--init-from", config.init_from), ("--resume-from", config.resume_from)):
        there = place in (None, "auto") or Path(str(place)).is_dir()
        if not there and not (Path(str(place)).name == BEST and (Path(str(place)).parent / "checkpoints").is_dir()):
            raise ValueError(f"{flag} {place} is not a folder; give a run, a checkpoint or, to begin with, a policy")


def data(config: DataConfig, seed: int) -> tuple[list[str], DataContract]:
    """The roots as their metadata describe them, and what they have in common."""
    check_config(config)
    agreed = agree_on_readers(config, seed, open_root)
    lines = [
        f"data: {root}, {reader.layout.format}, {len(reader.episodes)} episodes"
        for root, reader in zip(config.roots, agreed.readers, strict=True)
    ]
    return lines + [f"data: {remark}" for remark in agreed.remarks], agreed.contract


def backbone(config: RunConfig, contract: DataContract) -> str:
    """Which one, and of what kind as far as that is known here.

    Raises:
        ValueError: it is no complete checkpoint of a kind that is taken, or cannot do what the run demands.
    """
    path = config.backbone.path
    if is_here(path):
        kind = check_checkpoint(resolve(path))
        kind.reading(resolve(path), config.backbone.pooling)
        check_demands(config.backbone, config.encoders, contract, config.opened)
        return f"{path}, {kind.words}" + (f" ({NAMED[path].source.content})" if path in NAMED else "")
    file = try_to_load_from_cache(path, "config.json")
    if isinstance(file, str):
        return f"{path} of the local cache, {kind_of(Path(file).parent).words}"
    return f"{path}, not here yet: of what kind it is shows after the download"


def is_here(path: str) -> bool:
    """Whether a backbone's files can be had without a download."""
    return path in NAMED or folder_of(path) is not None
