"""What a policy demands of its backbone, compared with what that can do before its weights are loaded."""

from collections.abc import Collection

from vla.contract import DataContract
from vla.parts import PARTS, Encoders, fitting, row_of
from vla.parts.backbone import check_settings, kind_of, resolve
from vla.parts.kind import Kind
from vla.settings import BackboneConfig


def check_demands(config: BackboneConfig, encoders: Encoders, contract: DataContract, opened: Collection[str]) -> None:
    """Refuse what the backbone cannot do for a policy, before its weights are loaded.

    `opened` are the groups of its parameters that are to be trained: lora, backbone.

    Raises:
        ValueError: names what it cannot do, and what to give instead.
    """
    check_kind(kind_of(resolve(config.path)), config, encoders, contract, opened)


def check_kind(
    kind: Kind, config: BackboneConfig, encoders: Encoders, contract: DataContract, opened: Collection[str]
) -> None:
    """As `check_demands`, of a backbone whose kind is known."""
    check_settings(config, kind)
    if kind.sees:
        return
    stays = f"{config.path} is {kind.words}, which stays as it is"
    if "lora" in opened:
        raise ValueError(f"{stays}, so it takes no LoRA adapters; give --finetune-vl none, or a Qwen2.5-VL")
    if "backbone" in opened:
        raise ValueError(f"{stays}, so none of its blocks can be trained; give --finetune-vl none, or a Qwen2.5-VL")
    if contract.cameras and not any(PARTS[row_of(name)].size for name in fitting(encoders, contract)):
        without = "data without cameras" if contract.body is None else "leave --data.motion.pictures out"
        raise ValueError(
            f"{config.path} is {kind.words} and sees nothing of {', '.join(contract.cameras)}; give --camera.width 64 "
            f"for a camera encoder beside it, a Qwen2.5-VL as --backbone.path, or {without}"
        )
