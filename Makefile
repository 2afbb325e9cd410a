# On a fresh machine, `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo

.PHONY: help demo test test-slow test-with sanitize lint peers bench estimators bench-check bench-commits resources gpu clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# A folder $(1) from which Python finds the package as it is here, without the compiled modules.
define link_tree
	rm -rf $(1)/manifold_core && mkdir -p $(1)/manifold_core
	for part in manifold_core/* kernels experiments; do \
	    case $$part in *.so) ;; *) ln -s "$(CURDIR)/$$part" $(1)/manifold_core/ ;; esac; done
endef

# torch comes first, pinned: the extension is built against its headers in this environment, not in a second one that
# would fetch torch again.
$(READY): pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'setuptools>=77' wheel pybind11 ninja torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[experiments,dev]'
	touch $@

demo: $(READY)  ## train on a synthetic manifold and on Fashion-MNIST, print a table, draw pictures
	$(BIN)/python -m manifold_core.experiments.demo --out $(DEMO)

# On all cores, at most four, for which there is work; the tests of a file in one process, the files in their order.
# Threads that wait for each other leave the cores to other processes.
PYTEST := OMP_WAIT_POLICY=passive "$(CURDIR)/$(BIN)/python" -m pytest \
    -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST_OPTIONS :=
test: $(READY)  ## the test suite without the slow part
	$(PYTEST) -m "not slow" $(PYTEST_OPTIONS)

test-slow: $(READY)  ## the slow part: long statistics, training to the paper's numbers
	$(BIN)/python -m pytest -m slow

# In a clone, with its own environment. Warnings of another torch are not errors.
TORCH := 2.10.0
OTHER = build/torch-$(TORCH)
test-with:  ## the tests of HEAD with another TORCH=2.10.0 and PYTHON=python3.10; may fetch gigabytes
	rm -rf $(OTHER)
	git clone --quiet . $(OTHER)
	printf 'torch==$(TORCH)\n' > $(OTHER)/constraints.txt
	$(MAKE) -C $(OTHER) test PYTHON=$(PYTHON) PYTEST_OPTIONS='-W default'

# Python itself is not built for the sanitizers: they are loaded before it.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
RUNTIMES = $(foreach name,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))
sanitize: $(READY)  ## the tests of the compiled kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer
	$(call link_tree,build/sanitize)
	MANIFOLD_CORE_CXXFLAGS='$(SANITIZERS) -fno-omit-frame-pointer -g1 -O0 -w' LDFLAGS='$(SANITIZERS)' \
	    $(BIN)/python setup.py --quiet build_ext --parallel 2 \
	    --build-lib build/sanitize --build-temp build/sanitize/objects
	ls build/sanitize/manifold_core/_C.*.so build/sanitize/manifold_core/_autograd_*.so  # a failed build is a warning
	cd build/sanitize && LD_PRELOAD='$(RUNTIMES)' ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
	    $(PYTEST) -c ../../pyproject.toml --rootdir ../.. \
	    ../../tests/kernels ../../tests/ensemble -m "not slow" -k "cpu or test_plain or test_nodes or test_copies" --capture=sys

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(call link_tree,build/types)
	ln -sfn "$(CURDIR)/benchmarks" build/types/benchmarks
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p manifold_core -p benchmarks

peers: $(READY)  ## install what the benchmarks compare with besides PyTorch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/peers.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps pythae==0.1.2

bench: peers  ## ours against PyTorch and other peers on this machine, then the pages of results; needs it idle
	mkdir -p build
	$(BIN)/manifold-core bench all --rounds 9 --seconds 3000 --json > build/bench.json
	$(BIN)/python -m benchmarks.report --add build/bench.json

estimators: peers  ## the dimension by ours and by scikit-dimension's estimators; takes an hour and a half
	$(BIN)/python -m benchmarks.estimators
	$(BIN)/python -m benchmarks.report

# asv writes what it knows about the machine into the home folder: here it gets its own. Its environments obey
# constraints.txt: otherwise it would fetch the newest torch of the index.
ASV = HOME="$(CURDIR)/build/asv" PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/asv
build/asv/.asv-machine.json: $(READY)
	mkdir -p build/asv
	$(ASV) machine --yes > build/asv/machine.txt

bench-check: build/asv/.asv-machine.json  ## every asv benchmark once, in this environment
	$(ASV) check -E existing
	OMP_NUM_THREADS=1 $(ASV) run -E existing --quick --dry-run --show-stderr --durations 5

BASE := HEAD~1
ONLY := .
bench-commits: build/asv/.asv-machine.json  ## is HEAD slower than BASE=HEAD~1? ONLY=regex of benchmarks; needs it idle
	$(ASV) continuous $(BASE) HEAD -b '$(ONLY)' --show-stderr

resources: $(READY)  ## compile every GPU kernel; fails if one spills; the table goes to benchmarks/results
	$(BIN)/python -m benchmarks.resources --out benchmarks/results/gpu_kernels.md

# For a bare machine with a GPU, with torch installed and nothing to fetch: built in place, found by a tree of links.
# Each step has a time limit, nine and a half minutes in all; a step that fails, or runs out of time, does not stop the
# others, and is named at the end. Plugins of pytest that happen to be installed are left out.
GPU_PYTHON := env PYTHONPATH="$(CURDIR)/build/gpu" PYTHONSAFEPATH=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(PYTHON)
GPU_PYTEST := -m pytest -m 'gpu and not slow' $(shell $(PYTHON) -c 'import xdist' 2> /dev/null && echo -p xdist -n 8)
SANITIZER := $(shell PATH=$$PATH:/usr/local/cuda/bin command -v compute-sanitizer)
# A query of the driver is not an error. Every kernel, batch sums included; few launches, which the tools slow down.
# No cached memory: an access behind a tensor is then outside of all memory. Both tools run at once, each mostly waiting;
# what a shell has in the background ignores the signal that ends it in time.
SANITIZE = $(SANITIZER) --target-processes all --error-exitcode 9 --report-api-errors no
SANITIZED := -m pytest -m gpu tests/ensemble/test_cuda.py tests/kernels/test_cuda_device.py tests/kernels/test_cuda.py \
    -k "nothing_to_do or nan_stays or same_each_time"
gpu:  ## build in place, run the tests that need a GPU, measure, check memory and races; see benchmarks/results
	timeout 140 $(PYTHON) setup.py build_ext --inplace --parallel 3
	ls manifold_core/_C_cuda.*.so  # a build without it is a warning to others
	$(call link_tree,build/gpu)
	ln -s "$(CURDIR)"/manifold_core/*.so build/gpu/manifold_core/
	ln -sfn "$(CURDIR)/benchmarks" build/gpu/benchmarks
	@failed=''; \
	timed() { echo "make gpu: $$*"; timeout -s INT -k 3 "$$@"; }; \
	step() { timed "$$@" || failed="$$failed\n  $$*"; }; \
	step 160 $(GPU_PYTHON) $(GPU_PYTEST) tests/kernels tests/ensemble tests/training/test_step.py tests/training/test_update.py \
	    tests/run/test_global_state.py tests/metrics/test_local.py; \
	step 60 $(GPU_PYTHON) -m benchmarks.ensemble_on_gpu --seconds 42; \
	step 85 $(GPU_PYTHON) -m benchmarks.ops_on_gpu --seconds 67; \
	step 40 $(GPU_PYTHON) -m benchmarks.images_on_gpu --seconds 27; \
	if [ -z '$(SANITIZER)' ]; then echo 'compute-sanitizer is not installed: neither memory nor races are checked'; else \
	    timed -k 10 80 env --default-signal=INT $(SANITIZE) --tool racecheck $(GPU_PYTHON) $(SANITIZED) & races=$$!; \
	    step -k 10 80 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZE) --tool memcheck $(GPU_PYTHON) $(SANITIZED); \
	    wait $$races || failed="$$failed\n  racecheck"; \
	fi; \
	if [ -n "$$failed" ]; then printf "make gpu: failed, or out of time:$$failed\n"; exit 1; fi

clean:  ## remove everything that was made here
	rm -rf $(VENV) $(DEMO) build dist *.egg-info manifold_core/*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache
