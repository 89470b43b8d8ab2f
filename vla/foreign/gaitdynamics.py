"""Checkpoints of GaitDynamics: the averaged weights of its decoder and the normaliser's arrays, out of its .pt files.

{"ema_state_dict": tensors, "normalizer": an object with a scaler in it, "model_state_dict": in some}. Nothing of a file
is executed (vla/data/formats/motion/archives.py). Its classes, which are of a module or of the script that wrote the
file, are read as records of their attributes, and numpy's arrays as those that hold what they were made with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vla.data.formats.motion.archives import Record, load_archive, quoted
from vla.data.formats.motion.arrays_only import STANDS_FOR, plain
from vla.errors import CorruptData, ForeignLayout
from vla.foreign import gait_columns
from vla.foreign.gait_decoder import GaitDecoder, Sizes

WEIGHTS, NORMALIZER = "ema_state_dict", "normalizer"
HEAD_WIDTH = 64
"""Numbers a head, in both sizes that are published: 512 with 8 heads and 256 with 4. No tensor says it."""
ARRAYS = {"scale": "scale_", "shift": "min_", "lowest": "data_min_", "highest": "data_max_"}
"""What a scaler holds, and what it is called there."""


class NormalizerRecord(Record):
    """Which columns are normalised, and the scaler of these."""

    __slots__ = ()


class ScalerRecord(Record):
    """A linear map of each of these."""

    __slots__ = ()


STAND_INS: dict[str, type] = {
    "data.preprocess.Normalizer": NormalizerRecord,
    "data.scaler.MinMaxScaler": ScalerRecord,
    "__main__.Normalizer": NormalizerRecord,
    "__main__.MinMaxScaler": ScalerRecord,
    "builtins.range": range,
    **{name: kind for name, kind in STANDS_FOR.items() if name.startswith("numpy.")},
}
"""All names that a file may use beside those of tensors and containers."""
UNUSED = "multihead_attn"
"""The second attention of each layer, which is never called."""


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """normalised = value * scale + shift, of some columns; the others stay what they are."""

    columns: tuple[int, ...]
    """Places of those that are normalised."""
    ends: tuple[float, float]
    """What the lowest and the highest value of the training data become."""
    samples: int
    """Frames that it was fitted to."""
    scale: Float64[np.ndarray, " N"]
    shift: Float64[np.ndarray, " N"]
    lowest: Float64[np.ndarray, " N"]
    highest: Float64[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds."""

    sizes: Sizes
    weights: Mapping[str, Tensor]
    """By the names of a GaitDecoder."""
    scaler: Scaler
    left_out: tuple[str, ...]
    """What of the file is not in it, each with the reason."""


def read_checkpoint(file: Path, heads: int | None = None) -> Checkpoint:
    """A checkpoint, its tensors mapped.

    `heads` are those of each attention, which the file does not say; None: one for each 64 numbers of the width.

    Raises:
        CorruptData: it cannot be read, or its numbers contradict one another.
        ValueError: it names what is not allowed, or is of another layout.
    """
    content = load_archive(
        file,
        again="copy it again, or save it with PyTorch 1.6 or newer",
        alone="a checkpoint of GaitDynamics has tensors, its Normalizer and its MinMaxScaler alone",
        stand_ins=STAND_INS,
    )
    if not isinstance(content, dict) or not {WEIGHTS, NORMALIZER} <= content.keys():
        has = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(
            f"{file} is no checkpoint of GaitDynamics: it has {quoted(has or 'nothing')}, expected "
            f"{WEIGHTS} and {NORMALIZER}; give the .pt of its diffusion model"
        )
    theirs = tensors_of(content[WEIGHTS], file)
    sizes = sizes_of(theirs, heads, file)
    check_names(theirs, sizes, file)
    return Checkpoint(
        sizes=sizes,
        weights=translated(theirs, sizes, file),
        scaler=scaler_of(content[NORMALIZER], sizes.columns, file),
        left_out=left_out(content, theirs),
    )


def left_out(content: Mapping[Any, Any], theirs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What of a file is not imported, and why."""
    unused = sum(value.numel() for name, value in theirs.items() if UNUSED in name)
    others = sorted(str(key) for key in content if key not in (WEIGHTS, NORMALIZER))
    return (
        f"{unused:,} weights of {UNUSED}, a second attention of each layer that is never called",
        *(f"{quoted(name)}, as {WEIGHTS} holds the averaged weights" for name in others),
    )


def tensors_of(content: Any, file: Path) -> dict[str, Tensor]:
    """The weights of a file. CorruptData where something else is among them, or a number is not finite."""
    if not isinstance(content, dict):
        raise CorruptData(
            f"{file} has {WEIGHTS} that are a {type(content).__name__}, not tensors by name: copy it again"
        )
    found = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not is_decimal(value):
            raise CorruptData(
                f"{file} has {quoted(name)} in {WEIGHTS}, which is no plain tensor of decimals: give another checkpoint"
            )
        if not value.isfinite().all():
            raise CorruptData(
                f"{file} has {quoted(name)} in {WEIGHTS} with numbers that are not finite: give another checkpoint"
            )
        found[name] = value.detach()
    return found


def is_decimal(value: Tensor) -> bool:
    """Whether a tensor holds decimal numbers, plainly."""
    return is_plain(value) and value.dtype.is_floating_point


def is_plain(value: Tensor) -> bool:
    """Whether a tensor's numbers lie in memory as its shape says.

    Strides of 0 would make a large tensor of few bytes of a file.
    """
    dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def sizes_of(theirs: Mapping[str, Tensor], heads: int | None, file: Path) -> Sizes:
    """What the shapes of some tensors say. ValueError where they are of no such decoder."""
    for name in ("input_projection.weight", f"{layer(0)}.linear1.weight"):
        if name not in theirs or theirs[name].ndim != 2:
            raise ValueError(
                f"{file} has no {name} of two dimensions among {len(theirs)} weights: it is of another model, or a "
                "part of a split one; give the .pt of the diffusion model of GaitDynamics"
            )
    width, columns = theirs["input_projection.weight"].shape
    if columns != len(known := gait_columns.columns()):
        raise ValueError(
            f"{file} has rows of {columns} numbers, and names none of them: the {len(known)} columns of GaitDynamics "
            "are known, without arms and with velocities; give a checkpoint of these"
        )
    numbers = {int(name.split(".")[2]) for name in theirs if name.startswith(STACK) and name.split(".")[2].isdecimal()}
    if heads is None and width % HEAD_WIDTH:
        raise ValueError(
            f"{file} has a width of {width}, which is not divided into heads of {HEAD_WIDTH} numbers, and does not say "
            "how many heads it has: give --heads"
        )
    if heads is not None and (heads < 1 or width % (2 * heads)):
        raise ValueError(f"{file} has a width of {width}, which is not {heads} heads of even size: give other --heads")
    return Sizes(
        columns=columns,
        width=width,
        feed_forward=len(theirs[f"{layer(0)}.linear1.weight"]),
        layers=len(numbers),
        heads=width // HEAD_WIDTH if heads is None else heads,
    )


STACK = "seqTransDecoder.stack."
LINEAR = ("weight", "bias")


def layer(number: int) -> str:
    """What a layer is called there."""
    return f"{STACK}{number}"


def sources(sizes: Sizes) -> dict[str, tuple[str, int | None]]:
    """Of each tensor of a GaitDecoder, what it is called there, and which third of it it is; None: all."""
    found: dict[str, tuple[str, int | None]] = {"rotary_frequencies": ("rotary.freqs", None)}
    pairs = {
        "input_projection": "input_projection",
        "time_widen": "time_mlp.1",
        "time_narrow": "to_time_cond.0",
        "final_layer": "final_layer",
    }
    for number in range(sizes.layers):
        ours, their = f"layers.{number}", layer(number)
        pairs |= {
            f"{ours}.attention_norm": f"{their}.norm1",
            f"{ours}.attention.out_proj": f"{their}.self_attn.out_proj",
            f"{ours}.attention_film.linear": f"{their}.film1.block.1",
            f"{ours}.feed_forward_norm": f"{their}.norm3",
            f"{ours}.linear1": f"{their}.linear1",
            f"{ours}.linear2": f"{their}.linear2",
            f"{ours}.feed_forward_film.linear": f"{their}.film3.block.1",
        }
        for third, name in enumerate("qkv"):
            found |= {
                f"{ours}.attention.{name}_proj.{kind}": (f"{their}.self_attn.in_proj_{kind}", third) for kind in LINEAR
            }
    return found | {f"{ours}.{kind}": (f"{their}.{kind}", None) for ours, their in pairs.items() for kind in LINEAR}


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a file of these sizes has, by its name there."""
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in GaitDecoder(sizes).state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for name, (their, third) in sources(sizes).items():
        rows, *rest = ours[name]
        found[their] = (rows if third is None else 3 * rows, *rest)
    for number in range(sizes.layers):
        attention = [name for name in found if name.startswith(f"{layer(number)}.self_attn.")]
        found |= {name.replace("self_attn", UNUSED): found[name] for name in attention}
        found[f"{layer(number)}.rotary.freqs"] = found["rotary.freqs"]
    return found


def check_names(theirs: Mapping[str, Tensor], sizes: Sizes, file: Path) -> None:
    """Refuse weights that are missing, unexpected or of another shape (ValueError)."""
    expected = expected_shapes(sizes)
    differences = [
        *(f"{name} is missing" for name in expected if name not in theirs),
        *(f"{name} is unexpected" for name in theirs if name not in expected),
        *(
            f"{name} is {list(theirs[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in theirs and tuple(theirs[name].shape) != shape
        ),
    ]
    if differences:
        raise ValueError(
            f"{file} does not fit a decoder of GaitDynamics in {len(differences)} weights "
            f"({quoted('; '.join(differences[:3]))}): give the .pt of its diffusion model, whole"
        )


def translated(theirs: Mapping[str, Tensor], sizes: Sizes, file: Path) -> dict[str, Tensor]:
    """The weights of a GaitDecoder, float32. CorruptData where copies of one differ."""
    for number in range(sizes.layers):
        if not torch.equal(theirs[f"{layer(number)}.rotary.freqs"], theirs["rotary.freqs"]):
            raise CorruptData(
                f"{file} has other rotary.freqs in layer {number} than outside, where they are one: copy it again"
            )
    parts = {
        name: theirs[their] if third is None else theirs[their].chunk(3)[third]
        for name, (their, third) in sources(sizes).items()
    }
    return {name: value.to(torch.float32, copy=True).contiguous() for name, value in parts.items()}


def scaler_of(content: Any, width: int, file: Path) -> Scaler:
    """The normaliser of a file, of rows of a width.

    Raises:
        CorruptData: it lacks something, or does not fit the rows.
        ValueError: it is none of GaitDynamics.
    """
    if not isinstance(content, NormalizerRecord) or not isinstance(content.values.get("scaler"), ScalerRecord):
        raise ValueError(
            f"{file} has a {NORMALIZER} that is no Normalizer with a MinMaxScaler: give another checkpoint"
        )
    held = content.values["scaler"].values
    if missing := [name for name in (*ARRAYS.values(), "feature_range", "n_samples_seen_") if name not in held]:
        raise CorruptData(f"{file} has a scaler without {missing[0]}: give a checkpoint of a whole training")
    try:
        places = places_of(content.values.get("cols_to_normalize"), width)
        low, high = map(float, held["feature_range"])
        samples = int(held["n_samples_seen_"])
        arrays = {ours: array_of(held[their]) for ours, their in ARRAYS.items()}
    except (TypeError, ValueError) as error:
        raise CorruptData(f"{file} has a scaler that cannot be read ({quoted(error)}): copy it again") from error
    for ours, values in arrays.items():
        if values.shape != (len(places),) or not np.isfinite(values).all():
            raise CorruptData(
                f"{file} has a scaler whose {ARRAYS[ours]} is {list(values.shape)}, expected {len(places)} finite "
                f"numbers, one a normalised column: give another checkpoint"
            )
    if not (arrays["scale"] > 0).all():
        raise CorruptData(f"{file} has a scaler whose scale_ is not above 0 everywhere: give another checkpoint")
    return Scaler(columns=places, ends=(low, high), samples=samples, **arrays)


def places_of(columns: Any, width: int) -> tuple[int, ...]:
    """Which columns are normalised. ValueError where one is twice, or is not there."""
    # A range may be longer than any memory: it is looked at before it is walked through.
    if not isinstance(columns, range | list | tuple):
        columns = array_of(columns).astype(np.int64).tolist()
    if len(columns) > width:
        raise ValueError(f"{len(columns)} columns are normalised, rows have {width}")
    places = tuple(map(int, columns))
    if len(set(places)) != len(places) or not all(0 <= place < width for place in places):
        raise ValueError(f"the normalised columns are not different ones of {width}")
    return places


def array_of(value: Any) -> Float64[np.ndarray, "..."]:
    """A tensor's numbers, or an array's. ValueError where it is neither."""
    if isinstance(value, Tensor):
        if not is_plain(value):
            raise ValueError("a tensor of it is not plain")
        return value.detach().double().numpy()
    try:
        return np.asarray(plain(value), dtype=np.float64)
    except ForeignLayout as error:
        raise ValueError(f"it holds {error}") from error
