"""A gait model that was imported, on disk and at work: its decoder, normaliser and the diffusion it was trained by.

BASE/config.json                 columns and their units, sizes, diffusion, what was left out, digests of the files
BASE/normalizer.safetensors      of the normalised columns: columns, scale, shift, lowest, highest
BASE/decoder.safetensors         averaged weights, by the names of a GaitDecoder
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vla import documents, redaction
from vla.data.writing.beside import written_beside
from vla.diffusion import Coefficients, circle, explain, jump
from vla.errors import CorruptData
from vla.foreign.gait_columns import RATE_HZ, WINDOW, Column, columns
from vla.foreign.gait_decoder import GaitDecoder, Sizes
from vla.foreign.gaitdynamics import Checkpoint, Scaler
from vla.randomness import derive

SCHEMA = 1
"""Raised whenever an earlier version would misread a base."""
NORMALIZER, DECODER = "normalizer.safetensors", "decoder.safetensors"
STEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 2e-2
"""Variance that is added in the first and in the last step; the roots of those between are evenly spaced."""
SAMPLING_STEPS = 50
TOGETHER = 32
"""Windows that are made at once."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The file that it was imported from."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """config.json."""

    schema: int
    format: str = "gaitdynamics"
    columns: tuple[Column, ...]
    rate_hz: float
    """Of the trials that it was trained on; the file does not say it."""
    window: int
    """Frames, likewise."""
    sizes: Sizes
    normalised_to: tuple[float, float]
    """What the lowest and the highest value of the training data become."""
    samples: int
    """Frames that the normaliser was fitted to."""
    diffusion_steps: int = STEPS
    betas: str = "squares of 1000 evenly spaced roots, from 1e-4 to 2e-2"
    prediction: str = "data"
    left_out: tuple[str, ...]
    """What of the file is not here, each with the reason."""
    source: Source
    files: Mapping[str, str]
    """SHA-256 of every other file."""


def amplitudes() -> Float64[np.ndarray, " K"]:
    """The weight of the clean frames at each of the 1000 steps, from the least noise to the most."""
    betas = np.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, STEPS) ** 2
    found: np.ndarray = np.sqrt(np.cumprod(1 - betas))
    return found


class GaitBase(nn.Module):
    """A decoder with its normaliser: rows of named columns, in their units, out of noise."""

    scale: Float64[Tensor, " C"]
    shift: Float64[Tensor, " C"]

    def __init__(self, description: Description, decoder: GaitDecoder, scaler: Scaler) -> None:
        super().__init__()
        self.description, self.decoder = description, decoder
        scale, shift = np.ones(decoder.sizes.columns), np.zeros(decoder.sizes.columns)
        scale[list(scaler.columns)], shift[list(scaler.columns)] = scaler.scale, scaler.shift
        self.register_buffer("scale", torch.from_numpy(scale), persistent=False)
        self.register_buffer("shift", torch.from_numpy(shift), persistent=False)
        self.amplitudes = torch.from_numpy(amplitudes())

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the numbers of a row are, in their order."""
        return self.description.columns

    def normalize(self, rows: Float[Tensor, "*batch C"]) -> Float32[Tensor, "*batch C"]:
        """Rows in their units as the decoder sees them."""
        return (rows.double() * self.scale + self.shift).float()

    def denormalize(self, rows: Float[Tensor, "*batch C"]) -> Float64[Tensor, "*batch C"]:
        """What the decoder says, in the units of the columns."""
        return (rows.double() - self.shift) / self.scale

    def coefficients(self, step: Int[Tensor, " B"]) -> Coefficients:
        """The diffusion at some of its steps, for `vla.diffusion`, none of whose paths it is.

        Against `linear` at t = (step + 1) / 1000 the weights of the clean frames are up to 0.30 larger.
        """
        alpha = self.amplitudes[step.cpu()]
        return circle(alpha.float().to(step.device), (1 - alpha.square()).sqrt().float().to(step.device))

    def sample(
        self, n: int = 1, *, seed: int = 0, steps: int = SAMPLING_STEPS, frames: int = WINDOW
    ) -> Float64[np.ndarray, "N T C"]:
        """Some windows of gait, in the units of the columns. Window k follows from (seed, k), whatever their number.

        DDIM (Song et al. 2021) from pure noise, on whole steps that are evenly spaced, without clipping.

        Raises:
            ValueError: there is nothing to be made, or the steps are more than there are.
        """
        if n < 1 or frames < 1 or seed < 0:
            raise ValueError(f"{n} windows of {frames} frames by seed {seed} were asked for: give 1, 1 and 0 or more")
        if not 1 <= steps <= STEPS:
            raise ValueError(f"{steps} sampling steps were asked for; give 1 to {STEPS}")
        made = []
        for first in range(0, n, TOGETHER):
            draws = [derive(seed, "gait window", number) for number in range(first, min(n, first + TOGETHER))]
            shape = (frames, self.decoder.sizes.columns)
            noise = np.stack([draw.standard_normal(shape, dtype=np.float32) for draw in draws])
            made.append(self.denormalize(self.walk(torch.from_numpy(noise).to(self.scale.device), steps)).cpu().numpy())
        return np.concatenate(made)

    @torch.no_grad()
    def walk(self, noise: Float32[Tensor, "B T C"], steps: int = SAMPLING_STEPS) -> Float32[Tensor, "B T C"]:
        """From noise to clean frames, both normalised."""
        x_t = noise
        grid = torch.linspace(-1, STEPS - 1, steps + 1).int().tolist()[::-1]
        for now, after in itertools.pairwise(grid):
            step = torch.full((len(noise),), now, device=noise.device)
            clean: Tensor = self.decoder(x_t, step)
            if after < 0:
                return clean
            c_t = self.coefficients(step)
            eps = explain(c_t, x_t, clean)
            x_t = jump(c_t, self.coefficients(torch.full_like(step, after)), clean, eps, eta=0.0, z=eps)
        raise AssertionError("the last step of a grid ends at -1")


def save_gait_base(checkpoint: Checkpoint, source: Path, folder: Path) -> Description:
    """Write a base.

    Raises:
        ValueError: the folder exists, or cannot be written.
    """
    scaler = checkpoint.scaler
    with written_beside(folder) as beside:
        save_file(dict(checkpoint.weights), beside / DECODER, {"format": "pt"})
        arrays = {name: torch.from_numpy(vars(scaler)[name]) for name in ("scale", "shift", "lowest", "highest")}
        save_file(arrays | {"columns": torch.tensor(scaler.columns)}, beside / NORMALIZER, {"format": "pt"})
        description = Description(
            schema=SCHEMA,
            columns=columns(),
            rate_hz=RATE_HZ,
            window=WINDOW,
            sizes=checkpoint.sizes,
            normalised_to=scaler.ends,
            samples=scaler.samples,
            left_out=checkpoint.left_out,
            source=Source(name=source.name, bytes=source.stat().st_size, sha256=digest(source)),
            files={name: digest(beside / name) for name in (DECODER, NORMALIZER)},
        )
        text = json.dumps(redaction.hide_tree(documents.to_json(description)), indent=2)
        (beside / "config.json").write_text(text + "\n", encoding="utf-8")
    return description


def is_gait_base(folder: Path) -> bool:
    """Whether a folder is one, be it damaged."""
    return (folder / DECODER).is_file()


def load_gait_base(folder: Path | str) -> GaitBase:
    """A base, frozen and in eval mode.

    Raises:
        ValueError: it is none, or of another version.
        CorruptData: a file is missing, or is not what it was.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_files(folder, description)
    decoder = GaitDecoder(description.sizes)
    weights, held = read(folder / DECODER), read(folder / NORMALIZER)
    try:
        decoder.load_state_dict(weights)
        places, arrays = held.pop("columns").tolist(), {name: value.numpy() for name, value in held.items()}
        scaler = Scaler(columns=tuple(places), ends=description.normalised_to, samples=description.samples, **arrays)
        base = GaitBase(description, decoder, scaler)
    except (RuntimeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise CorruptData(f"{folder} contradicts itself ({str(error).splitlines()[0]}); import it again") from error
    return base.requires_grad_(requires_grad=False).eval()


def read_description(folder: Path) -> Description:
    """config.json. ValueError where the folder is no base, or of another version; CorruptData where it is damaged."""
    file = folder / "config.json"
    if not is_gait_base(folder) or not file.is_file():
        raise ValueError(f"{folder} is no imported gait model: give a folder that `vla import gaitdynamics` wrote")
    text = file.read_bytes()
    if (schema := documents.schema_of(text)) not in (SCHEMA, None):
        raise ValueError(f"{file} is of schema {schema}, this version reads schema {SCHEMA}; import the model again")
    return documents.from_json(Description, text, file, exact=True)


def check_files(folder: Path, description: Description) -> None:
    """Refuse files that are not what they were (CorruptData)."""
    for name in (DECODER, NORMALIZER):
        if not (folder / name).is_file() or digest(folder / name) != description.files.get(name):
            raise CorruptData(f"{folder / name} is missing, or not the file that config.json lists; import it again")


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); import it again") from error


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
