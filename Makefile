# Everything happens in .venv beside this file; nothing else on the machine is touched.
# README.md says what a bare Debian or Ubuntu lacks for it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check format test-long nat-matrix fuzz chaos soak bench bench-quick bench-flood clean

help:
	@echo "make demo       a relay, a dialer and an accepter talk on this machine"
	@echo "make test       lint, types, format and every test that this machine allows"
	@echo "make check      lint, types and format only"
	@echo "make format     format the code"
	@echo "make test-long  the tests that take long: many handshakes, long waits"
	@echo "make nat-matrix  which NATs the direct path gets through (as root); docs/nat-matrix.md"
	@echo "make fuzz       ten minutes of coverage-guided fuzzing for each of seven groups of parsers"
	@echo "make chaos      ten minutes in which everything fails that can, and no byte may be wrong"
	@echo "make soak       an hour of moderate load: memory must stay flat"
	@echo "make bench      measure forwarding beside its rivals (6 minutes); docs/benchmarks.md"
	@echo "make bench-quick  the same in a minute, less exactly"
	@echo "make bench-flood  what floods do to the pipes that there are (10 minutes); docs/benchmarks.md"
	@echo "make clean      remove $(VENV) and caches"

demo: $(VENV)/.runtime
	@$(BIN)/python -m example.demo

check: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Most tests wait more than they work.
test: check
	$(BIN)/pytest -n 3 --dist loadfile

test-long: $(VENV)/.development
	QUICPIPE_LONG=1 $(BIN)/pytest --timeout 1800 tests/e2e tests/nat/test_cuts.py

nat-matrix: $(VENV)/.development
	$(BIN)/python -m tests.nat

fuzz: $(VENV)/.development
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3'
	$(BIN)/python -m tests.fuzz

chaos: $(VENV)/.development
	$(BIN)/python -m tests.endurance.chaos

soak: $(VENV)/.development
	$(BIN)/python -m tests.endurance.soak

bench: $(VENV)/.runtime
	$(BIN)/python -m bench
	$(BIN)/python -m bench.control
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.bulk

bench-quick: $(VENV)/.runtime
	$(BIN)/python -m bench --quick

bench-flood: $(VENV)/.runtime
	$(BIN)/python -m bench.flood

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment is made again: the marks are written last.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: install Python 3.11 or newer (Debian, Ubuntu: sudo apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: install a newer one and say make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing: install it (Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . || \
	  { echo "installing the dependencies failed: is a package index within reach? (see the lines above)" >&2; exit 1; }
	@touch $@

$(VENV)/.development: $(VENV)/bin/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || \
	  { echo "installing the dependencies failed: is a package index within reach? (see the lines above)" >&2; exit 1; }
	@touch $@ $(VENV)/.runtime
