"""What kinds of GPU can do, by the data sheets of their maker."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vla.planning.workload import Number


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, in units of 1000 to a power."""

    name: str
    memory: Number
    """Bytes."""
    flops: Number
    """Products of matrices in bfloat16 with sums in float32, dense, FLOP/s."""
    bandwidth: Number
    """Of its memory, bytes/s."""
    link: Number
    """To the next GPU of the machine, one way, bytes/s: NVLink, else PCIe."""
    bus: Number
    """To the host, one way, bytes/s."""
    reports: str = "(?!)"
    """What the driver calls it, as a regular expression."""


def row(name: str, sheet: tuple[Number, Number, Number, Number, Number], reports: str = "(?!)") -> Gpu:
    """A row of the table: GB, TFLOPS, GB/s of memory, link and bus."""
    memory, tflops, *rates = sheet
    bandwidth, link, bus = (1e9 * rate for rate in rates)
    return Gpu(
        name=name, memory=1e9 * memory, flops=1e12 * tflops, bandwidth=bandwidth, link=link, bus=bus, reports=reports
    )


TABLE = (
    # name, (GB, TFLOPS bf16, GB/s memory, GB/s link, GB/s bus), driver's name
    row("RTX 4090", (24, 165.2, 1008, 32, 32), r"RTX 4090$"),
    row("RTX 5090", (32, 209.5, 1792, 64, 64), r"RTX 5090$"),
    row("RTX 6000 Ada", (48, 364.2, 960, 32, 32), r"RTX 6000 Ada"),
    row("L40S", (48, 362.0, 864, 32, 32), r"L40S$"),
    row("A100 40GB", (40, 312, 1555, 300, 32), r"A100-SXM4-40GB"),
    row("A100 80GB", (80, 312, 2039, 300, 32), r"A100-SXM4-80GB"),
    row("A100 PCIe", (80, 312, 1935, 32, 32), r"A100 80GB PCIe"),
    row("H100 PCIe", (80, 756, 2000, 64, 64), r"H100 PCIe"),
    row("H100 SXM", (80, 989.4, 3350, 450, 64), r"H100 80GB HBM3"),
    row("H200", (141, 989.4, 4800, 450, 64), r"H200$"),
    row("B200", (180, 2250, 8000, 900, 64), r"B200$"),
)
"""NVIDIA's data sheets: Ada and Blackwell RTX architecture papers, L40S, A100, H100, H200, HGX B200. FLOP/s are those
without sparsity; consumer cards sum bfloat16 in float32 at half the rate of float16. A link is half of what the sheet
gives for both ways."""
GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in TABLE}
OWN = "own"
FORM = "GB,TFLOPS,GB/s of memory, e.g. --gpu 96,500,1800"
PCIE4 = 32


def gpu_of(word: str) -> Gpu:
    """The kind of a name, however it is spelt, or of its end (4090); or of numbers: `GB,TFLOPS,GB/s`.

    Raises:
        ValueError: nobody knows it, or its numbers are no GPU.
    """
    if "," in word:
        return described(word)
    known = {spelt(name): gpu for name, gpu in GPUS.items()}
    ending = [gpu for name, gpu in known.items() if spelt(word) and name.endswith(spelt(word))]
    if len(ending) == 1:
        return ending[0]
    beginning = [gpu.name for name, gpu in known.items() if spelt(word) and name.startswith(spelt(word))]
    near = beginning or [known[name].name for name in difflib.get_close_matches(spelt(word), known, 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}? Of" if near else f"known are {', '.join(GPUS)}; of"
    raise ValueError(f"no data sheet of a GPU {word!r} is here: {hint} any other give the numbers, {FORM}")


def described(word: str) -> Gpu:
    """A GPU by its numbers; what it has to reach others by counts as PCIe 4.

    Raises:
        ValueError: they are not three positive numbers.
    """
    try:
        memory, tflops, bandwidth = (float(part) for part in word.split(","))
    except ValueError:
        memory = tflops = bandwidth = math.nan
    if not all(math.isfinite(number) and number > 0 for number in (memory, tflops, bandwidth)):
        raise ValueError(f"--gpu {word} is no GPU: give a name, or three positive numbers, {FORM}")
    return row(OWN, (memory, tflops, bandwidth, PCIE4, PCIE4))


def reported(device: str) -> Gpu | None:
    """The kind that a driver reports under such a name; None of one that the table lacks."""
    return next((gpu for gpu in TABLE if re.search(gpu.reports, device.strip())), None)


def spelt(name: str) -> str:
    """A name without its case, spaces, dashes and maker."""
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
