# make demo   from nothing to a page that shows where models look   (make help)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# uv takes half the time; pip knows the mirrors of its own settings
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(PIP) install --quiet --no-compile $(1)

MAKEFLAGS += --jobs=2 # the type checker has one thread: `make check test` runs it beside the tests

# without bytecode every start of Python compiles jax anew, for nine seconds; it stays out of the tree
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/bytecode

.PHONY: help demo test test-fast check faults mutants commands parity learnability leaks roundtrips fuzz docs-test wheel-test drawn-objects format clean

help:
	@echo "make demo       draw people, train three heads on them, report scores and attention"
	@echo "make test       the test suite"
	@echo "make test-fast  its tests that take under a second and start no processes"
	@echo "make check      format, lint, types, security gate"
	@echo "make faults     kill and damage runs, and write the results to docs/reliability.md"
	@echo "make commands   run every command where it cannot read or write, and end it by signals"
	@echo "make mutants    change one statement at a time; a test must fail; results to docs/reliability.md"
	@echo "make parity     compare our networks' outputs with other libraries', where installed"
	@echo "make learnability  train every pooling for 20 steps; results to docs/learnability.md"
	@echo "make leaks      test that only the actor and the held thing of drawn people show the action"
	@echo "make roundtrips convert files that other libraries write, and compare bit by bit"
	@echo "make fuzz       read mutated images, shards and files, hostile archives; results to docs/reliability.md"
	@echo "make docs-test  run every code block of README.md and docs/ in a copy of the checkout"
	@echo "make wheel-test run README's commands from an installed wheel in an empty folder"
	@echo "make drawn-objects  train the demo's backbone again, as runs/drawn_objects.safetensors"
	@echo "make format     apply the formatter"
	@echo "make clean      remove the environment and the caches; data and runs stay"

$(VENV)/run-time: requirements.txt pyproject.toml
	@echo "making $(VENV), once, with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "pip==26.1" "uv==0.13.9"
	$(call install,--requirement requirements.txt)
	$(call install,--no-deps --editable .)
	@touch $@

$(VENV)/dev: $(VENV)/run-time
	$(call install,--group dev)
	$(call install,--no-deps "axe-playwright-python==0.1.8")
	@touch $@

$(VENV)/bytecode: $(VENV)/run-time # beside the development pins: the tests' processes need it at once
	$(BIN)/python -c "import gap_jax.train, gap_jax.commands.api, gap_jax.report.write"
	@touch $@

demo: $(VENV)/run-time
	$(BIN)/gap_jax demo

PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
test: $(VENV)/dev $(VENV)/bytecode
	$(PYTEST)

test-fast: $(VENV)/dev $(VENV)/bytecode
	$(PYTEST) -m "not processes and not slow"

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/project/test_security.py

faults: FOUND := build/faults/$(shell git rev-parse --short HEAD)
faults: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.faults --kills 28 --seed 0 --out $(FOUND)/alone
	$(BIN)/python -m tests.campaigns.faults_sweeps --kills 10 --seed 0 --out $(FOUND)/sweeps
	$(BIN)/python -m tests.campaigns.processes --faults 20 --terminations 20 --seed 0 --out $(FOUND)/processes
	$(BIN)/python -m tests.campaigns.processes_meshes --out $(FOUND)/meshes
	$(BIN)/python -m tests.campaigns.processes_evaluation --out $(FOUND)/evaluation

commands: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.commands --instants 10 --seed 0 --out build/commands/$(shell git rev-parse --short HEAD)

mutants: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.mutants --count 320 --seed 0 --out build/mutants

parity: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.parity

learnability: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.learnability

leaks: $(VENV)/dev
	$(BIN)/python -m pytest -n auto tests/campaigns/leaks.py

roundtrips: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.roundtrips $(PYTHONS)

fuzz: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.fuzz --seed 0 --out build/fuzz/$(shell git rev-parse --short HEAD)

docs-test: $(VENV)/dev
	$(BIN)/python -m tests.campaigns.docs

wheel-test: $(VENV)/dev
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/environment
	build/wheel/environment/bin/python -m pip install --quiet "pip==26.1"
	build/wheel/environment/bin/python -m pip install --quiet ".[photos]"
	cd build/wheel/environment/lib/python*/site-packages && git -C $(CURDIR) ls-files gap_jax data_pipelines | xargs ls >/dev/null
	$(BIN)/python -m tests.campaigns.docs --installed build/wheel/environment README.md

drawn-objects: $(VENV)/run-time
	test -e data/objects/manifest.json || $(BIN)/gap_jax data prepare objects --out data/objects
	$(BIN)/gap_jax train --config=configs/gap_pose.py:mean,objects,demo --workdir=runs/objects
	$(BIN)/gap_jax weights convert runs/objects runs/drawn_objects.safetensors

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
