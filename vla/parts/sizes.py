"""What size suits a part that is not told its own."""

from vla.contract import DataContract
from vla.parts import PARTS, Encoders
from vla.settings import ExpertConfig
from vla.settings import suited as filled

SMALL_BACKBONE = 1024
"""Width of a language model below which a small expert suits it, such as one that is made for trials on a CPU."""


def suited(
    encoders: Encoders, expert: ExpertConfig, contract: DataContract, backbone_width: int
) -> tuple[Encoders, ExpertConfig]:
    """The settings of the parts and of the expert without anything left open.

    An expert is half as wide as its backbone (1024 beside 2048, Qwen2.5-VL 3B), 6 blocks deep; beside a small one it is
    128 wide and 3 deep.

    Raises:
        ValueError: the heads that were given do not share the width that suits.
    """
    settings = {row: part.suit(vars(encoders)[row], contract) for row, part in PARTS.items()}
    small = backbone_width < SMALL_BACKBONE
    wide = 128 if small else -(-backbone_width // 256) * 128
    return Encoders(**settings), filled(expert, wide, 3 if small else 6)
