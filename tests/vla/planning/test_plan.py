"""Choosing: what fits, what is fastest, and the table of GPUs."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from vla.__main__ import main
from vla.planning import telling
from vla.planning.constants import CONSTANTS
from vla.planning.gpus import GPUS, gpu_of, reported

REPOSITORY = Path(__file__).resolve().parents[3]


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["plan", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_3b_on_an_h200_is_what_the_single_numbers_make(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 32 samples of 3.93 TFLOP at 700 TFLOPS and 329 + 240 GB at 4 TB/s are 0.18 + 0.14 s."""
    found = planned(capsys, "3B", "--gpu", "H200", "--micro-batch", "32")
    row = found["rows"][0]  # type: ignore[index]
    assert row["samples_per_s"] == pytest.approx(32 / (32 * 3.93 / 700 + 569 / 4000), rel=0.05)
    slow, fast = row["samples_per_s_range"]
    assert 75 < slow < row["samples_per_s"] < fast < 120
    assert row["mfu"] == pytest.approx(row["samples_per_s"] * 3.93 / 989.4, rel=0.01)
    assert row["hours"] == pytest.approx(10_000 * 32 / row["samples_per_s"] / 3600)
    assert row["memory_bytes"] == pytest.approx(7.5e9 + 20 * 151.9e6 + 32 * 0.95e9, rel=0.05)


def test_ddp_is_fastest_for_lora_since_it_sends_least(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "3B", "--gpus", "8", "--batch-size", "512", "--micro-batch", "32", "--price", "3")
    rows = {row["topology"]: row for row in found["rows"]}  # type: ignore[attr-defined]
    assert found["fastest"] == "ddp"
    sent = {name: row["sent_bytes"] / rows["ddp"]["sent_bytes"] for name, row in rows.items()}
    assert (sent["zero1"], sent["zero2"]) == (1.5, 2.5), "2 : 3 : 2A + 1 at A = 2"
    assert rows["ddp"]["cost"] == pytest.approx(rows["ddp"]["hours"] * 8 * 3)


def test_what_is_read_from_behind_a_door_is_not_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: without the vision tower 2.95 TFLOP and 329 GB are left of 32 samples, of the upper half 1.48, 165."""
    size = {"vision": 3 * 64 * 2048 * 2, "layer-18": 256 * 2048 * 2}
    for door, words, teraflops, gigabytes in (
        ("vision", (), 2.95, 329),
        ("layer-18", ("--lora.layers", "top:18"), 1.48, 165),
    ):
        found = planned(capsys, "3B", "--micro-batch", "32", "--door", "auto", *words)
        row = found["rows"][0]  # type: ignore[index]
        assert row["samples_per_s"] == pytest.approx(32 / (32 * teraflops / 700 + gigabytes / 4000), rel=0.05)
        assert main(["plan", "3B", "--door", "auto", *words]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"read from behind `{door}`: {size[door] / 1000:,.0f} kB a sample" in said
    assert main(["plan", "3B", "--door", "context"]) == 78
    assert "lies behind what the stage trains" in capsys.readouterr().err


def test_what_does_not_fit_is_not_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "7B", "--gpu", "20,165,1008", "--gpus", "4", "--batch-size", "64")
    assert [row["topology"] for row in found["rows"] if row["fits"]] == ["zero3", "zero3_offload"]  # type: ignore[attr-defined]
    for row in found["rows"]:  # type: ignore[attr-defined]
        assert row["fits"] == (row["memory_bytes"] <= 0.95 * 20e9)
        assert row["accumulation"] * row["micro_batch"] * 4 == 64
    assert planned(capsys, "7B", "--gpu", "1,100,900")["fastest"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("3B", "--gpus", "8", "--machines", "16", "--batch-size", "4096", "--price", "1234.5", "--steps", "1000000"),
        ("7B", "--finetune-vl", "full", "--gpu", "B200", "--gpus", "8", "--batch-size", "64"),
        ("hash", "--recipe", "pretrain", "--gpu", "RTX 6000 Ada", "--price", "0.5"),
        ("tiny", "--recipe", "stage1", "--cameras", "0", "--sensor", "none"),
        ("tiny", "--gpu", "0.001,1,1"),
    ],
)
def test_a_plan_fits_into_80_columns(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^(Why: of a step|Nothing fits)", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--gpu", "H20"), "no data sheet of a GPU 'H20' is here: did you mean H200"),
        (("--gpu", "L40"), "did you mean L40S? Of any other"),
        (("--gpu", "potato"), "no data sheet of a GPU 'potato' is here: known are RTX 4090, "),
        (("--gpu", "H100"), "did you mean H100 PCIe or H100 SXM? Of any other give the numbers, GB,TFLOPS,GB/s"),
        (("--gpu", "80,100"), "--gpu 80,100 is no GPU: give a name, or three positive numbers"),
        (("--gpu", "80,-1,nan"), "is no GPU"),
        (("--gpus", "0"), "--gpus is 0; give at least 1"),
        (("--machines", "-1"), "--machines is -1; give at least 1"),
        (("--gpus", "3"), "--batch-size 32 does not divide among 3 GPUs: give 30 or 33"),
        (("--micro-batch", "5"), "--batch-size 32 does not divide among 1 GPUs x --micro-batch 5: give 30 or 35"),
        (("--micro-batch", "0"), "--micro-batch is 0; give at least 1"),
        (("--price", "-1"), "--price is -1; give what a GPU costs an hour, at least 0"),
        (("--recipe", "stage3"), "--recipe cannot be 'stage3'; give one of 'stage1', 'stage2', 'pretrain'"),
        (("--frame", "224"), "--frame is 224; give two numbers above 0 with an x between them"),
        (("--sensor", "6"), "--sensor is 6; give two numbers"),
        (("--cameras", "-1"), "--cameras is -1; give at least 0"),
        (("--network-gbit", "0"), "--network-gbit is 0; give a rate above 0"),
        (("--finetune-vl", "full", "--blocks", "3"), "cannot train the last 3 blocks"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "tiny", *words]) == 78
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("hash",), "so it takes no LoRA adapters; give --finetune-vl none"),
        (("hash", "--finetune-vl", "full"), "so none of its blocks can be trained"),
        (("hash", "--finetune-vl", "none"), "sees nothing of camera 0, camera 1, camera 2; give --camera.width 64"),
        (("hash", "--recipe", "pretrain", "--gradient-checkpointing"), "--backbone.gradient-checkpointing would have"),
        (("somebody/something",), "whose numbers are known here"),
    ],
)
def test_a_backbone_that_cannot_do_it_is_refused(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 78
    assert sentence in capsys.readouterr().err


def test_a_camera_encoder_looks_beside_hashed_words(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "hash", "--finetune-vl", "none", "--camera.width", "64")
    assert found["parameters"]["groups"].keys() == {"camera", "expert", "sensor"}  # type: ignore[index]


def test_every_gpu_is_found_by_its_name_and_by_what_its_driver_reports() -> None:
    for name, gpu in GPUS.items():
        assert gpu_of(name.lower().replace(" ", "-")) is gpu
    reports = {
        "NVIDIA GeForce RTX 4090": "RTX 4090",
        "NVIDIA A100-SXM4-80GB": "A100 80GB",
        "NVIDIA H100 80GB HBM3": "H100 SXM",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H200": "H200",
        "NVIDIA L40S": "L40S",
        "NVIDIA B200": "B200",
        "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    }
    for device, name in reports.items():
        assert reported(device) is GPUS[name]
    assert reported("NVIDIA L40") is None


def test_every_constant_has_a_range_and_a_source() -> None:
    for constant in CONSTANTS.values():
        low, high = sorted((constant.slow, constant.fast))
        assert low <= constant.value <= high
        assert constant.source.startswith(("measured", "estimate", "derived", "assumed"))
    assert dataclasses.fields(CONSTANTS["room"])[0].name == "value"


def test_every_part_of_a_step_has_words() -> None:
    assert telling.LIMITS.keys() == {"matrices", "traffic", "launches", "communication", "optimizer"}
