# make demo   train both stages on the data that ships with the repository, evaluate, draw predicted against true actions
# make test   every check: style, types, layers, tests
# Each makes the environment .venv first when it is missing or pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DATA := examples/needle
RUNS := runs/demo

# One thread a process: the demo and the tests share few cores, and the results do not depend on their number.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1

.PHONY: demo test install clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: $(INSTALLED)
	@BIN=$(BIN) DATA=$(DATA) RUNS=$(RUNS) bash examples/demo.sh

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "the report of the tests: build/test-results.xml"
	@mkdir -p build
	$(BIN)/python -m pytest --junit-xml=build/test-results.xml

clean:
	rm -rf $(VENV) $(RUNS) build
