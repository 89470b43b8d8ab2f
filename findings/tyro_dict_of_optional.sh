#!/usr/bin/env bash
# tyro 1.0.17: a field `rates: dict[str, float | None]` whose default is {"expert": 1e-4, "adapter": None}.
#
# Good guess: each entry is a flag that takes what the annotation says, a number or None; so --rates.adapter 1e-5 opens
# what was closed.
# Behaviour: with a default, the type of each entry is that of its default value and the annotation's value type is not
# looked at: --rates.adapter takes nothing but None, and --rates.expert, which is declared optional, cannot be None.
# A dataclass with one field an entry behaves as guessed.
set -euo pipefail
VERSION=1.0.17
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "tyro==$VERSION"
cat >"$folder/show.py" <<'PYTHON'
import contextlib
import io
from dataclasses import dataclass, field

import tyro


@dataclass
class Mapping:
    rates: dict[str, float | None] = field(default_factory=lambda: {"expert": 1e-4, "adapter": None})


@dataclass
class Rates:
    expert: float | None = 1e-4
    adapter: float | None = None


@dataclass
class Fields:
    rates: Rates = field(default_factory=Rates)


def said(kind, *words):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(kind, args=words)
    except SystemExit as ended:
        return f"refused ({ended.code})"


for words in (("--rates.adapter", "1e-5"), ("--rates.expert", "None")):
    print(" ".join(words), "| dict:", said(Mapping, *words), "| dataclass:", said(Fields, *words))
PYTHON
found=$("$folder/venv/bin/python" "$folder/show.py")
echo "$found"
expected='--rates.adapter 1e-5 | dict: refused (2) | dataclass: Fields(rates=Rates(expert=0.0001, adapter=1e-05))
--rates.expert None | dict: refused (2) | dataclass: Fields(rates=Rates(expert=None, adapter=None))'
[ "$found" = "$expected" ] || { echo "tyro $VERSION behaves otherwise than written here" >&2; exit 1; }
