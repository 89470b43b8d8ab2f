"""The numbers that an estimate of time rests on, each with its limits and its source.

`measured`: counted by dispatch on a CPU, which runs the operations that a GPU would. `estimate`: of an H200, until one
is measured. `assumed`: neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Which = Literal["value", "slow", "fast"]
"""The number itself, or the end of its range that makes a step slow or fast."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A number and the range it is believed to lie in."""

    value: float
    slow: float
    fast: float
    unit: str
    source: str

    def at(self, which: Which) -> float:
        """Itself, or an end of its range."""
        return {"value": self.value, "slow": self.slow, "fast": self.fast}[which]


def around(value: float, error: float, unit: str, source: str) -> Constant:
    """A cost that is known to a share of itself."""
    return Constant(value=value, slow=value * (1 + error), fast=value * (1 - error), unit=unit, source=source)


CONSTANTS: Mapping[str, Constant] = {
    "matrices": Constant(
        value=0.71,
        slow=0.6,
        fast=0.8,
        unit="of the bf16 peak",
        source="estimate: 700 of an H200's 989 TFLOPS; at most 794 were ever measured (ml-engineering, MAMF)",
    ),
    "traffic": Constant(
        value=0.83, slow=0.7, fast=0.92, unit="of the memory bandwidth", source="estimate: 4.0 of an H200's 4.8 TB/s"
    ),
    "launch": Constant(value=6.5e-6, slow=8e-6, fast=5e-6, unit="s a kernel", source="estimate: 5 to 8 us of Python"),
    "link": Constant(value=0.8, slow=0.6, fast=0.9, unit="of a link", source="estimate: 360 of 450 GB/s of NVLink"),
    "room": Constant(
        value=0.95, slow=0.95, fast=0.95, unit="of the memory", source="assumed: CUDA's context, fragments"
    ),
    "norm bytes": around(36.0, 0.05, "bytes a channel and norm, forward", "measured: in six kernels, 3B widths"),
    "residual bytes": around(12.0, 0.05, "bytes a channel and block", "measured, as above: two additions"),
    "rotary bytes": around(20.0, 0.05, "bytes a channel of query and key", "measured, as above"),
    "mlp bytes": around(10.0, 0.05, "bytes an inner channel", "measured, as above: SiLU and product"),
    "backward": around(2.21, 0.05, "of the forward's bytes", "measured: 711 to 322 KiB a token and block of the 3B"),
    "lora forward": around(2.8, 0.1, "bytes an input of LoRA, dropout", "measured: 344 to 322 KiB a token of the 3B"),
    "lora backward": around(8.3, 0.1, "bytes an input of LoRA, dropout", "measured: 745 to 679 KiB, as above"),
    "bare forward": around(0.3, 0.1, "bytes an input of LoRA, no dropout", "measured: 324 to 322 KiB, as above"),
    "bare backward": around(3.3, 0.1, "bytes an input of LoRA, no dropout", "measured: 705 to 679 KiB, as above"),
    "vision bytes": around(238.0, 0.05, "bytes a channel and patch, forward", "measured: 298 KiB a patch of the 3B"),
    "kept bytes": around(5.0, 0.4, "times what is kept", "derived: written, read twice, and its gradient likewise"),
    "block launches": around(48.0, 0.1, "kernels a block, forward", "measured, with LoRA"),
    "block launches back": around(82.0, 0.1, "kernels a block, backward", "measured, with LoRA"),
    "frozen launches": around(38.0, 0.1, "kernels a block, forward", "measured, without"),
    "vision launches": around(44.0, 0.1, "kernels a block", "measured"),
    "expert launches": around(155.0, 0.1, "kernels a block, both ways", "measured"),
    "other launches": around(440.0, 0.1, "kernels a micro-batch", "measured"),
    "step launches": around(100.0, 0.1, "kernels a step", "measured: norms, guard, clipping, AdamW, averages"),
    "step bytes": around(72.0, 0.2, "bytes a trained parameter", "derived: what those read and write"),
    "cast bytes": around(6.0, 0.2, "bytes a trained parameter and micro-batch", "derived: float32 to bfloat16"),
    "host": Constant(
        value=100e9, slow=50e9, fast=200e9, unit="bytes/s of host memory", source="assumed: for AdamW under offload"
    ),
}
