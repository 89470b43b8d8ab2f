"""What size suits a part that is not told its own."""

from dataclasses import replace

import pytest

from tests.vla.test_contract import CONTRACT
from vla.contract import StreamContract
from vla.parts import Encoders
from vla.parts.sizes import suited
from vla.settings import ExpertConfig, SensorConfig, Sizes


@pytest.mark.parametrize(
    ("backbone", "sizes"), [(64, (128, 3, 4)), (2048, (1024, 6, 16)), (3584, (1792, 6, 28)), (5120, (2560, 6, 40))]
)
def test_an_expert_suits_its_backbone(backbone: int, sizes: tuple[int, int, int]) -> None:
    """The widths of tiny, 3B, 7B and 32B."""
    expert = suited(Encoders(), ExpertConfig(dropout=0.3), CONTRACT, backbone)[1]
    assert expert.sizes == Sizes(width=sizes[0], depth=sizes[1], heads=sizes[2])
    assert expert.dropout == 0.3


def test_what_is_given_stays_and_the_rest_suits_it() -> None:
    expert = suited(Encoders(), ExpertConfig(width=512, depth=2), CONTRACT, 2048)[1]
    assert expert.sizes == Sizes(width=512, depth=2, heads=8)
    assert suited(Encoders(), ExpertConfig(width=300), CONTRACT, 64)[1].sizes.heads == 3
    with pytest.raises(ValueError, match="width 1024 does not divide into 7 heads"):
        suited(Encoders(), ExpertConfig(heads=7), CONTRACT, 2048)
    with pytest.raises(ValueError, match=r"expert\.width is 31; give an even number, or auto"):
        ExpertConfig(width=31)


def test_a_sensor_encoder_suits_the_widest_stream() -> None:
    ascan = StreamContract(key="observation.ascan", channels=1026, samples=650, rate_hz=650.0)
    for streams, sizes in (
        (CONTRACT.streams, Sizes(width=128, depth=1, heads=4)),
        ({**CONTRACT.streams, "sensor/ascan": ascan}, Sizes(width=512, depth=2, heads=8)),
        ({}, Sizes(width=128, depth=1, heads=4)),
    ):
        encoders = suited(Encoders(), ExpertConfig(), replace(CONTRACT, streams=streams), 64)[0]
        assert encoders.sensor.sizes == sizes
    given = suited(Encoders(sensor=SensorConfig(depth=0)), ExpertConfig(), CONTRACT, 64)[0]
    assert given.sensor.sizes == Sizes(width=128, depth=0, heads=4)
