"""`accelerate launch training/unlearn.py`: see `--help`."""

import sys
from pathlib import Path

# accelerate puts this file's folder first on the path; our packages lie one above.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from training import recipes
from training.ending import exits
from training.flags import parse

if __name__ == "__main__":
    config = exits.answer(lambda: parse(recipes.unlearn(), sys.argv[1:]))

    from training import editing, loop  # they load torch, which neither help nor a mistake needs

    exits.main(lambda: (loop.train if config.forget.method == "esd" else editing.edit)(config))
