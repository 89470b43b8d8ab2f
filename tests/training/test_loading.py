"""Micro-batches in order, whatever happens to the processes that make them."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes import FakeFrames, FakeRoot, edited, opener
from training.feeding import loading, prefetch
from training.feeding.loading import Restarts, batches
from training.feeding.packing import pack, tensors_of, unpack
from training.feeding.prefetch import OriginalError
from vla.batch import Batch, Sample, collate
from vla.data.dataset import TrainSamples, open_dataset
from vla.errors import REFUSED, CorruptData, LoaderFailed, StorageFault, UnsuitableFrame, told
from vla.frames import Area, Square
from vla.settings import BackboneConfig, CameraConfig, DataConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 and newer, beside any thread


class Awkward(Exception):
    """Does not survive the way between processes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Faulty:
    """Samples, one of which does something else the first times it is read, whichever process reads it."""

    def __init__(self, folder: Path, position: int = -1, times: int = 0, act: Callable[[], object] = int) -> None:
        open_reader = opener(FakeRoot(lengths=(50, 60, 70)))
        self.samples = open_dataset(DataConfig(roots=("root",), validation_share=0.0), 0, open_reader).train
        self.folder, self.position, self.times, self.act = folder, position, times, act

    def __getitem__(self, position: int) -> Sample:
        if position == self.position and os.getpid() != MAIN:
            done = len(list(self.folder.glob("hit-*")))
            if done < self.times:
                (self.folder / f"hit-{done}").touch()
                self.act()
        return self.samples[position]

    def locate(self, position: int) -> tuple[str, int]:
        return self.samples.locate(position)

    def name(self, position: int) -> str:
        episode, frame = self.locate(position)
        return f"position {position} ({episode}, frame {frame})"


MAIN = os.getpid()
AREA = Area(unit=28, min_pixels=BackboneConfig().min_pixels, max_pixels=BackboneConfig().max_pixels)
"""In which the backbone looks at a frame, unless it is told otherwise."""
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024


def stream(samples: Faulty | TrainSamples, **changes: object) -> Iterator[list[Batch]]:
    """Steps 2 to 10 of the second of two ranks: batches of 8, 2 a micro-batch, accumulated twice."""
    settings: dict[str, object] = {
        "first_step": 2,
        "last_step": 10,
        "batch_size": 8,
        "micro_batch": 2,
        "accumulation": 2,
        "rank": 1,
        "ranks": 2,
        "workers": 2,
        "timeout_s": 60.0,
    }
    return batches(samples, partial(collate, seed=0, stream="noise"), **(settings | changes))  # type: ignore[arg-type]


POSITIONS = [[[8 * step + 2, 8 * step + 3], [8 * step + 6, 8 * step + 7]] for step in range(2, 10)]


def assert_equal(ours: Sequence[Sequence[Batch]], theirs: Sequence[Sequence[Batch]]) -> None:
    """Bit for bit."""
    assert [[batch.positions.tolist() for batch in step] for step in ours] == POSITIONS
    for our_step, their_step in zip(ours, theirs, strict=True):
        for our, their in zip(our_step, their_step, strict=True):
            assert our.observation.instructions == their.observation.instructions
            for one, other in zip(tensors_of(our), tensors_of(their), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


@pytest.fixture
def undisturbed(tmp_path: Path) -> list[list[Batch]]:
    return list(stream(Faulty(tmp_path), workers=0))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Loader processes end with the iterator, and SIGCHLD means nothing to this process."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    assert signal.getsignal(signal.SIGCHLD) is before
    deadline = time.monotonic() + 60  # whoever learns of an end passes it on a moment later
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


def test_a_step_is_dealt_out_by_micro_batch(tmp_path: Path) -> None:
    ranks = [
        list(stream(Faulty(tmp_path), rank=rank, ranks=4, accumulation=1, first_step=5, workers=rank % 2))
        for rank in range(4)
    ]
    seen = [step[0].positions.tolist() for steps in zip(*ranks, strict=True) for step in steps]
    assert list(chain(*seen)) == list(range(40, 80))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, undisturbed: list[list[Batch]], workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_equal(list(stream(Faulty(tmp_path), workers=workers)), undisturbed)
    assert capsys.readouterr() == ("", "")


def test_no_step_is_no_batch(tmp_path: Path) -> None:
    assert list(stream(Faulty(tmp_path), last_step=2)) == []


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(600)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("position", [POSITIONS[0][0][0], POSITIONS[5][1][1]])
def test_a_process_that_dies_is_replaced(
    tmp_path: Path, undisturbed: list[list[Batch]], position: int, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, restarts = Faulty(tmp_path, position, times, kill), Restarts()
    assert_equal(list(stream(samples, restarts=restarts)), undisturbed)
    assert restarts.left == 2 - times
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == times
    for count, line in enumerate(lines, start=1):
        assert line.startswith("rank 1: loader process ")
        assert f"was ended by SIGKILL while it read {samples.name(position)}; loader processes start again" in line
        assert line.endswith(f"(restart {count} of 2)")


@pytest.mark.parametrize("act", [hang, freeze])
def test_a_process_that_hangs_is_replaced(
    tmp_path: Path,
    undisturbed: list[list[Batch]],
    act: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "LOOK_S", 0.2)
    position = POSITIONS[3][0][1]
    samples = Faulty(tmp_path, position, 1, act)
    assert_equal(list(stream(samples, timeout_s=2.0)), undisturbed)
    assert f"did not come back from {samples.name(position)} within 2 s" in capsys.readouterr().out


def test_the_death_of_a_process_does_not_disturb_a_computation(
    tmp_path: Path, undisturbed: list[list[Batch]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where torch's DataLoader raises out of its signal handler, in the middle of whatever the main thread does."""
    found = []
    weights = torch.ones(300, 300, requires_grad=True)
    for step in (running := stream(Faulty(tmp_path))):
        found.append(step)
        if len(found) == 2:
            victim = multiprocessing.active_children()[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                (weights @ weights).sum().backward()
    assert running is not None
    assert_equal(found, undisturbed)
    assert f"rank 1: loader process {victim.pid} was ended by SIGKILL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("act", "restarts", "timeout_s", "said"),
    [(kill, 2, 60.0, "was ended by SIGKILL"), (hang, 1, 1.0, "did not come back")],
)
def test_a_process_that_always_dies_or_hangs_ends_the_run(  # noqa: PLR0917
    tmp_path: Path,
    act: Callable[[], None],
    restarts: int,
    timeout_s: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "LOOK_S", 0.2)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: Usage(64 * 2**20, 60 * 2**20, 4 * 2**20))
    position = POSITIONS[2][1][0]
    samples = Faulty(tmp_path, position, 99, act)
    found = []
    with pytest.raises(LoaderFailed, match=r"--data\.workers \(0 reads in the training process\)$") as failed:
        found.extend(step for step in stream(samples, timeout_s=timeout_s, restarts=Restarts(restarts)))
    assert len(list(tmp_path.glob("hit-*"))) == 1 + restarts
    sentence = str(failed.value)
    assert "\n" not in sentence
    assert said in sentence
    assert samples.name(position) in sentence
    assert "memory ran out" in sentence
    assert "/dev/shm has 4 MiB free of 64 MiB" in sentence


def test_restarts_are_counted_over_the_whole_run(tmp_path: Path) -> None:
    restarts = Restarts()
    for stage in range(2):
        folder = tmp_path / f"{stage}"
        folder.mkdir()
        list(stream(Faulty(folder, POSITIONS[0][0][0], 1, kill), restarts=restarts))
    assert restarts.left == 0
    (tmp_path / "last").mkdir()
    with pytest.raises(LoaderFailed):
        list(stream(Faulty(tmp_path / "last", POSITIONS[0][0][0], 1, kill), restarts=restarts))


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("error", [ValueError("boom"), Awkward("boom", "bang"), MemoryError("boom")])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_says_nothing_of_the_data_names_the_sample(
    tmp_path: Path, error: Exception, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "MAIN", 0)  # the training process counts, too
    position = POSITIONS[1][1][1]
    samples = Faulty(tmp_path, position, 99, raising(error))
    running, found = stream(samples, workers=workers), []
    with pytest.raises(LoaderFailed) as failed:
        found.extend(running)
    assert len(found) == 1
    assert str(failed.value) == (
        f"the sample at {samples.name(position)}, in the micro-batch of positions {position - 1} to {position}, "
        f"raised {type(error).__name__}: {error}"
    )
    cause = failed.value.__cause__
    if workers == 0:
        assert cause is error
    else:
        assert isinstance(cause, OriginalError)
        assert "in act" in str(cause), "the traceback of the loader process"
        assert f"{type(error).__name__}: boom" in str(cause)


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_and_storage_keep_their_sentence(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "MAIN", 0)
    position = POSITIONS[1][0][0]
    with pytest.raises(CorruptData, match=r"^root/episode_000001, frame 3: x\.mp4 is damaged$"):
        list(
            stream(
                Faulty(tmp_path, position, 1, raising(CorruptData("root/episode_000001, frame 3: x.mp4 is damaged"))),
                workers=workers,
            )
        )
    (tmp_path / "hit-0").unlink()
    with pytest.raises(StorageFault, match=r"^x\.mp4 cannot be read$") as fault:
        list(
            stream(
                Faulty(tmp_path, position, 1, raising(StorageFault(errno.EIO, "x.mp4 cannot be read"))), workers=workers
            )
        )
    assert fault.value.errno == errno.EIO


def test_closing_ends_the_processes_at_once(tmp_path: Path) -> None:
    """Also those that hang, and those that make a micro-batch."""
    samples = Faulty(tmp_path, POSITIONS[1][1][1], 99, hang)
    running = stream(samples)
    next(running)
    assert len(multiprocessing.active_children()) == 2
    began = time.monotonic()
    running.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 60  # and not the 600 s that they hang
    assert not multiprocessing.active_children()
    next(left := stream(samples, workers=1))
    del left
    assert not multiprocessing.active_children()


def test_signals_are_left_to_the_training_process(tmp_path: Path, undisturbed: list[list[Batch]]) -> None:
    """Ctrl-C reaches the whole process group, and the last step still needs its samples."""
    restarts, found = Restarts(), []
    for step in stream(Faulty(tmp_path), restarts=restarts):
        found.append(step)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGINT)
            os.kill(child.pid or 0, signal.SIGHUP)
    assert_equal(found, undisturbed)
    assert restarts.left == 2


def test_a_process_is_deaf_to_signals_from_its_first_moment(
    tmp_path: Path, undisturbed: list[list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = prefetch.begin_work

    def late(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        subprocess.run(["sh", "-c", f"kill -TERM {os.getpid()}"], check=True)  # of another than its parent
        begin(*arguments)

    monkeypatch.setattr(prefetch, "begin_work", late)
    restarts = Restarts()
    assert_equal(list(stream(Faulty(tmp_path), restarts=restarts)), undisturbed)
    assert restarts.left == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


ORPHANS = """
    import multiprocessing, os, signal, sys
    from pathlib import Path
    from tests.training.test_loading import Faulty, stream
    running = stream(Faulty(Path(sys.argv[1])))
    next(running)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def running(pid: int) -> bool:
    """Whether a process does anything; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_loader_processes_end_with_a_training_process_that_is_killed(tmp_path: Path, repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ORPHANS), str(tmp_path)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    limit = time.monotonic() + 120
    while any(map(running, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(running, pids))


def test_small_shared_memory_is_told_of_before_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [tensor.nbytes for tensor in tensors_of(next(stream(Faulty(tmp_path), workers=0))[0])]
    needed = 2 * sum(-(-size // 64) * 64 for size in sizes) * (2 * 2 * 2 + 2 * 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for free, warned in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(loading.shutil, "disk_usage", lambda path, free=free: Usage(2 * 2**20, 0, free))
        next(left := stream(Faulty(tmp_path)))
        del left
        out = capsys.readouterr().out
        assert out.count("\n") == int(warned)
        assert ("rank 1: warning: /dev/shm has" in out) == warned
        assert ("--shm-size" in out) == warned
    monkeypatch.setattr(prefetch, "LOOK_S", 0.2)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: Usage(1, 1, 0))
    next(stream(Faulty(tmp_path), workers=0))
    assert capsys.readouterr().out == ""


FULL = """
    import sys
    from pathlib import Path
    import numpy as np
    from tests.training.test_loading import Faulty, stream
    from training.feeding.loading import Restarts
    from vla.errors import LoaderFailed
    from vla.batch import collate, Sample
    import dataclasses

    class Big(Faulty):
        def __getitem__(self, position):
            sample = self.samples[position]
            return dataclasses.replace(sample, images=(np.ones((3, 1000, 1000), np.uint8),) * 2)

    try:
        for step in stream(Big(Path(sys.argv[1]))):
            pass
    except LoaderFailed as error:
        print("FAILED", error, flush=True)
"""


def test_shared_memory_that_is_full_is_one_sentence(tmp_path: Path, repository: Path) -> None:
    """In a mount namespace of its own, with /dev/shm of 8 MiB, and micro-batches of 12 MB."""
    mount = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, "true"], capture_output=True, timeout=240).returncode
    ):
        pytest.skip("needs the right to mount in a namespace of its own")
    result = subprocess.run(
        [*inside, sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("rank 1: warning: /dev/shm has 8 MiB free, but 12 micro-batches on each of 1 ranks")
    assert [line.endswith(f"(restart {count} of 2)") for count, line in enumerate(lines[1:3], start=1)] == [True, True]
    assert lines[3].startswith("FAILED loader process")
    assert "shared memory did (/dev/shm has" in lines[3]
    assert len(lines) == 4


def test_a_batch_survives_its_buffer(tmp_path: Path) -> None:
    open_reader = opener(FakeRoot(sensor=None, state_dim=0))
    samples = open_dataset(DataConfig(roots=("root",)), 0, open_reader).train
    batch = collate([samples[0], samples[1], samples[2]], 0, "noise")
    allocated: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        allocated.append(size)
        return torch.full((size,), 255, dtype=torch.uint8)

    outline, buffer = pack(batch, allocate)
    assert all(tensor.is_meta for tensor in tensors_of(outline))
    assert len(allocated) == 1
    again = unpack(outline, buffer)
    for one, other in zip(tensors_of(batch), tensors_of(again), strict=True):
        assert torch.equal(one, other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert other.numel() == 0 or other.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
    assert again.observation.instructions == batch.observation.instructions
    assert again.observation.streams == {}


def samples_of_cameras(height: int, width: int) -> TrainSamples:
    """Samples of three cameras with frames of one size."""
    reader = FakeRoot(lengths=(50, 60, 70), cameras=("front", "side", "wrist")).open()
    for place, episode in enumerate(reader.episodes):
        frames = FakeFrames(timestamps=episode.timestamps, height=height, width=width)
        reader = edited(reader, place, cameras=dict.fromkeys(episode.cameras, frames))
    return open_dataset(DataConfig(roots=("root",)), 0, opener(reader)).train


@pytest.mark.parametrize("more", [(), (Square(side=CameraConfig().pixels),)])
def test_resized_frames_are_at_most_a_sixth_of_the_bytes(more: tuple[Square, ...]) -> None:
    samples = samples_of_cameras(480, 640)
    small = samples.resized([AREA, *more])
    whole = next(stream(samples, workers=1))[0].actions.untyped_storage().nbytes()
    assert whole > 2 * 3 * 480 * 640 * 3
    made, expected = (next(stream(small, workers=workers))[0] for workers in (1, 0))
    assert all(torch.equal(*pair) for pair in zip(tensors_of(made), tensors_of(expected), strict=True))
    buffers = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(made) if tensor.numel()}
    assert len(buffers) == 1
    assert made.actions.untyped_storage().nbytes() <= whole / 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_cannot_be_shown_is_refused_as_a_mistake_of_the_user(workers: int) -> None:
    with pytest.raises(UnsuitableFrame, match="a frame of 500x2 pixels cannot be shown to the backbone") as caught:
        next(stream(samples_of_cameras(2, 500).resized([AREA]), workers=workers))
    assert told(caught.value)[0] == REFUSED


def test_real_samples_after_a_death(needle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = open_dataset(DataConfig(roots=(str(needle),)), 0).train
    expected, found = list(stream(samples, workers=0, last_step=6)), []
    for step in stream(samples, last_step=6):
        found.append(step)
        if len(found) == 1:
            os.kill(multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL)
    for ours, theirs in zip(found, expected, strict=True):
        for our, their in zip(ours, theirs, strict=True):
            assert all(torch.equal(*pair) for pair in zip(tensors_of(our), tensors_of(their), strict=True))
    assert capsys.readouterr().out.count("restart 1 of 2") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_is_pinned_in_one_piece(
    tmp_path: Path, undisturbed: list[list[Batch]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[torch.Tensor] = []

    def pin(size: int) -> torch.Tensor:
        pinned.append(torch.empty(size, dtype=torch.uint8))
        return pinned[-1]

    monkeypatch.setattr(loading, "pinned", pin)
    found = list(stream(Faulty(tmp_path), workers=workers, pin=True))
    assert_equal(found, undisturbed)
    assert len(pinned) == 16
    for batch, buffer in zip(chain(*found), pinned, strict=True):
        assert batch.buffer is buffer, "which goes to a device as one"
        for tensor in tensors_of(batch):
            assert tensor.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_beside_a_gpu(tmp_path: Path, workers: int, undisturbed: list[list[Batch]]) -> None:
    found = list(stream(Faulty(tmp_path), workers=workers, pin=True))
    assert_equal(found, undisturbed)
    for batch in chain(*found):
        assert all(tensor.is_pinned() for tensor in tensors_of(batch) if tensor.numel())
    moved = found[0][0].to(torch.device("cuda"))
    torch.cuda.synchronize()
    assert torch.equal(moved.actions.cpu(), found[0][0].actions)
