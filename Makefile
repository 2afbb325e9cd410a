# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo

.PHONY: help demo test test-slow lint bench gpu clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch comes first, pinned: the extension is built against its headers in this environment, not in a second one that
# would fetch torch again.
$(READY): pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel pybind11 ninja torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[experiments,dev]'
	touch $@

demo: $(READY)  ## train on a synthetic manifold and on Fashion-MNIST, print a table, draw pictures
	$(BIN)/python -m manifold_core.experiments.demo --out $(DEMO)

test: $(READY)  ## the whole test suite but the slow part
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)  ## the slow part: long statistics, training to the paper's numbers
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/manifold_core
	ln -s $(CURDIR)/manifold_core/* $(CURDIR)/kernels $(CURDIR)/experiments build/types/manifold_core/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p manifold_core

bench: $(READY)  ## the fused ops against eager PyTorch on this machine
	$(BIN)/python -m benchmarks.elbo_against_eager
	$(BIN)/python -m benchmarks.cholesky_against_eager

# On a bare machine with a GPU, where torch is installed and nothing can be fetched: built in place, found by a tree of
# links. Eight minutes in all.
GPU_PYTHON := PYTHONPATH=$(CURDIR)/build/gpu PYTHONSAFEPATH=1 $(PYTHON)
gpu:  ## build in place, run the tests that need a GPU, measure; the figures go to benchmarks/results
	$(PYTHON) setup.py build_ext --inplace
	rm -rf build/gpu && mkdir -p build/gpu/manifold_core
	ln -s $(CURDIR)/manifold_core/* $(CURDIR)/kernels $(CURDIR)/experiments build/gpu/manifold_core/
	ln -s $(CURDIR)/benchmarks build/gpu/
	timeout 240 env $(GPU_PYTHON) -m pytest -m gpu tests/kernels
	$(GPU_PYTHON) -m benchmarks.gpu --seconds 150

clean:  ## everything that was made here
	rm -rf $(VENV) build dist *.egg-info manifold_core/_C*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache
