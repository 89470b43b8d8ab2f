"""Judges that were trained once: each is kept in the cache under all that it follows from.

CACHE/judges/KEY.safetensors     weights and scales; the header holds the labels, the rate, and a digest of all of it
"""

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vla import cache
from vla.adapters.file import digest_of
from vla.evaluation.motion import judge
from vla.evaluation.motion.heading import Scale
from vla.evaluation.motion.judge import ConvolutionalJudge, JudgeSettings, Network
from vla.evaluation.motion.landmarks import Landmarks

HEADER = "touchstone"
"""What the header of a file has the facts under."""
MEAN, SPREAD = "scale.mean", "scale.spread"


def key_of(facts: Mapping[str, Any], arrays: Sequence[Shaped[np.ndarray, "..."]]) -> str:
    """SHA-256 of what a judge is taught with, JSON values and numbers, and of what computes it.

    The vector units and the number of threads are part of that: sums are taken in another order with others.
    """
    computes = {
        "version": judge.VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
    }
    found = hashlib.sha256(json.dumps([computes, facts], sort_keys=True).encode())
    for array in arrays:
        found.update(f"\n{array.shape} {array.dtype}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def kept_judge(
    key: str, body: Landmarks, settings: JudgeSettings, train: Callable[[], ConvolutionalJudge]
) -> ConvolutionalJudge:
    """The judge of a key: the one in the cache, or the one that `train` makes, which is then kept there; says which.

    `body` and `settings` are those that `train` uses. What is damaged, or of another key, is said and trained anew.
    """
    path = cache.folder() / "judges" / f"{key}.safetensors"
    try:
        found = _read(path, key, body, settings)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        cache.log.warning("%s cannot be used (%s): the judge is trained anew", path, error)
    else:
        print(f"the judge is the one that was trained on these clips before: {path}", file=sys.stderr)
        return found
    print("the judge is trained on the training clips, which takes minutes the first time", file=sys.stderr, flush=True)
    trained = train()
    content = _content(trained, key)
    cache.write_file(path, lambda file: file.write(content), instead="the judge is trained at each evaluation")
    return trained


def _content(trained: ConvolutionalJudge, key: str) -> bytes:
    tensors = {name: value.detach().clone() for name, value in trained.network.state_dict().items()}
    scale = {MEAN: trained.scale.mean, SPREAD: trained.scale.spread}
    tensors |= {name: torch.from_numpy(value.copy()) for name, value in scale.items()}
    facts = {"key": key, "labels": list(trained.labels), "rate_hz": trained.rate_hz}
    return save(tensors, {"format": "pt", HEADER: json.dumps({**facts, "digest": _digest(facts, tensors)})})


def _read(path: Path, key: str, body: Landmarks, settings: JudgeSettings) -> ConvolutionalJudge:
    """The judge of a file; errors where there is none that holds."""
    path.stat()  # what is not there is no damage
    with safe_open(path, framework="pt") as opened:
        facts = dict(json.loads((opened.metadata() or {})[HEADER]))
        names = opened.keys()
        tensors = {name: opened.get_tensor(name).clone() for name in names}
    digest = facts.pop("digest")
    if facts["key"] != key or digest != _digest(facts, tensors):
        raise ValueError("it does not hold what its name and its header say")
    labels, channels = tuple(facts["labels"]), 6 * len(body.names)
    with torch.device("meta"):  # draws nothing
        network = Network(channels, len(labels) + 1, settings)
    expected = {name: (value.shape, torch.float32) for name, value in network.state_dict().items()}
    expected |= {name: (torch.Size([channels]), torch.float64) for name in (MEAN, SPREAD)}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != expected:
        raise ValueError("its weights are not those of such a judge")
    scale = Scale(mean=tensors.pop(MEAN).numpy(), spread=tensors.pop(SPREAD).numpy())
    network.load_state_dict(tensors, assign=True)
    return ConvolutionalJudge(network.eval(), labels, body, scale, float(facts["rate_hz"]))


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{json.dumps(facts, sort_keys=True)}\n{digest_of(tensors)}".encode()).hexdigest()
