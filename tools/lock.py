"""`make lock`: write requirements.lock, every package that is installed for training and tests, and its digests.

    python tools/lock.py UV [--upgrade]     UV is the program uv; without --upgrade, pins that still fit stay

uv does not read pip's settings: the index that pip uses is handed to it in the environment, so that no address lands in
the file. The header holds a digest of pyproject.toml's dependencies; tests/test_lock.py compares it.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Every package that `pip install -e '.[test]'` installs on Python 3.11 to 3.13, and the digests of its files.
# Written by `make lock`; how to install from it stands in docs/security.md.
# dependencies of pyproject.toml: sha256:{digest}
"""


def digest_of_dependencies() -> str:
    """SHA-256 of what the lock follows from: the dependencies, the extras and the Python versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    source = [
        sorted(project["dependencies"]),
        {name: sorted(extra) for name, extra in project["optional-dependencies"].items()},
        project["requires-python"],
    ]
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, str]:
    """The environment for uv: this one, and the index and the certificates that pip is set to."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, Any] = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", said, re.MULTILINE))
    extra = {}
    if "index-url" in settings:
        extra["UV_DEFAULT_INDEX"] = settings["index-url"]
    if "cert" in settings:
        extra["SSL_CERT_FILE"] = settings["cert"]
    return extra | dict(os.environ)


def main() -> None:
    """Resolve, check that nothing of this machine is in the result, and write it."""
    uv, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / LOCK.name
        if LOCK.exists():
            result.write_bytes(LOCK.read_bytes())  # uv keeps the pins it finds there
        command = [uv, "pip", "compile", "pyproject.toml", "--extra", "test", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--quiet", "--output-file", str(result)]
        subprocess.run([*command, *options], cwd=ROOT, env=environment(), check=True)
        text = result.read_text()
    if found := re.search(r".*(://|--index|--find-links|file:).*", text):
        raise SystemExit(f"error: the lock would hold an address of this machine: {found[0].strip()}")
    LOCK.write_text(HEADER.format(digest=digest_of_dependencies()) + text)
    print(f"{LOCK.name}: {len(re.findall('^[a-z0-9]', text, re.MULTILINE))} packages")


if __name__ == "__main__":
    main()
