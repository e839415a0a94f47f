# Every target makes what it needs from a bare checkout with Python 3.11+ (and a C++ compiler for the native
# kernels; without one the install still succeeds and runs on plain PyTorch), in a virtual environment in .venv.
PYTHON ?= python3
# For an environment without a torch of its own: a torch that PYTHON has already is used, if it is new enough.
TORCH ?= torch==2.13.0
# Warnings of the C++ compiler are errors; make install WERROR=OFF for one that warns of more than the tested ones.
WERROR ?= ON
# Where pip gets that torch, if not where it gets everything.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
FOR_COMMANDS := $(VENV)/.installed-recipes
EDITABLE := $(PIP) install --quiet --no-build-isolation \
	--config-settings=cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=$(WERROR) --editable
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*) tools/environment.py tools/strop_build.py

.PHONY: install install-recipes demo test lint docs format sanitize wheel check-install bench gpu gpu-train results clean

# strop with its commands and all that its tests need.
install: $(INSTALLED)

# strop with its commands alone.
install-recipes: $(FOR_COMMANDS)

$(FOR_COMMANDS): $(SOURCES)
	$(PYTHON) tools/environment.py $(VENV) "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@echo "make: getting what strop's commands need (150 MB)"
	$(PIP) install --quiet "scikit-build-core>=0.11" "cmake>=3.24" ninja
	@echo "make: compiling the kernels (a minute or two) and installing strop in $(VENV)"
	$(EDITABLE) ".[recipes]"
	$(BIN)/python -c 'from strop.ops import native; print(native.describe())'
	touch $@

$(INSTALLED): $(FOR_COMMANDS)
	@echo "make: getting what tests, checks and documentation need (1 GB)"
	$(EDITABLE) ".[dev]"
	touch $@

# Whose compiler warns of more than the tested ones can run it all the same.
demo: WERROR = OFF
demo: install-recipes
	@echo "make: the demo takes at most 6 minutes and 1 GB of memory"
	$(BIN)/strop demo
	@echo "make: strop is in $(VENV): . $(BIN)/activate makes its commands available"

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# The documentation site in build/site: no network needed, warnings (a link that leads nowhere) are errors.
docs: install
	rm -rf docs/api
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site
	@echo build/site/index.html

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A wheel in dist/, with kernels for this platform, for Python 3.11 and later and torch 2.10 and later.
wheel: install-recipes
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Installs strop in the ways that the documentation names, each in an environment of its own, trains with it and runs
# the README's lines. WAYS="wheel torch==2.10.0" names them.
WAYS ?=
check-install: install
	$(BIN)/python tools/check_install.py $(WAYS)

# All timings of README and docs on an idle machine, 20 minutes; appends to benchmarks/results and writes the tables.
bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check "jax[cpu]>=0.5" \
	  || echo "bench: JAX cannot be had, its row is left out"
	PATH="$(abspath $(BIN)):$$PATH" benchmarks/measure.sh

# All that a GPU can tell within 8 minutes, from a bare checkout: its Python needs torch and Triton alone. Prints a
# short table last; GPU_OUT gets all of it. What fails is told, the rest is done all the same, and the status is not 0.
# GPU_OPTIONS=--no-tests leaves more of the time to measuring.
GPU_OUT ?= gpu.csv
gpu:
	$(PYTHON) benchmarks/gpu/suite.py --out $(GPU_OUT) $(GPU_OPTIONS)

# Four language models on a GPU with the data of PTB=FOLDER, to their last epoch; those that were stopped go on.
# Learning curves are left in $(GPU_RUNS)/*/curve.csv and .png, and all that tells of the runs in $(GPU_RUNS).tgz:
# make gpu-train PTB=FOLDER
GPU_DEVICE ?= cuda
GPU_RUNS ?= runs/gpu
gpu-train:
	@test -n "$(PTB)" || { echo 'make gpu-train PTB=FOLDER: the folder of the Penn Treebank texts'; exit 1; }
	PYTHONPATH=src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) benchmarks/train.py ptb=$(PTB) \
	  --only $(or $(ONLY),zaremba-) --dropouts nr-rh-st nr-random --device $(GPU_DEVICE) --runs $(GPU_RUNS) \
	  --archive $(GPU_RUNS).tgz $(if $(EPOCHS),--epochs $(EPOCHS))

# The trainings of docs/results.md whose data is given, hours each; one that was stopped goes on:
# make results DATA="ptb=FOLDER conll2003=FOLDER" ONLY=zaremba-medium EPOCHS=15
# JOBS=2 runs two at once with half of the threads each: for conll2003, whose steps two threads do not make faster.
results: install
	test -n "$(DATA)" || { echo 'make results DATA="ptb=FOLDER …": the folders of the data sets'; exit 1; }
	$(BIN)/python benchmarks/train.py $(DATA) $(if $(ONLY),--only $(ONLY)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	  $(if $(JOBS),--jobs $(JOBS))
	$(BIN)/strop bench tables docs/results.md README.md

# The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer, for each instruction set of this CPU.
# The fuzzer's examples are the same at every call and have no limit of time: the verdict depends on the code alone.
# The runtime comes first in the process, and with it what throws exceptions, or it could not intercept them.
SANITIZED := LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	STROP_NATIVE_LIBRARY=build/sanitize/_native.so STROP_FUZZ_EXAMPLES=500 $(BIN)/python

sanitize: install
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DSTROP_SANITIZE=ON -DCMAKE_CXX_COMPILER=$(CXX) \
		-DCMAKE_COMPILE_WARNING_AS_ERROR=$(WERROR) \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build build/sanitize
	$(SANITIZED) -c 'from strop.ops import native; assert native.missing is None, native.missing'
	@for isa in avx512 avx2 portable; do \
		export STROP_ISA=$$isa; \
		if $(SANITIZED) -c 'from strop.ops import native; raise SystemExit(native.missing is not None)'; then \
			echo "sanitize: $$isa"; \
			$(SANITIZED) -m pytest -q --capture=sys -o timeout=0 tests/ops -k "native and not process and not accurate" || exit 1; \
		else \
			echo "sanitize: this CPU has no $$isa"; \
		fi; \
	done

clean:
	rm -rf $(VENV) build dist docs/api
