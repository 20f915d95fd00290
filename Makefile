# `make demo` and `make test` need nothing but Python 3.11 or newer: they create .venv with the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For `make fuzz`.
MINUTES ?= 10
# Tests run side by side, one process a core: more threads than cores only make each other wait. The long files come
# first (as in pyproject.toml), so that no process is left with one at the end.
BESIDE := --dist loadgroup --no-loadscope-reorder
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-slow fuzz check format clean

demo: $(VENV)/.installed  ## train, export, build, verify and benchmark the demo network
	$(BIN)/sr-deploy train
	$(BIN)/sr-deploy export --fp16
	$(BIN)/sr-deploy bench

test: $(VENV)/.installed check  ## everything that a change can break
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(BESIDE) -m "not slow"

test-slow: $(VENV)/.installed  ## kills, whole runs, and faults of a second network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(BESIDE) -m slow tests/integration tests/unit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slow

fuzz: $(VENV)/.installed  ## hostile and damaged inputs until time is up; what is found goes to fuzz-faults/
	$(BIN)/python -m tests.fuzz.campaign --minutes $(MINUTES)

check: $(VENV)/.installed  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# torch comes first and pinned: a range would take the newest build, several gigabytes of another one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "sr-deploy needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,openvino,ray,rtx,signing,train]'
	touch $@
