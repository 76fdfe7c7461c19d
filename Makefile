# Everything here needs only Python >= 3.11, make and git: each target sets up .venv first where it must.
#   make run ARGS="--config experiment=eurosat"        arguments go on to snakemake
#   make test ARGS="-k split"                          ... and to pytest
#   make setup PYTHON=/opt/python3.12/bin/python3      names the Python to build .venv with

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run repro test s3-up s3-down test-s3 slurm-up slurm-down test-slurm test-image test-clouds lint format bench docs clean lock

ARGS ?=
PYTHON ?=

BIN := .venv/bin
STAMP := .venv/installed
# The rules' shell lines call `swath`, so they must find the environment's programs first.
IN_ENV := PATH="$(CURDIR)/$(BIN):$$PATH"

# 3.11 leads since constraints.txt was locked with it; a candidate must be able to make environments.
CANDIDATES = $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
FIND_PYTHON = for python in $(CANDIDATES); do \
		"$$python" -c '$(SUITABLE)' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "swath: no Python >= 3.11 with venv among: $(CANDIDATES)." \
		"Install one (Debian: python3 and python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
PINS := cat pyproject.toml constraints.txt | cksum

help:  ## show these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## create .venv with the pinned packages (run, test, ... do it by themselves)

# The stamp holds a checksum of the pins, so that a mere `git switch` there and back installs nothing.
# It is written last: an installation that broke off has none, and goes on at the next call.
# pip's own settings (index, wheels) are the machine's; torch==2.13.0 takes a CPU build where one lies ready.
$(STAMP): pyproject.toml constraints.txt
	@if [ -f $@ ] && [ "$$($(PINS))" = "$$(cat $@)" ]; then touch $@; exit 0; fi; \
	set -e; rm -f $@; \
	if ! $(BIN)/python -c 'import pip; $(SUITABLE)' 2>/dev/null; then \
		$(FIND_PYTHON); \
		echo "Creating .venv with $$python"; \
		"$$python" -m venv --clear .venv; \
	fi; \
	echo "Installing the pinned packages into .venv (once; 2.6 GB, some minutes)"; \
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; \
	$(PINS) > $@

run: $(STAMP)  ## run the default experiment to its report; another: ARGS="--config experiment=NAME"
	@$(IN_ENV) $(BIN)/snakemake $(ARGS)

repro: $(STAMP)  ## the same by DVC: dvc repro, then `dvc metrics show` and `dvc plots show`
	@$(IN_ENV) $(BIN)/dvc repro $(ARGS)

# Two processes of one thread each: torch in two processes would otherwise ask for every core twice.
test: $(STAMP)  ## run the tests
	@$(IN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

# A Slurm is the whole machine's: it needs root and the machine's own Python alone.
slurm-up:  ## start a Slurm of two nodes on this machine, for tests (as root; installs Debian's packages)
	@$(FIND_PYTHON); "$$python" tests/servers/slurm.py up

slurm-down:  ## end it
	@$(FIND_PYTHON); "$$python" tests/servers/slurm.py down

# They wait more than they work.
test-slurm: $(STAMP)  ## run the tests that need it
	@$(BIN)/python -c 'import snakemake_executor_plugin_slurm' 2>/dev/null || \
		$(BIN)/python -m pip install -c constraints.txt -e '.[dev,slurm]'
	@$(IN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist load -m slurm $(ARGS)

# A real S3 server that checks signatures, on the loopback: Ceph's radosgw, in memory.
S3 := tests/servers/s3.sh
S3_DIR := /tmp/swath-s3

s3-up:  ## start a real S3 server on the loopback, to try a bucket (needs Debian, as root or by sudo)
	@$(S3) install && $(S3) up $(S3_DIR)

s3-down:  ## stop it; it forgets everything
	@$(S3) down $(S3_DIR)

test-s3: $(STAMP)  ## run the tests that need such a server; each process of them starts one
	@$(S3) install
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,s3]'
	@$(IN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m s3 $(ARGS)

# By buildah (Debian: apt-get install buildah debootstrap), as root.
test-image: $(STAMP)  ## build the container image and run it (some minutes, 8 GB below /tmp)
	@$(IN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m image $(ARGS)

test-clouds: $(STAMP)  ## run the tests that run jobs on loopback servers of Kubernetes, AWS and Google Batch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,kubernetes,aws-batch,google-batch]'
	@$(IN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m '' \
		tests/test_clouds.py tests/test_executors.py tests/workflow/test_specifications.py tests/workflow/test_in_clouds.py $(ARGS)

lint: $(STAMP)  ## check format, style, types, the workflow and the image
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src
	$(IN_ENV) $(BIN)/snakemake --lint
	$(BIN)/hadolint Containerfile

format: $(STAMP)  ## write the format and the safe corrections of style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The peers that swath is measured against, apart from it: torchgeo needs torchvision, which is built
# for CUDA. So torch first, and all else without what it would bring.
BENCH := .venv-bench
BENCH_PINS := cat constraints.txt benchmarks/peers/requirements.txt | cksum
$(BENCH)/installed: $(STAMP) constraints.txt benchmarks/peers/requirements.txt
	@if [ -f $@ ] && [ "$$($(BENCH_PINS))" = "$$(cat $@)" ]; then touch $@; exit 0; fi; \
	set -e; echo "Installing the benchmarks' peers into $(BENCH) (once; 1.5 GB, a minute)"; \
	$(BIN)/python -m venv --clear $(BENCH); \
	$(BENCH)/bin/python -m pip install -q -c constraints.txt torch; \
	$(BENCH)/bin/python -m pip install -q --no-deps -c constraints.txt -r benchmarks/peers/requirements.txt; \
	$(BENCH_PINS) > $@

bench: $(STAMP) $(BENCH)/installed  ## run every benchmarks/bench_*.py
	@for bench in benchmarks/bench_*.py; do \
		echo "== $$bench"; $(IN_ENV) $(BIN)/python "$$bench" $(ARGS) || exit 1; \
	done

docs: $(STAMP)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove results and caches; keeps data/, state/ and .venv/
	rm -rf results .snakemake site build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks workflow -name __pycache__ -type d -prune -exec rm -rf {} +

# Solved afresh in an environment of its own. Left out is what differs between machines: the local
# part of a version (torch's +cpu) and the parts of a CUDA build, which torch pins itself.
lock:  ## renew constraints.txt from the pins of pyproject.toml
	@set -e; $(FIND_PYTHON); \
	"$$python" -m venv --clear .venv-lock; \
	.venv-lock/bin/python -m pip install -e '.[dev,slurm,s3,kubernetes,aws-batch,google-batch]'; \
	.venv-lock/bin/python -m pip check; \
	.venv-lock/bin/python -m pip freeze --exclude-editable > .venv-lock/frozen; \
	{ sed -n '/^#/p' constraints.txt; \
		sed -E -e 's/\+[A-Za-z0-9.]+$$//' -e '/^(nvidia|cuda|triton)[-=]/d' .venv-lock/frozen | LC_ALL=C sort -f; \
	} > .venv-lock/constraints.txt; \
	mv .venv-lock/constraints.txt constraints.txt; \
	rm -rf .venv-lock
