"""`python training/verify_resume.py`: trains straight, then with kills and changes of topology, and compares.

    python training/verify_resume.py --recipe two_stage --steps 12 --kills 3 --topologies zero2:2 -- FLAGS

FLAGS are those of the recipe's entry point (`--config FILE` too): a run can be tried on its own configuration before a
cluster is rented. The reference uses the first topology; the interrupted run uses the topologies in turn, one a leg.
Ends with 0 when what is promised holds, 1 when it does not, 2 when a flag is unknown, 78 when the configuration is
refused.

Promised: every step once, at its positions of the stream, in every case. Where the topology stays the same, everything
bit for bit. Where it changes, ranks add gradients in another order: losses to 1e-5, and tensors to 1e-3 of their
largest value, because Adam turns the rounding of a gradient that is zero (of the bias of attention's keys) into steps
of the whole rate. Not kept: dropout, where the micro-batch changes; its masks belong to a micro-batch. So that is
refused unless dropout is off.
"""

import dataclasses
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

# Python puts this file's folder first on the path; our packages lie one above.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table

from training.ending import exits
from training.settings import Verification
from vla import commandline, errors
from vla.errors import CorruptData, UsageError

if TYPE_CHECKING:
    from training.verify.comparison import Row
    from training.verify.experiment import Start

EXAMPLES = (
    "python training/verify_resume.py -- --data.roots examples/needle",
    "python training/verify_resume.py --topologies zero2:2 ddp:2 \\\n    -- --config run.json --dropout 0",
)
BROKEN = 1
"""Exit code: the promise does not hold."""


def parse(argv: Sequence[str]) -> tuple[Verification, list[str]]:
    """What is wanted, and the flags of the entry point.

    Raises:
        ValueError: a value does not fit.
        UsageError: a flag is unknown or lacks its value.
    """
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    wanted, unknown = commandline.parse(Verification, words[:at], "--help", examples=EXAMPLES, description=__doc__)
    if unknown:
        otherwise = "flags of the entry point follow after --"
        raise UsageError(
            f"unknown flag {unknown[0]}; {commandline.nearest(unknown[0], commandline.flags(Verification), otherwise)}"
        )
    if wanted.compare and len(wanted.compare) != 2:
        raise ValueError(f"--compare takes two run folders, not {len(wanted.compare)}")
    return wanted, words[at + 1 :]


def work_folder(wanted: Verification) -> Path:
    """Where the runs go.

    Raises:
        ValueError: something lies there.
    """
    if wanted.work is None:
        return Path(tempfile.mkdtemp(prefix="touchstone-verify-"))
    folder = Path(wanted.work).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--work {folder} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def table(rows: "Sequence[Row]") -> Table:
    """What was compared, and what was found."""
    grid = Table("compared", "count", "verdict", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        grid.add_row(row.name, row.count, row.verdict, style=None if row.holds else "bold red")
    return grid


def verify(argv: Sequence[str], say: Console, start: "Start | None" = None) -> int:
    """Run the command line, whose legs `start` starts, by default a launcher; the exit code.

    Raises:
        ValueError: the request or the configuration is refused.
    """
    wanted, flags = parse(argv)

    from training.verify.comparison import compare  # it loads torch, which neither help nor a mistake needs
    from training.verify.experiment import Experiment, TimeUp

    folder, finished = None, False
    try:
        if wanted.compare:
            first, second = map(Path, wanted.compare)
            rows = compare(first, second)
        else:
            folder = work_folder(wanted)
            trial = Experiment(wanted, flags, folder, say.print, start)
            rows = trial.run()
            say.print()
        holds = all(row.holds for row in rows)
        finished = holds
        say.print(table(rows))
        if wanted.json:
            result = {"holds": holds, "rows": [dataclasses.asdict(row) for row in rows]}
            Path(wanted.json).write_text(json.dumps(result, indent=1) + "\n")
        kept = f"; the runs are kept in {folder}" if folder else ""
        say.print("\nThe promise holds." if holds else f"\nThe promise does not hold{kept}.")
    except (TimeUp, CorruptData) as error:
        say.print(f"\nThe promise does not hold: {error}")
        return BROKEN
    except ValueError:
        finished = True  # nothing was trained
        raise
    except KeyboardInterrupt:
        say.print("\ninterrupted; what was started has been ended")
        return errors.INTERRUPTED
    finally:
        if folder is not None and finished and not wanted.keep_runs:
            shutil.rmtree(folder)
    return errors.DONE if holds else BROKEN


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM is answered like Ctrl-C: nothing that was started stays behind."""
    raise KeyboardInterrupt


def main() -> None:
    """Command line."""
    signal.signal(signal.SIGTERM, interrupt)
    exits.main(lambda: sys.exit(verify(sys.argv[1:], Console(width=80, highlight=False))))


if __name__ == "__main__":
    main()
