# `make` sets everything up and runs the quick start; `make test` sets everything up and tests.
# Needs Python 3.11 or newer and nothing else; `make PYTHON=/path/to/python` chooses one. With a C++
# compiler there are compiled kernels; without one a slower backend runs.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.set-up
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
CSRC := CMakeLists.txt $(wildcard amc/*/csrc/*.cpp amc/*/csrc/*.h*)
# CMake and ninja of the environment; where it has none, the system's.
CMAKE := PATH="$(CURDIR)/$(BIN):$$PATH" cmake
CONFIGURE = $(CMAKE) -S . -B build/kernels -G Ninja || { rm -f build/kernels/CMakeCache.txt; exit 1; }
# Random layers that the corpus runs through every family and instruction set.
CASES ?= 400
# Those of an emulated processor, which is some hundred times slower.
EMULATED ?= 40
# How often `make faults` kills each agent's driver at a random moment.
MOMENTS ?= 20
FAULTS ?= tests/faults tests/test_drain.py tests/test_drain_process.py tests/test_sync.py tests/test_tracking.py
# CI leaves out those that are long as well.
SLOW ?= slow
SANITIZED := tests/kernels
# In this order, before Python: the checking of addresses, what it needs to see exceptions.
SANITIZERS = $(shell for name in libasan.so libubsan.so libstdc++.so; do $(or $(CXX),g++) -print-file-name=$$name; done)
ARM := aarch64-linux-gnu

.PHONY: quickstart setup kernels check test slow faults sanitize emulate clean
.DEFAULT_GOAL := quickstart

# A run that is there already is gone on with; remove the folder to start afresh.
quickstart: $(STAMP)
	$(BIN)/amc search experiments/quickstart.yaml --run-dir runs/quickstart

setup: $(STAMP)

# torch first and alone, so that no other package chooses its version or its variant.
# The build's own tools come next, so that they too have the versions of constraints.txt.
$(STAMP): pyproject.toml constraints.txt $(CSRC)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=/path/to/python chooses one")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) scikit-build-core cmake ninja
	$(PIP) --no-build-isolation --config-settings=build-dir=build/kernels -e '.[dev]'
	$(BIN)/python -c 'from amc.kernels import core; print("kernels:", core.backend(), core.why_no_library())'
	touch $(STAMP)

# Builds what has changed, in place: faster than `make setup` while the C++ is worked on.
kernels:
	$(CONFIGURE)
	$(CMAKE) --build build/kernels --target install

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_flow.py

test: check
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "$(SLOW)" --ignore=tests/faults

# Real processes and real faults: killed drivers and workers, full disks, servers that are away.
faults: $(STAMP)
	AMC_FAULT_MOMENTS=$(MOMENTS) $(BIN)/python -m pytest -n 2 --dist worksteal --durations=12 $(FAULTS)

# The C++ corpus, then the kernels' tests, with addresses and undefined behaviour checked.
sanitize: $(STAMP)
	$(CMAKE) -S . -B build/sanitize -G Ninja -DAMC_SANITIZE=ON
	$(CMAKE) --build build/sanitize --target amc_corpus
	build/sanitize/amc_corpus $(CASES)
	AMC_KERNELS=build/sanitize/libamc_kernels.so LD_PRELOAD="$(SANITIZERS)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -n 2 -p no:cacheprovider $(SANITIZED)

# The corpus on processors that may not be at hand; what has no emulator here is said to be skipped.
emulate:
	$(CONFIGURE)
	$(CMAKE) --build build/kernels --target amc_corpus
	build/kernels/amc_corpus $(CASES)
	@if ! command -v qemu-x86_64; then echo "SKIPPED: baseline and avx2 under emulation, which need qemu-user"; else set -e; \
		for cpu in Nehalem max; do echo "qemu-x86_64 -cpu $$cpu:"; qemu-x86_64 -cpu $$cpu build/kernels/amc_corpus $(EMULATED) 0 heap 2>/dev/null; done; fi
	@if ! command -v qemu-aarch64 || ! command -v $(ARM)-g++; then \
		echo "SKIPPED: neon, NEVER EXECUTED here: it needs qemu-user and g++-$(ARM)"; else set -e; \
		$(CMAKE) -S . -B build/aarch64 -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
			-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM)-g++; \
		$(CMAKE) --build build/aarch64 --target amc_corpus; \
		qemu-aarch64 -L /usr/$(ARM) build/aarch64/amc_corpus $(EMULATED); fi

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache amc/*/libamc_*.so
