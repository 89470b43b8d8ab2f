# make demo   demonstrate, train both stages, evaluate in the closed loop and write the report of the needle benchmark
# make demo-motion  train human motion on the clips that ship, two styles and a forgotten action, judge all, write pages
# make test   what an author runs: style, types, layers, and every kind of promise once; ten minutes on two cores
# make test-all  all there is: make test, and every fault, topology and real launch; what continuous integration runs
# make soak   kill a training 200 times on each of two topologies and compare with one that was left alone; 30 minutes
# make faults the fault matrix alone, row by row: what is done to a run, and what comes of it
# make lock   write requirements.lock anew (UPGRADE=--upgrade: with the newest versions); needs a package index
# make audit  look the locked packages up among the known advisories; needs the advisory service
# Each makes the environment .venv first when it is missing or its versions have changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := build/tools
RUNS := runs/demo

# One thread a process: the demo and the tests share few cores, and the results do not depend on their number.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1
# Each of some hundred processes would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-motion test test-all checks soak faults install lock audit clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

# The versions are those of the lock; its digests cannot be asked for here, where torch may be a CPU wheel from elsewhere
# (docs/security.md has the commands that do ask).
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p build
	@sed -n 's/^\([a-z0-9][^\]*[^ \]\) *\\$$/\1/p' requirements.lock >build/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint build/constraints.txt --editable '.[test]'
	@touch $@

demo: $(INSTALLED)
	@BIN=$(BIN) RUNS=$(RUNS) bash examples/demo.sh

demo-motion: $(INSTALLED)
	@BIN=$(BIN) RUNS=$(RUNS)-motion bash examples/demo-motion.sh

# Both say what CPU time they took and fail beyond their budget (tests/budget.py).
test: $(INSTALLED)
	@$(BIN)/python -m tests.budget $@ $(MAKE) --no-print-directory checks SELECT='-m "not deep"'

test-all: $(INSTALLED)
	@$(BIN)/python -m tests.budget $@ $(MAKE) --no-print-directory checks

checks:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "the report of the tests: build/test-results.xml"
	@mkdir -p build
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(SELECT) --junit-xml=build/test-results.xml

faults: $(INSTALLED)
	$(BIN)/python -m pytest tests/faults --ignore tests/faults/test_soak.py --quiet -rN --durations=0 --durations-min=60

$(TOOLS)/.installed: Makefile
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8 pip-audit==2.10.1
	@touch $@

lock: $(TOOLS)/.installed
	$(TOOLS)/bin/python tools/lock.py $(TOOLS)/bin/uv $(UPGRADE)

audit: $(TOOLS)/.installed
	$(TOOLS)/bin/python tools/audit.py $(TOOLS)/bin/pip-audit

soak: $(INSTALLED)
	$(BIN)/python -m tests.faults.soak --topologies zero2 ddp --json docs/benchmarks/soak.json

clean:
	rm -rf $(VENV) $(RUNS) build
