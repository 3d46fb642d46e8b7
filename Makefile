# Everything runs in .venv, which is made here from Python 3.11 or newer and a package index; nothing else is needed.
#   make demo       simulate particles, align them and write a report into demo/   (DEMO_PARTICLES=40)
#   make test       the tests                                                      (PYTEST_ARGS="-k pose")
#   make test-fast  those that take moments, in some three minutes
#   make check      formatting, lint, types and imports
#   make fuzz       broken files for every reader, for a night                     (FUZZ_ARGS="--seconds 600 --seed 5")
#   make bench      how fast it is, as one table                                   (BENCH_ARGS=--quick)
#   make bench-gpu  the same on a GPU of NVIDIA's                        (BENCH_ARGS=--quick)
#   make docs       the documentation as a site, into build/site
#   make dist       sdist and wheel into dist/, the wheel installed and tried in an environment of its own
#   make reproduce  what docs/reproduce.md reports, into results/
#   make clean      remove what these have made

PYTHON ?= python3
DEMO_PARTICLES ?= 40
DEMO_DIR ?= demo
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?= --seconds 28800 --seed $(shell date +%Y%m%d)
# Python compiles what is imported; compiling all that is installed takes as long as the rest.
PIP_FLAGS ?= --quiet --disable-pip-version-check --no-compile

# What Python compiles, it keeps, whatever the shell says: a start of gonio takes a third of the time then.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PIP := $(BIN)/python -m pip install $(PIP_FLAGS)

.PHONY: help demo test test-fast fuzz check bench bench-gpu docs dist reproduce clean
help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/.gonio
	$(BIN)/gonio demo $(DEMO_DIR) --particles $(DEMO_PARTICLES) --overwrite

test: .venv/.gonio-test
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15 $(PYTEST_ARGS)

test-fast: .venv/.gonio-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(PYTEST_ARGS)

fuzz: .venv/.gonio-test
	$(BIN)/python tests/fuzz/fuzz.py $(FUZZ_ARGS)

check: .venv/.gonio-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.gonio
	$(BIN)/python benchmarks/run_all.py $(BENCH_ARGS)

bench-gpu: .venv/.gonio-cuda
	$(BIN)/python benchmarks/gpu.py $(BENCH_ARGS)

docs: .venv/.gonio-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The wheel is made from the sdist, so that a file that is missing there is missing in both. It is tried as a user gets
# it: nothing of the checkout is seen from build/smoke, and the kernels compile anew unless NUMBA_CACHE_DIR has them.
dist: .venv/.gonio-check
	rm -rf dist build/smoke
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(PYTHON) -m venv build/smoke/venv
	build/smoke/venv/bin/python -m pip install $(PIP_FLAGS) dist/*.whl
	cd build/smoke && venv/bin/gonio --version && venv/bin/gonio demo demo --particles 4 --quiet && \
	  test -s demo/report.html && venv/bin/python -c "import gonio; print(gonio.Pose.identity())"
	@echo "$$(ls dist) installs and runs"

reproduce: .venv/.gonio
	$(BIN)/python experiments/run_all.py

clean:
	rm -rf .venv $(DEMO_DIR) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for the environment and one for each set of packages in it: a second call does nothing, a change of
# pyproject.toml installs again. Gonio is installed editable, so a change of its source needs no stamp.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gonio needs Python 3.11 or newer, and '$(PYTHON)' is not that: try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.gonio: .venv/.made pyproject.toml
	$(PIP) -e .
	@touch $@

.venv/.gonio-test: .venv/.made pyproject.toml
	$(PIP) -e '.[test]'
	@touch $@

.venv/.gonio-cuda: .venv/.made pyproject.toml
	$(PIP) -e '.[cuda]'
	@touch $@

.venv/.gonio-docs: .venv/.made pyproject.toml
	$(PIP) -e '.[docs]'
	@touch $@

.venv/.gonio-check: .venv/.made pyproject.toml
	$(PIP) -e '.[check]'
	@touch $@

# All that .ci/run needs, at once.
.venv/.gonio-all: .venv/.made pyproject.toml
	$(PIP) -e '.[test,docs,check]'
	@touch .venv/.gonio .venv/.gonio-test .venv/.gonio-docs .venv/.gonio-check $@
