#!/usr/bin/env bash
# jaxtyping 0.3.11: install_import_hook("ours", "beartype.beartype") around the import of a package that imports libraries.
#
# Good guess: the hook concerns the modules it names; libraries that they import load from the bytecode they were
# installed with.
# Behaviour: while a module of the package is imported, every other module that this brings along looks for bytecode under
# the name of the hook, too, finds none, and is compiled from source; where bytecode is not written, in each process anew.
# A test process that imports torch and transformers through such a package compiles some 2,800 modules. Libraries that
# were imported before the hook, or between, are not concerned.
set -euo pipefail
VERSION=0.3.11
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "jaxtyping==$VERSION" "beartype==0.23.1" "packaging==26.3"
mkdir "$folder/ours"
echo "import packaging.version" >"$folder/ours/__init__.py"
cat >"$folder/show.py" <<'PYTHON'
import sys
from pathlib import Path

from jaxtyping import install_import_hook

if "first" in sys.argv:
    import packaging.version
with install_import_hook("ours", "beartype.beartype"):
    import ours
library = sys.modules["packaging.version"]
looked_for = Path(library.__spec__.cached)
print("named by the hook:", "jaxtyping" in looked_for.name)
print("installed bytecode is there:", (looked_for.parent / f"version.{sys.implementation.cache_tag}.pyc").exists())
PYTHON
found=$(cd "$folder" && export PYTHONDONTWRITEBYTECODE=1 && venv/bin/python show.py && venv/bin/python show.py first)
echo "$found"
expected='named by the hook: True
installed bytecode is there: True
named by the hook: False
installed bytecode is there: True'
[ "$found" = "$expected" ] || { echo "jaxtyping $VERSION behaves otherwise than written here" >&2; exit 1; }
