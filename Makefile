# Two commands: `make run` trains, prunes and draws the default experiment; `make test` checks
# everything. Each makes .venv and installs what it needs; PYTHON chooses the interpreter (>= 3.11).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test format clean

run: .venv/installed
	$(BIN)/python -m experiments.run $(FLAGS)

test: .venv/tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 -m ""

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
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
