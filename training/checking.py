"""What can be said of a run before it is started, for --dry-run: no run is begun and nothing downloaded."""

import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from training import launching
from training.config import RunConfig
from training.run.sizes import with_suited_sizes
from vla.contract import DataContract
from vla.data.dataset import agree_on_readers, open_root
from vla.data.mixture import check_config
from vla.parts import tiny
from vla.parts.backbone import check_checkpoint, folder_of, kind_of, width_of
from vla.parts.qwen import MODEL_TYPE
from vla.settings import BackboneConfig, DataConfig


def check(config: RunConfig, environment: Mapping[str, str]) -> list[str]:
    """What was checked, a line each, and what only a start can tell.

    Raises:
        ValueError: the run would be refused.
        CorruptData: the metadata of its data are damaged.
    """
    launching.check(environment, ignore_cluster=config.ignore_cluster)
    ranks = int(environment.get("WORLD_SIZE") or 1)
    accumulation = config.accumulation(ranks)
    check_places(config)
    lines, contract = data(config.data, config.seed)
    kind = backbone(config.backbone)
    if config.init_from is None and (width := width_here(config.backbone.path)) is not None:
        with_suited_sizes(config, contract, width)
    shares = f"{config.micro_batch} x {launching.counted(ranks, 'rank', 's')} x {accumulation} accumulated"
    return [
        f"batch: {config.batch_size} samples = {shares}",
        *lines,
        f"backbone: {kind}",
        "not checked: the numbers and videos of the data, and the weights; a start reads them",
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
        if place not in (None, "auto") and not Path(str(place)).is_dir():
            raise ValueError(f"{flag} {place} is not a folder; give a run, a checkpoint or, to begin with, a policy")


def data(config: DataConfig, seed: int) -> tuple[list[str], DataContract]:
    """The roots as their metadata describe them, and what they have in common."""
    check_config(config)
    agreed = agree_on_readers(config, seed, open_root)
    lines = [
        f"data: {root}, {reader.layout.format}, {len(reader.episodes)} episodes"
        for root, reader in zip(config.roots, agreed.readers, strict=True)
    ]
    return lines, agreed.contract


def backbone(config: BackboneConfig) -> str:
    """Which one, and of what kind as far as that is known here.

    Raises:
        ValueError: it is no complete Qwen2.5-VL checkpoint.
    """
    if config.path == "tiny":
        return "tiny, random weights for tests"
    if (folder := folder_of(config.path)) is not None:
        check_checkpoint(folder)
        return f"{folder}, {MODEL_TYPE}"
    file = try_to_load_from_cache(config.path, "config.json")
    if isinstance(file, str):
        kind_of(Path(file).parent)
        return f"{config.path} of the local cache, {MODEL_TYPE}"
    return f"{config.path}, not here yet: of what kind it is shows after the download"


def width_here(path: str) -> int | None:
    """Width of a backbone's language model; None where its configuration is not here."""
    if path == "tiny":
        return int(tiny.CONFIG["text_config"]["hidden_size"])
    return None if folder_of(path) is None else width_of(path)
