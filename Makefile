# `make demo` and `make test` are all that a newcomer needs; `make` lists the rest.

VENV := .venv
PY := $(VENV)/bin/python
# The first that is new enough is taken; `make PYTHON=/path/to/python` names another.
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
# What runs inside other people's images, on Python 3.10.
REPLICA_SIDE := $(addprefix hpcserve/,__init__.py bootstrap.py errors.py types.py core replica servable wire)

# Downloads are kept between clones.
export PIP_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hpcserve/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests start thousands of processes, which need not compile the same modules again and again.
unexport PYTHONDONTWRITEBYTECODE

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: help demo demo-slurm demo-pbs test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.for-demo ## serve a trained model on this machine and call it
	@$(VENV)/bin/hpcserve demo

demo-slurm: ## the same on a real Slurm of four nodes in namespaces; as root on Debian, install it
	@tests/system-packages
	@$(MAKE) --no-print-directory --silent $(VENV)/.for-demo
	@$(PY) -m tests.facility.box -- $(VENV)/bin/hpcserve demo --site facility

demo-pbs: $(VENV)/.for-demo ## the same on a stand-in for PBS, whose jobs are processes of this machine
	@$(PY) -m tests.integration.pbs -- $(VENV)/bin/hpcserve demo --site stand-in

# The packages come first: without python3-venv there is no virtual environment.
test: ## run all tests; as root on Debian, install what they need
	@tests/system-packages
	@$(MAKE) --no-print-directory --silent $(VENV)/.for-tests
	@$(PY) -m pytest --numprocesses 6 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.for-tests ## check style, types, the replica side's Python and the layers
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy hpcserve tests $(wildcard benchmarks)
	$(VENV)/bin/vermin --quiet --no-tips --eval-annotations --violations --target=3.10- $(REPLICA_SIDE)
	$(VENV)/bin/lint-imports --config setup.cfg

bench: $(VENV)/.for-tests ## run all benchmarks, one JSON object each
	@$(PY) -m benchmarks all --json

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist hpcserve.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.for-demo: EXTRAS := sklearn,plot
$(VENV)/.for-tests: EXTRAS := sklearn,plot,bench,dev
# An interrupted start may have left a Python without pip.
$(VENV)/.for-%: setup.cfg pyproject.toml | $(PY)
	@echo "installing hpcserve[$(EXTRAS)] into $(VENV)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PY) -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

# A Python without ensurepip fails only after it has made half a directory: it is asked first.
$(PY):
	@for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if $$python -c 'import ensurepip' 2>/dev/null; then exec $$python -m venv --clear $(VENV); fi; \
	    test "$$(id -u)" = 0 || sudo='sudo '; \
	    echo "$$python has no ensurepip, so it can make no virtual environment; on Debian:" \
	        "$${sudo}apt-get install python3-venv" >&2; \
	    exit 1; \
	done; \
	echo "hpcserve needs Python 3.11 or newer, and of $(PYTHONS) none is;" \
	    "name one: make PYTHON=/path/to/python3" >&2; \
	exit 1
