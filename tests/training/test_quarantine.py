"""What is left out is the same on every rank, is recorded once, stays within its budget, and counts for nothing."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes import FakeRoot, opener
from tests.policies import build_policy
from training import distributed
from training.feeding.loading import batches
from training.run import left_out as quarantine
from training.run.left_out import LeftOut, num_void, void_positions
from vla.batch import Batch, Sample, collate
from vla.data.dataset import Dataset, TrainSamples, open_dataset
from vla.errors import CorruptData
from vla.lines import read_lines
from vla.parts import Encoders
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig, DataConfig, ExpertConfig, SensorConfig

ALONE: Any = SimpleNamespace(num_processes=1, is_main_process=True, process_index=0)


def opened(*broken: int, budget: int = 100) -> Dataset:
    open_reader = opener(FakeRoot(lengths=(30, 30, 30, 30), broken_frames=broken))
    return open_dataset(DataConfig(roots=("root",), quarantine=budget), 0, open_reader)


def batch_of(samples: TrainSamples, positions: Sequence[int]) -> Batch:
    return collate([samples[position] for position in positions], 0, "noise")


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def positions_of(samples: TrainSamples, frame: int) -> list[int]:
    """Where a frame stands in the first epoch."""
    return [position for position in range(samples.num_samples) if samples.locate(position)[1] == frame]


def test_void_samples_are_counted_and_found() -> None:
    samples = opened(7).train
    void = positions_of(samples, 7)
    both = [batch_of(samples, range(20)), batch_of(samples, range(20, 90))]
    assert num_void(both) == 3
    assert void_positions(both) == void
    assert num_void([batch_of(samples, [void[0]] * 4)]) == 4
    assert void_positions([batch_of(samples, [void[0]] * 4)]) == void[:1]
    assert num_void([]) == 0


def test_each_is_recorded_once_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = opened(7).train
    void = positions_of(samples, 7)
    record = LeftOut(tmp_path, 3, samples, active=True)
    assert not (tmp_path / "quarantine.jsonl").exists()
    record.settle(ALONE, [batch_of(samples, void[:2])], step=4)
    record.settle(ALONE, [batch_of(samples, [void[0], *range(3), void[2]])], step=9)
    # The next epoch has the same samples at other positions.
    again = [p for p in range(samples.num_samples, 2 * samples.num_samples) if samples.locate(p)[1] == 7]
    record.settle(ALONE, [batch_of(samples, again)], step=20)
    reason = "observation.images.front, frame 7: front.mp4 cannot be decoded"
    expected = [
        {
            "episode": samples.locate(position)[0],
            "frame": 7,
            "position": position,
            "step": step,
            "held_out": False,
            "reason": f"{samples.locate(position)[0]}, {reason}",
        }
        for position, step in zip(void, (4, 4, 9), strict=True)
    ]
    assert lines(tmp_path) == expected
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[2] == f"left out 3 of at most 3 samples: {expected[2]['episode']}, frame 7 ({expected[2]['reason']})"


def test_more_than_the_budget_ends_the_run(tmp_path: Path) -> None:
    samples = opened(7).train
    void = positions_of(samples, 7)
    record = LeftOut(tmp_path, 1, samples, active=True)
    record.settle(ALONE, [batch_of(samples, void[:1])], step=0)
    with pytest.raises(CorruptData) as error:
        record.settle(ALONE, [batch_of(samples, void[1:2])], step=1)
    episode = samples.locate(void[1])[0]
    assert str(error.value) == (
        f"2 samples cannot be read, 1 may be left out; the last is {episode}, frame 7 ({samples.fault(void[1])}); "
        "repair the data, or allow more with --data.quarantine"
    )
    assert len(lines(tmp_path)) == 2, "it is on record before the run ends"


def test_a_resumed_run_goes_on_counting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = opened(7).train
    void = positions_of(samples, 7)
    LeftOut(tmp_path, 2, samples, active=True).settle(ALONE, [batch_of(samples, void[:2])], step=0)
    capsys.readouterr()
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"episode": "root/epi')  # a kill in the middle of a line
    resumed = LeftOut(tmp_path, 2, samples, active=True)
    resumed.settle(ALONE, [batch_of(samples, void[:2])], step=0)
    assert capsys.readouterr().out == ""
    with pytest.raises(CorruptData, match="3 samples cannot be read, 2 may be left out"):
        resumed.settle(ALONE, [batch_of(samples, void[2:])], step=1)
    more = LeftOut(tmp_path, 3, samples, active=True)
    more.settle(ALONE, [batch_of(samples, void)], step=1)
    assert len(more.left_out) == 3
    whole = list(read_lines(tmp_path / "quarantine.jsonl"))
    assert [line["position"] for line in whole] == void


def test_held_out_samples_count_too(tmp_path: Path) -> None:
    data = opened(7)
    record = LeftOut(tmp_path, 1, data.train, held_out=data.validation, active=True)
    batch = collate([data.validation[index] for index in (6, 7, 8, 8, 8)], 0, "validation")
    record.settle(ALONE, [batch], step=0, held_out=True)
    (line,) = lines(tmp_path)
    assert (line["episode"], line["frame"], line["held_out"]) == (*data.validation.locate(7), True)
    with pytest.raises(CorruptData):
        record.settle(ALONE, [batch_of(data.train, positions_of(data.train, 7))], step=1)


def test_a_full_volume_delays_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = opened(7).train
    void = positions_of(samples, 7)
    record = LeftOut(tmp_path, 3, samples, active=True)

    def full(path: Path, text: str) -> None:
        raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "append", full)
        record.settle(ALONE, [batch_of(samples, void[:1])], step=0)
    record.settle(ALONE, [batch_of(samples, void[1:])], step=1)
    assert [line["position"] for line in lines(tmp_path)] == void


def together(
    work: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, ranks: int = 2
) -> list[BaseException | None]:
    """Run work on threads that stand for ranks, with `collect` between them; the error of each."""
    boxes: list[str] = [""] * ranks
    barrier = threading.Barrier(ranks, timeout=240)
    errors: list[BaseException | None] = [None] * ranks

    def collect(accelerator: Any, value: Any) -> list[Any]:
        boxes[accelerator.process_index] = json.dumps(value)
        barrier.wait()
        result = [json.loads(box) for box in boxes]
        barrier.wait()
        return result

    def run(rank: int) -> None:
        try:
            work(SimpleNamespace(num_processes=ranks, process_index=rank, is_main_process=rank == 0))
        except CorruptData as error:
            errors[rank] = error

    monkeypatch.setattr(distributed, "collect", collect)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    return errors


def test_all_ranks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a resume, when rank 0 alone has read the record; and all of them end when it is too much."""
    samples = opened(7).train
    void = positions_of(samples, 7)
    LeftOut(tmp_path, 2, samples, active=True).settle(ALONE, [batch_of(samples, void[:1])], step=0)
    known: dict[int, list[tuple[str, int]]] = {}

    def work(accelerator: Any) -> None:
        rank = accelerator.process_index
        record = LeftOut(tmp_path, 2, samples, active=rank == 0)
        own = [void[1]] if rank == 1 else [0]
        record.settle(accelerator, [batch_of(samples, own)], step=1)
        known[rank] = list(record.left_out)
        record.settle(accelerator, [batch_of(samples, void if rank == 1 else [1])], step=2)

    errors = together(work, monkeypatch)
    assert known[0] == known[1] == [samples.locate(position) for position in void[:2]]
    assert str(errors[0]) == str(errors[1])
    assert str(errors[0]).startswith("3 samples cannot be read, 2 may be left out")
    assert [line["position"] for line in lines(tmp_path)] == void


def test_a_void_sample_counts_for_nothing_in_loss_and_gradient(needle: Path) -> None:
    """The loss is the weighted mean over the batch, as the loop takes it; and the gradient is that of the others."""
    data = open_dataset(DataConfig(roots=(str(needle),)), 0)
    config = PolicyConfig(
        backbone=BackboneConfig(path="tiny", max_pixels=3136),
        encoders=Encoders(sensor=SensorConfig(width=16, heads=2, dropout=0.0)),
        expert=ExpertConfig(width=32, depth=1, heads=2, dropout=0.0),
    )
    policy = build_policy(config, data.contract, data.statistics, torch.float32, 0)
    samples = [data.train[position] for position in range(4)]
    window = dataclasses.replace(
        data.train._parts[0].window, frame_sizes=dict.fromkeys(data.contract.cameras, (128, 128))
    )
    void = window.void(data.train._parts[0].reader.episodes[0], 0, 2)

    def gradients(chosen: list[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
        policy.zero_grad()
        batch = collate(chosen, 0, "noise")
        each = policy(batch)["diffusion"]
        assert torch.isfinite(each).all()
        loss = (each * batch.weight).sum() / batch.weight.sum()
        loss.backward()
        found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
        return float(loss.detach()), found

    loss, expected = gradients([samples[0], samples[1], samples[3]])
    with_void, found = gradients([samples[0], samples[1], void, samples[3]])
    assert with_void == pytest.approx(loss, rel=1e-6)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    assert sum(float(gradient.norm()) for gradient in expected.values()) > 0
    only_void = policy(collate([void], 0, "noise"))["diffusion"] * 0
    assert torch.isfinite(only_void).all()


def test_damage_in_a_real_video_on_one_and_two_ranks(needle: Path, tmp_path: Path) -> None:
    """The stream of any topology holds the same samples and the same void ones."""
    root = Path(shutil.copytree(needle, tmp_path / "needle"))
    path = root / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    samples = open_dataset(DataConfig(roots=(str(root),), quarantine=200), 0).train
    whole = open_dataset(DataConfig(roots=(str(needle),)), 0).train

    def read(ranks: int, workers: int) -> dict[int, tuple[float, torch.Tensor]]:
        found = {}
        for rank in range(ranks):
            for step in batches(
                samples,
                partial(collate, seed=0, stream="noise"),
                first_step=0,
                last_step=8,
                batch_size=8,
                micro_batch=2,
                accumulation=4 // ranks,
                rank=rank,
                ranks=ranks,
                workers=workers,
                timeout_s=60,
            ):
                for batch in step:
                    for row, position in enumerate(batch.positions.tolist()):
                        image = batch.observation.images[row][1].clone()
                        found[position] = (float(batch.weight[row]), image)
        return found

    one, two = read(1, 0), read(2, 2)
    assert sorted(one) == sorted(two) == list(range(64))
    left_out = [position for position, (weight, _) in one.items() if weight == 0]
    assert 3 < len(left_out) < 40
    for position, (weight, image) in one.items():
        assert two[position][0] == weight
        assert torch.equal(two[position][1], image)
        if position not in left_out:
            np.testing.assert_array_equal(image.numpy(), whole[position].images[1])
