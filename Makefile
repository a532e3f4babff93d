# Two commands: `make run` trains and prunes four methods with three seeds each, and compares them;
# `make run FLAGS="--noise=dropout --rate=0.2"` does one run with these settings instead.
# `make test` checks the code; `make test-all` runs the long tests as well. Each makes .venv and
# installs what it needs; PYTHON chooses the interpreter (>= 3.11).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all check format clean

# Where there is a GPU, the two that run at a time share its memory.
run: .venv/installed
ifeq ($(strip $(FLAGS)),)
	XLA_PYTHON_CLIENT_PREALLOCATE=false \
	  $(BIN)/python -m launch.local experiments/sweeps/digits.py runs/digits --parallel=2
	$(BIN)/python -m experiments.report runs/digits --out=runs/digits/report
else
	$(BIN)/python -m experiments.run $(FLAGS)
endif

test: check
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2

test-all: check
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 -m ""

check: .venv/tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bbo needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into .venv: a few minutes and 1.5 GB, this once"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'jax2onnx>=0.17'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
