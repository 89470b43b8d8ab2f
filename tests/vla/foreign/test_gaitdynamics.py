"""Checkpoints of GaitDynamics: read without running them, computed as the layers that they are of, sampled in units."""

import copy
import functools
import json
import math
import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vla import diffusion
from vla.__main__ import main
from vla.adapter_settings import AdapterConfig
from vla.adapters.host import Adapters
from vla.adapters.layer import Blend
from vla.errors import CorruptData
from vla.foreign.gait_base import GaitBase, amplitudes, load_gait_base, save_gait_base
from vla.foreign.gaitdynamics import read_checkpoint

COLUMNS, WIDTH, WIDE, DEPTH, HEADS, FRAMES = 63, 128, 96, 2, 2, 24


class Layer(nn.Module):
    """As their files have it, with torch's own attention; one of the two is never called."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH)
        self.norm1, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.film1, self.film3 = Film(), Film()
        self.rotary = rotary

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        flat = self.norm1(x)
        placed = torch.view_as_complex(flat.unflatten(-1, (-1, 2)).contiguous())
        angle = torch.outer(torch.arange(x.shape[1]).float(), self.rotary.freqs)
        placed = torch.view_as_real(placed * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
        x = x + self.film1(self.self_attn(placed, placed, flat, need_weights=False)[0], told)
        return x + self.film3(self.linear2(nn.functional.gelu(self.linear1(self.norm3(x)))), told)


class Film(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Mish(), nn.Linear(WIDTH, 2 * WIDTH))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        made = self.block(told)[:, None]
        return x * (1 + made[..., :WIDTH]) + made[..., WIDTH:]


class Frequencies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("freqs", 1 / 10_000 ** (torch.arange(0, WIDTH, 2).float() / WIDTH))


class Stack(nn.Module):
    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.stack = nn.ModuleList(Layer(rotary) for _ in range(DEPTH))


class Waves(nn.Module):
    """Its rates are rounded as theirs: at step 999 a rounding of float32 becomes 6e-5 of a turn's angle."""

    def forward(self, step: Tensor) -> Tensor:
        half = WIDTH // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1)))
        return torch.cat([(step[:, None] * rates).sin(), (step[:, None] * rates).cos()], dim=1)


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary = Frequencies()
        self.time_mlp = nn.Sequential(Waves(), nn.Linear(WIDTH, 4 * WIDTH), nn.Mish())
        self.input_projection = nn.Linear(COLUMNS, WIDTH)
        self.to_time_cond = nn.Sequential(nn.Linear(4 * WIDTH, WIDTH))
        self.seqTransDecoder = Stack(self.rotary)
        self.final_layer = nn.Linear(WIDTH, COLUMNS)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        x, told = self.input_projection(x), self.to_time_cond(self.time_mlp(step))
        for layer in self.seqTransDecoder.stack:
            x = layer(x, told)
        return self.final_layer(x)


@functools.cache
def reference() -> Reference:
    """With weights that are all random: biases, scales of norms and the unused ones, too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = Reference()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.12)
    return model.eval()


class MinMaxScaler:
    """Holds what theirs holds."""

    def __init__(self, rows: Tensor) -> None:
        self.feature_range, self.copy, self.clip = (-10, 10), True, True
        self.n_samples_seen_ = len(rows)
        self.data_min_, self.data_max_ = rows.amin(0), rows.amax(0)
        self.data_range_ = self.data_max_ - self.data_min_
        self.scale_ = 20 / self.data_range_
        self.min_ = -10 - self.data_min_ * self.scale_


class Normalizer:
    def __init__(self, rows: Tensor, columns: Any) -> None:
        self.scaler = MinMaxScaler(rows[:, list(columns)])
        self.cols_to_normalize = columns


def rows_of_training() -> Tensor:
    return torch.randn(400, COLUMNS, generator=torch.Generator().manual_seed(4)) * torch.linspace(0.2, 5, COLUMNS) + 1


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file whose classes are looked for where theirs are, and are there only while it is written."""

    def made(
        name: str = "base.pt",
        *,
        modules: tuple[str, str] = ("data.preprocess", "data.scaler"),
        columns: Any = None,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Path:
        normalizer = Normalizer(rows_of_training(), range(COLUMNS) if columns is None else columns)
        content = {"ema_state_dict": reference().state_dict(), "normalizer": normalizer}
        change(content)
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "data", types.ModuleType("data"))
            for kind, module in zip((Normalizer, MinMaxScaler), modules, strict=True):
                patched.setattr(kind, "__module__", module)
                patched.setitem(sys.modules, module, sys.modules.get(module, types.ModuleType(module)))
                patched.setattr(sys.modules[module], kind.__name__, kind, raising=False)
            torch.save(content, tmp_path / name)
        return tmp_path / name

    return made


def imported(file: Path) -> GaitBase:
    save_gait_base(read_checkpoint(file), file, file.with_suffix(""))
    return load_gait_base(file.with_suffix(""))


def test_the_decoder_computes_what_torch_s_own_attention_computes(write: Write) -> None:
    base, theirs = imported(write()), reference()
    generator = torch.Generator().manual_seed(5)
    x_t, step = torch.randn(5, FRAMES, COLUMNS, generator=generator), torch.tensor([0, 1, 19, 500, 999])
    with torch.no_grad():
        expected, found = theirs(x_t, step), base.decoder(x_t, step)
        other_step, other_place = theirs(x_t, step.flip(0)), theirs(x_t.flip(1), step).flip(1)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-5
    assert min((other - expected).abs().max() for other in (other_step, other_place)) > 1e-2, "both matter"


def test_a_window_is_what_ddim_makes_of_the_same_noise_in_units(write: Write) -> None:
    """Against their steps, written out in float64: whole steps, clean frames predicted, no clipping."""
    file = write()
    base, theirs = imported(file), copy.deepcopy(reference()).double()
    kept = np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)
    x = noise = torch.randn(2, FRAMES, COLUMNS, generator=torch.Generator().manual_seed(6))
    x = x.double()
    for now in range(999, 0, -20):
        with torch.no_grad():
            clean = theirs(x, torch.full((2,), float(now), dtype=torch.float64))
        eps = (x - kept[now] ** 0.5 * clean) / (1 - kept[now]) ** 0.5
        x = clean if now == 19 else kept[now - 20] ** 0.5 * clean + (1 - kept[now - 20]) ** 0.5 * eps
    assert (base.walk(noise) - x).abs().max() <= 1e-4
    scaler = MinMaxScaler(rows_of_training())
    units = (x - scaler.min_) / scaler.scale_
    assert torch.allclose(base.denormalize(base.walk(noise)), units, atol=1e-4)
    three, one = base.sample(3, seed=1, steps=5, frames=FRAMES), base.sample(1, seed=1, steps=5, frames=FRAMES)
    assert three.shape == (3, FRAMES, COLUMNS) == (3, FRAMES, len(base.columns))
    assert np.abs(three[:1] - one).max() < 1e-4, "a window does not depend on how many are made"
    assert np.abs(three[1] - one[0]).max() > 1e-2
    with pytest.raises(ValueError, match="1001 sampling steps were asked for; give 1 to 1000"):
        base.sample(steps=1001)


def test_their_linear_schedule_is_none_of_ours(write: Write) -> None:
    """Its roots are evenly spaced, not its betas: `linear` would be wrong by up to 0.30 of the clean frames' weight."""
    times = torch.arange(1, 1001) / 1000
    ours, theirs = diffusion.coefficients("linear", times).alpha.numpy(), amplitudes()
    assert 0.29 < (theirs - ours).max() == np.abs(theirs - ours).max() < 0.31
    assert theirs[[0, -1]] == pytest.approx([0.99995, 0.02708], abs=1e-5)
    known = imported(write()).coefficients(torch.arange(1000))
    assert np.abs(known.alpha.numpy() - theirs).max() < 1e-6
    assert (known.alpha.square() + known.sigma.square() - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("modules", "columns"),
    [
        (("__main__", "__main__"), None),
        (("data.preprocess", "data.scaler"), [3, 0, 62]),
        (("data.preprocess", "data.scaler"), np.arange(2, 61)),
        (("data.preprocess", "data.scaler"), torch.arange(5)),
    ],
)
def test_normalised_columns_lie_between_their_ends_and_others_stay(
    write: Write, modules: tuple[str, str], columns: Any
) -> None:
    base, rows = imported(write(modules=modules, columns=columns)), rows_of_training()
    normalised = base.normalize(rows)
    chosen = list(range(COLUMNS)) if columns is None else [int(place) for place in columns]
    assert normalised[:, chosen].amin(0) == pytest.approx(np.full(len(chosen), -10), abs=1e-4)
    assert normalised[:, chosen].amax(0) == pytest.approx(np.full(len(chosen), 10), abs=1e-4)
    others = sorted(set(range(COLUMNS)) - set(chosen))
    assert torch.equal(normalised[:, others], rows[:, others])
    assert torch.allclose(base.denormalize(normalised).float(), rows, atol=1e-5)


def test_columns_have_the_names_and_the_order_of_gait_trials(write: Write) -> None:
    """The order that the trials' own columns have, in the reader's sets and by count; units of the derived ones."""
    columns = {column.name: column.unit for column in imported(write()).columns}
    names = list(columns)
    assert len(names) == 63
    assert names[:9] == [
        *("pelvis_tx", "pelvis_ty", "pelvis_tz", "knee_angle_r", "ankle_angle_r", "subtalar_angle_r"),
        *("knee_angle_l", "ankle_angle_l", "subtalar_angle_l"),
    ]
    assert names[9:16:3] == ["calcn_r_force_vx", "calcn_r_force_normed_cop_x", "calcn_l_force_vx"]
    assert names[21:27] == [f"pelvis_{number}" for number in range(6)] and names[39] == "lumbar_0"
    assert names[45:48] == [f"pelvis_{axis}_angular_vel" for axis in "xyz"]
    assert names[57:] == [f"{name}_vel" for name in names[3:9]]
    assert [columns[name] for name in ("pelvis_tx", "knee_angle_r", "calcn_l_force_vy", "knee_angle_r_vel")] == [
        *("1/s", "rad", "N/kg", "rad/frame")
    ]


def test_an_adapter_of_every_linear_layer_learns_everywhere_and_the_base_nowhere(write: Write) -> None:
    """As of the layers whose names are promised; a fresh one changes no bit."""
    decoder = imported(write()).decoder
    x_t, step = torch.randn(2, 4, COLUMNS, generator=torch.Generator().manual_seed(7)), torch.tensor([7, 900])
    before = decoder(x_t, step)
    assert not [module for module in decoder.modules() if isinstance(module, nn.MultiheadAttention)]
    adapters = Adapters(decoder, Blend())
    adapters.add(AdapterConfig(name="crouch", targets=(".*",), rank=2, dropout=0.0))
    adapters.set({"crouch": 1.0})
    named = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj", "linear1", "linear2")
    assert set(adapters.updates("crouch")) >= {
        *("input_projection", "final_layer"),
        *(f"layers.{number}.{name}" for number in range(DEPTH) for name in named),
    }
    assert len(adapters.updates("crouch")) == 4 + 8 * DEPTH
    assert torch.equal(decoder(x_t, step), before)
    learned = adapters.parameters("crouch")
    for parameter in learned.values():
        nn.init.normal_(parameter.requires_grad_(), std=0.1)
    decoder(x_t, step).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is None if name not in learned else parameter.grad.abs().max() > 0, name


def test_the_command_imports_and_info_tells(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def add(content: dict[str, Any]) -> None:
        content["model_state_dict"] = content["ema_state_dict"]

    file, out = write(change=add), tmp_path / "out"
    assert main(["import", "gaitdynamics", str(file), str(out)]) == 0
    said = capsys.readouterr()
    unused = DEPTH * (4 * WIDTH * WIDTH + 4 * WIDTH)
    assert f"left out: {unused:,} weights of multihead_attn" in said.err and "left out: model_state_dict" in said.err
    assert "2 heads, one for each 64 numbers; the file does not say it" in said.err
    assert "63 of 63 columns normalised to -10 .. 10" in said.out
    held = load_file(out / "normalizer.safetensors")
    assert torch.equal(held["lowest"].float(), rows_of_training().amin(0))
    assert held["columns"].tolist() == list(range(COLUMNS))
    weights = load_file(out / "decoder.safetensors")
    assert not [name for name in weights if "multihead" in name]
    kept = sum(parameter.numel() for name, parameter in reference().named_parameters() if "multihead" not in name)
    assert sum(value.numel() for value in weights.values()) == kept + WIDTH // 2
    assert main(["info", str(out), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["kind"], tree["sizes"]["layers"], tree["columns"][0]) == ("gait model", DEPTH, "pelvis_tx")
    assert main(["import", "gaitdynamics", str(file), str(out)]) == 78
    assert "exists" in capsys.readouterr().err
    damaged = bytearray((out / "decoder.safetensors").read_bytes())
    damaged[-1] ^= 1
    (out / "decoder.safetensors").write_bytes(damaged)
    assert main(["info", str(out)]) == 65
    with pytest.raises(CorruptData, match="decoder.safetensors is missing, or not the file that config.json lists"):
        load_gait_base(out)
    capsys.readouterr()
    for words in (["--data.cameras", "top"], ["--heads", "3"]):
        code = main(["import", "gaitdynamics", str(file), str(tmp_path / "other"), *words])
        assert code == (2 if "top" in words else 78)
        assert "Traceback" not in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (tmp_path / "other").exists()


class Touch:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_file_is_executed(write: Write, tmp_path: Path) -> None:
    sung = tmp_path / "sung"

    def beside(content: dict[str, Any]) -> None:
        content["note"] = Touch(sung)

    def within(content: dict[str, Any]) -> None:
        content["normalizer"].scaler.copy = Touch(sung)

    def instead(content: dict[str, Any]) -> None:
        content["ema_state_dict"] = Touch(sung)

    for place, change in enumerate((beside, within, instead)):
        file = write(f"{place}.pt", change=change)
        with pytest.raises(ValueError, match=r"holds what is no data \(\S*mkdir\), which is not loaded") as raised:
            read_checkpoint(file)
        assert "\n" not in str(raised.value)
    other = write("other.pt", modules=("data.preprocess", "data.others"))
    with pytest.raises(ValueError, match=r"no data \(data.others.MinMaxScaler\)"):
        read_checkpoint(other)
    for called in ("eval", "exec", "getattr", "open"):
        with zipfile.ZipFile(write(f"{called}.pt")) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        (name,) = [name for name in parts if name.endswith("data.pkl")]
        text = f"__import__('os').mkdir({str(sung)!r})".encode()
        parts[name] = b"\x80\x02cbuiltins\n" + called.encode() + b"\nX" + len(text).to_bytes(4, "little") + text
        parts[name] += b"\x85R."
        with zipfile.ZipFile(tmp_path / f"{called}.pt", "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, content)
        with pytest.raises(ValueError, match=rf"no data \((builtins\.)?{called}\)"):
            read_checkpoint(tmp_path / f"{called}.pt")
    assert not sung.exists()


def weights(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Puts a tensor into a file, or takes one out."""

    def change(content: dict[str, Any]) -> None:
        if value is None:
            del content["ema_state_dict"][name]
        else:
            content["ema_state_dict"][name] = value

    return change


def scaler(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Puts something into a file's scaler."""
    return lambda content: setattr(content["normalizer"].scaler, name, value)


def layout(content: dict[str, Any]) -> None:
    content["lora_state_dict"] = content.pop("ema_state_dict")


def columns(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: setattr(content["normalizer"], "cols_to_normalize", value)


FIRST = "seqTransDecoder.stack.0"
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], type[ValueError], str]] = {
    "another layout": (
        layout,
        ValueError,
        "it has normalizer, lora_state_dict, expected ema_state_dict and",
    ),
    "no normaliser": (lambda content: content.update(normalizer={}), ValueError, "a normalizer that is no Normalizer"),
    "missing": (weights("to_time_cond.0.bias", None), ValueError, "in 1 weights .to_time_cond.0.bias is missing"),
    "unexpected": (weights("pe", torch.zeros(3)), ValueError, "in 1 weights .pe is unexpected"),
    "terminal": (weights("a\n\x1b[2J", torch.zeros(3)), ValueError, r"in 1 weights .'a\\n\\x1b\[2J is unexpected"),
    "shape": (weights(f"{FIRST}.norm1.bias", torch.zeros(9)), ValueError, r"norm1.bias is \[9\] instead of \[128\]"),
    "of another model": (weights("input_projection.weight", None), ValueError, "has no input_projection.weight"),
    "width": (weights("input_projection.weight", torch.zeros(96, 63)), ValueError, "width of 96.* give --heads"),
    "columns": (weights("input_projection.weight", torch.zeros(128, 61)), ValueError, "rows of 61 numbers"),
    "copies": (weights(f"{FIRST}.rotary.freqs", torch.zeros(64)), CorruptData, "other rotary.freqs in layer 0"),
    "not finite": (weights("final_layer.bias", torch.full((63,), np.nan)), CorruptData, "final_layer.bias in .*finite"),
    "few bytes": (weights("final_layer.bias", torch.zeros(1).expand(63)), CorruptData, "is no plain tensor"),
    "no tensor": (weights("final_layer.bias", 3), CorruptData, "final_layer.bias in .*is no plain tensor"),
    "scaler's width": (scaler("scale_", torch.ones(62)), CorruptData, r"scale_ is \[62\], expected 63 finite numbers"),
    "scaler's zero": (scaler("scale_", torch.zeros(63)), CorruptData, "scale_ is not above 0 everywhere"),
    "scaler's text": (scaler("min_", "a"), CorruptData, "a scaler that cannot be read"),
    "endless": (columns(range(10**15)), CorruptData, "1000000000000000 columns are normalised, rows have 63"),
    "twice": (columns([1, 1]), CorruptData, "are not different ones of 63"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(write: Write, tmp_path: Path, case: str) -> None:
    change, kind, said = REFUSED[case]
    file = write(change=change)
    with pytest.raises(ValueError, match=said) as raised:
        save_gait_base(read_checkpoint(file), file, tmp_path / "out")
    assert type(raised.value) is kind
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_damage_is_told_in_one_sentence(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write().read_bytes()
    start = whole.index(b"data.pkl")
    flipped = bytearray(whole)
    flipped[start + 600 : start + 700] = bytes(100)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:709f72\nsize 143259205\n"
    empty = b"PK\x05\x06" + bytes(18)
    halves = whole[: len(whole) // 2]
    for content, code in ((halves, 78), (b"", 78), (empty, 65), (pointer, 78), (bytes(flipped), None)):
        (tmp_path / "damaged.pt").write_bytes(content)
        answer = main(["import", "gaitdynamics", str(tmp_path / "damaged.pt"), str(tmp_path / "out")])
        assert answer == code if code is not None else answer in (65, 78)
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and "damaged.pt" in said
        assert ("git lfs pull" in said) == (content == pointer)
    assert not (tmp_path / "out").exists()
