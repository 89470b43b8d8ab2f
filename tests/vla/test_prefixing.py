"""The prefix cache of a data set: what its records depend on, and that they say what is computed without them."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policies import build_policy
from vla.batch import Batch, collate
from vla.data.dataset import Dataset, open_dataset
from vla.data.shelf import Pictures, Shelf
from vla.packed import Packing
from vla.parts import Encoders
from vla.parts.backbone import fingerprint, load_backbone
from vla.parts.qwen import QwenVL
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.prefix.store import FORMAT
from vla.prefix_building import build
from vla.prefix_settings import Door, Precision, PrefixConfig
from vla.prefixing import Asked, count_of, part_of, plan, precision_of, roots_of
from vla.settings import BackboneConfig, DataConfig, ExpertConfig, SensorConfig

CPU = torch.device("cpu")
GOLDEN = {
    "vision": (0.25264, 0.25844, 0.74589, 0.54686),
    "layer-1": (-2.52219, 1.05012, -3.06969, 1.15971),
    "context": (-1.48577, 0.38021, -1.97284, 0.78935),
}
"""Of the first frame or sample of the needle: two numbers of its first row, one of its last, the mean magnitude."""


def opened(needle: Path, **changes: Any) -> Dataset:
    return open_dataset(DataConfig(roots=(str(needle),), **changes), seed=0)


def backbone_of(dtype: torch.dtype = torch.float32, **changes: Any) -> QwenVL:
    found = load_backbone(BackboneConfig(**changes), dtype)
    assert isinstance(found, QwenVL)
    return found


def asked(place: Path, door: Door, backbone: QwenVL, precision: Precision = "fp32", **changes: Any) -> Asked:
    own = fingerprint(backbone.config.path)
    content = {"door": door, "precision": precision, "backbone": backbone, "fingerprint": own, "place": place}
    return Asked(**content | {"data": DataConfig()} | changes)


def shelved(data: Dataset, wanted: Asked) -> dict[str, Shelf]:
    """All that is asked for of the data, made."""
    (root,) = roots_of(data)
    found = plan(root, wanted)
    told: list[int] = []
    build(found, found.missing(), CPU, told.append)
    assert sum(told) == count_of(found.stretches)
    assert not found.missing()
    return {root[0].reader.layout.root: found.shelf}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_rows_come_back_as_precisely_as_they_are_kept(precision: Precision) -> None:
    rows = (
        torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
    )
    rows[1, 2] = 0
    packing = Packing(precision=precision, width=8)
    packed = packing.pack(rows)
    assert packed.shape == (3, 5, packing.row_bytes)
    back = packing.unpack(packed, torch.float32)
    largest = rows.abs().amax(-1, keepdim=True)
    within = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.5001 / 127}[precision]
    assert bool(((back - rows).abs() <= within * (rows.abs() if precision == "bf16" else largest)).all())
    if precision == "bf16":
        half = rows.bfloat16()
        assert torch.equal(packing.unpack(packing.pack(half), torch.bfloat16), half)


def test_precision_follows_the_arithmetic() -> None:
    assert [precision_of(PrefixConfig(), dtype) for dtype in (torch.float32, torch.bfloat16)] == ["fp32", "bf16"]
    assert precision_of(PrefixConfig(precision="int8"), torch.float32) == "int8"


def key(data: Dataset, wanted: Asked) -> str:
    return plan(roots_of(data)[0], wanted).shelf.store.folder.name


def test_a_record_depends_on_all_that_it_is_made_of_and_not_on_where_it_lies(needle: Path, tmp_path: Path) -> None:
    few, place, backbone = opened(needle, episodes=(0, 1)), tmp_path / "cache", backbone_of()
    context, vision = Door(name="context"), Door(name="vision")
    copied = shutil.copytree(needle, tmp_path / "elsewhere")
    first = asked(place, context, backbone)
    assert key(opened(copied, episodes=(0, 1)), first) == key(few, first)
    video = next(copied.rglob("*.mp4"))
    content = bytearray(video.read_bytes())
    content[-1] ^= 1
    small = backbone_of(max_pixels=12544)
    keys = [
        key(few, first),
        key(few, asked(place, vision, backbone)),
        key(few, asked(place, Door(name="frames"), backbone)),
        key(few, asked(place, Door(name="layer", layer=1), backbone)),
        key(few, asked(place, context, backbone, "bf16")),
        key(few, asked(place, context, backbone, fingerprint="another")),
        key(few, asked(place, context, small)),
        key(few, asked(place, context, backbone_of(torch.bfloat16), "fp32")),
        key(few, asked(place, context, backbone_of(output="mean"))),
        key(opened(needle, episodes=(0, 1), text="Do it."), first),
        key(opened(needle, episodes=(0, 1), withhold=("instruction",)), first),
        key(opened(needle, episodes=(0, 2)), first),
        key(opened(needle, episodes=(0, 1), cameras=("front",)), first),
    ]
    video.write_bytes(content)
    keys.append(key(opened(copied, episodes=(0, 1)), first))
    assert len(set(keys)) == len(keys)
    numbered = asked(place, vision, backbone, data=DataConfig(pairing="number"))
    assert key(few, numbered) not in keys
    words = key(opened(needle, episodes=(0, 1), text="Do it."), asked(place, vision, backbone))
    assert words == keys[1], "the vision tower reads no words"


def test_golden_features(needle: Path, tmp_path: Path) -> None:
    """Where these change, raise vla.prefix.store.FORMAT: what was kept before is of no use any more."""
    assert FORMAT == 1
    data, backbone = opened(needle, episodes=(0, 1)), backbone_of()
    for door in (Door(name="vision"), Door(name="layer", layer=1), Door(name="context")):
        (shelf,) = shelved(data, asked(tmp_path, door, backbone)).values()
        part = data.train.on({str(needle): shelf}).parts[0]
        sample = part.read(0, 0)
        rows = next(iter(sample.images[0].values())) if sample.prefix is None else sample.prefix.rows  # type: ignore[union-attr]
        values = Packing(precision="fp32", width=backbone.width).unpack(torch.from_numpy(rows), torch.float32)
        found = (*values[0, :2].tolist(), float(values[-1, 0]), float(values.abs().mean()))
        assert found == pytest.approx(GOLDEN[str(door)], abs=2e-4), door


@pytest.fixture(scope="module")
def few(needle: Path) -> Dataset:
    return opened(needle, episodes=(0, 1))


@pytest.fixture(scope="module")
def policy(few: Dataset) -> Policy:
    config = PolicyConfig(
        encoders=Encoders(sensor=SensorConfig(width=16, heads=2)), expert=ExpertConfig(width=32, depth=2, heads=2)
    )
    found = build_policy(config, few.contract, few.statistics, torch.float32, 0)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "modulation" in name:  # it begins as zeros, and the context would count for nothing
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    found.set_mode(training=False)
    return found


LONG = "Insert the needle, slowly, and stop as soon as the force rises."


def batch_of(data: Dataset, places: Sequence[int], shelves: dict[str, Shelf] | None, policy: Policy) -> Batch:
    """Samples of the data; the second is the shorter one of each batch."""
    samples = data.train.resized(policy.sizes) if shelves is None else data.train.on(shelves)
    return collate([samples[place] for place in places], 0, "noise")


DOORS: list[tuple[Door, Precision, float]] = [
    (Door(name="frames"), "fp32", 0.0),
    (Door(name="vision"), "fp32", 0.0),
    (Door(name="vision"), "bf16", 1e-3),
    (Door(name="vision"), "int8", 1e-2),
    (Door(name="layer", layer=1), "fp32", 1e-5),
    (Door(name="context"), "fp32", 1e-5),
    (Door(name="context"), "int8", 1e-2),
]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=f"{row[0]} {row[1]}", marks=[pytest.mark.deep] if row[1] == "int8" else []) for row in DOORS],
)
def test_losses_from_the_cache_are_those_that_are_computed(
    few: Dataset, policy: Policy, tmp_path: Path, row: tuple[Door, Precision, float]
) -> None:
    door, precision, within = row
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    shelves = shelved(few, asked(tmp_path, door, backbone, precision))
    watched: list[int] = []
    hook = backbone.plain.model.visual.register_forward_hook(lambda *_: watched.append(1))
    places = list(range(6))
    with torch.no_grad():
        computed = policy(batch_of(few, places, None, policy))
        looks = len(watched)
        kept = policy(batch_of(few, places, shelves, policy))
    hook.remove()
    assert looks == 1
    assert len(watched) == looks + (door.name == "frames")
    for part, values in computed.items():
        difference = ((kept[part] - values).abs() / values.abs()).max()
        assert float(difference) <= within, part


def test_a_prefix_does_not_depend_on_its_batch(needle: Path, policy: Policy, tmp_path: Path) -> None:
    """A sample that is not the longest of its batch is padded where it is computed, and where it is read."""
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    data = [opened(needle, episodes=(0, 1), text=text) for text in ("Go.", LONG)]
    for door in (Door(name="layer", layer=1), Door(name="context")):
        batches = []
        for shelves in (None, [shelved(own, asked(tmp_path, door, backbone)) for own in data]):
            samples = [
                own.train.resized(policy.sizes)[3] if shelves is None else own.train.on(shelves[index])[3]
                for index, own in enumerate(data)
            ]
            batches.append(collate(samples, 0, "noise"))
        with torch.no_grad():
            computed, kept = (policy(batch) for batch in batches)
        for part, values in computed.items():
            torch.testing.assert_close(kept[part], values, rtol=1e-5, atol=0)


def test_what_cannot_be_read_is_left_out_as_without_a_cache(needle: Path, policy: Policy, tmp_path: Path) -> None:
    copied = shutil.copytree(needle, tmp_path / "data")
    video = next(path for path in sorted(copied.rglob("*.mp4")) if "front" in str(path))
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    video.write_bytes(content)
    data = open_dataset(DataConfig(roots=(str(copied),), quarantine=1000, episodes=(4, 5, 6)), seed=0)
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    void = [index for index in range(len(data.everything)) if data.everything.fault(index) is not None]
    assert 0 < len(void) < len(data.everything)
    for door in (Door(name="vision"), Door(name="context")):
        (root,) = roots_of(data)
        found = plan(root, asked(tmp_path / "cache", door, backbone))
        build(found, found.missing(), CPU, lambda _: None)
        samples = data.everything.on({str(copied): found.shelf})
        whole = next(index for index in range(len(samples)) if index not in void)
        batch = collate([samples[void[0]], samples[whole]], 0, "noise")
        assert batch.weight.tolist() == [0.0, 2.0]
        with torch.no_grad():
            assert all(bool(loss.isfinite().all()) for loss in policy(batch).values())


def test_what_is_held_out_decides_nothing(needle: Path, policy: Policy, tmp_path: Path) -> None:
    """Other episodes for validation find the same records in the same places."""
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    wanted = asked(tmp_path, Door(name="context"), backbone)
    plans = []
    for seed in (0, 1):
        data = open_dataset(DataConfig(roots=(str(needle),), episodes=(0, 1, 2), validation_share=0.4), seed=seed)
        plans.append((data, plan(roots_of(data)[0], wanted)))
    (first, own), (second, other) = plans
    held = [[episode.index for episode in data.validation.episodes()[0]] for data in (first, second)]
    assert held[0] != held[1]
    assert own.shelf.store.folder == other.shelf.store.folder
    assert own.shelf.starts == other.shelf.starts
    assert [(s.episode.index, s.first, s.places.tolist()) for s in own.stretches] == [
        (s.episode.index, s.first, s.places.tolist()) for s in other.stretches
    ]


def test_a_build_that_was_stopped_goes_on(few: Dataset, policy: Policy, tmp_path: Path) -> None:
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    (root,) = roots_of(few)
    wanted = asked(tmp_path, Door(name="vision"), backbone)
    first = plan(root, wanted)
    build(first, [first.missing()[1].cut(0, 12), first.missing()[2].cut(3, 11)], CPU, lambda _: None)
    kept = {record: first.shelf.store.read(record).tobytes() for record in first.shelf.store.there().tolist()}
    assert len(kept) == 20
    again = plan(root, wanted)
    left = count_of(again.missing())
    assert left == count_of(again.stretches) - 20
    parts = [part_of(again.missing(), part, 3) for part in range(3)]
    assert [count_of(part) for part in parts] == [left * (part + 1) // 3 - left * part // 3 for part in range(3)]
    records = [own.first + int(place) for part in parts for own in part for place in own.places]
    assert sorted(records) == [own.first + int(place) for own in again.missing() for place in own.places]
    build(again, again.missing(), CPU, lambda _: None)
    assert all(again.shelf.store.read(record).tobytes() == content for record, content in kept.items())
    assert not again.missing()


def test_frames_of_two_sizes_are_refused(few: Dataset, policy: Policy, tmp_path: Path) -> None:
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL)
    (root,) = roots_of(few)
    found = plan(root, asked(tmp_path, Door(name="vision"), backbone))
    assert isinstance(found.shelf.kind, Pictures)
    wrong = replace(
        found,
        shelf=replace(
            found.shelf, kind=replace(found.shelf.kind, shapes=dict.fromkeys(few.contract.cameras, (28, 28)))
        ),
    )
    with pytest.raises(ValueError, match=r"frames of observation.images.* come in sizes .* leave --cache.door out"):
        build(wrong, found.missing()[:1], CPU, lambda _: None)


def test_turns_of_instructions_are_refused(few: Dataset) -> None:
    parts = [replace(part, renamed=("one", "two")) for part in few.train.parts]
    with pytest.raises(ValueError, match="keeps one prefix a frame, and --data.renamed gives it several"):
        roots_of(replace(few, train=type(few.train)(parts, few.train._order)))
