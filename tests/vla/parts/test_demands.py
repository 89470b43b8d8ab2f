"""What a backbone cannot do for a policy is said before its weights are loaded."""

from dataclasses import replace
from typing import Any

import pytest

from tests.vla.test_policy import BARE, CAMERA, CONTRACT, SEEING, build
from vla.parts import Encoders
from vla.parts.demands import check_demands
from vla.settings import BackboneConfig

HASH = replace(SEEING, backbone=BackboneConfig(path="hash"), lora=None)


@pytest.mark.parametrize(
    ("config", "contract", "words"),
    [
        (replace(HASH, lora=SEEING.lora), BARE, "takes no LoRA adapters; give --finetune-vl none, or a Qwen2.5-VL"),
        (replace(HASH, encoders=Encoders()), CONTRACT, r"sees nothing of observation.images.front, observation.images"),
    ],
)
def test_a_policy_is_refused(config: Any, contract: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.assembling.load_backbone", lambda *_: pytest.fail("it is loaded"))
    with pytest.raises(ValueError, match=words) as refusal:
        build(config, contract)
    assert "\n" not in str(refusal.value)


def test_a_camera_encoder_looks_beside_a_backbone_that_reads() -> None:
    policy = build(HASH)
    assert policy.sizes == (policy.sizes[0],)
    assert policy.sizes[0].of(99, 200) == (CAMERA.pixels, CAMERA.pixels)
    assert build(HASH, BARE).sizes == ()


def test_a_backbone_that_sees_may_be_trained_and_looks_at_cameras() -> None:
    check_demands(BackboneConfig(path="tiny"), Encoders(), CONTRACT, {"lora", "backbone"})
