# Every target creates what it needs from a bare checkout with Python 3.11+ (and a C++ compiler for
# the native kernels; without one the install still succeeds and runs on plain PyTorch).
PYTHON ?= python3
# The CPU build; override for another: make install TORCH=torch
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint format sanitize bench results clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check "scikit-build-core>=0.11" "cmake>=3.24" ninja
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[dev]"
	$(BIN)/python -c 'from strop.ops import native; print(native.describe())'
	touch $@

demo: install
	$(BIN)/strop demo

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist
