# make demo   draw the embedded data set, prepare and check it, show a batch   (make help)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
DATA   := data/people

.PHONY: help demo test check format clean

help:
	@echo "make demo    draw the embedded data set, prepare and check it, show a batch"
	@echo "make test    the test suite"
	@echo "make check   format, lint, types, security gate"
	@echo "make format  apply the formatter"
	@echo "make clean   remove the environment and the caches; data and runs stay"

$(VENV)/run-time: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "pip==26.1"
	$(PIP) install --quiet --requirement requirements.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/dev: $(VENV)/run-time
	$(PIP) install --quiet --group dev
	@touch $@

demo: $(VENV)/run-time
	test -e $(DATA)/manifest.json || $(BIN)/gap_jax data prepare people --out $(DATA)
	$(BIN)/gap_jax data check $(DATA)
	$(BIN)/gap_jax data show $(DATA) --config=configs/gap_pose.py:demo
	@echo "open $(DATA)/contact_sheet.html and $(DATA)/batch.html"

test: $(VENV)/dev
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_security.py

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
