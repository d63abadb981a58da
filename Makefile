PYTHON ?= python3
DEMO ?=
BENCH ?=
VENV := .venv
BIN := $(VENV)/bin

SOAK := tests/soak tests/fuzz

.PHONY: demo test soak check bench docs setup clean

demo: setup  ## train ERM, KD and SCMD on the embedded digits
	$(BIN)/scmd demo $(DEMO)

test: setup  ## run the tests
	$(BIN)/python -m pytest

soak: setup  ## kill runs at random moments, and feed all inputs with nonsense: ten minutes
	SCMD_SOAK=1 $(BIN)/python -m pytest $(SOAK)

check: setup  ## lint and types
	$(BIN)/ruff format --check src tests scripts docs
	$(BIN)/ruff check src tests scripts docs
	$(BIN)/pyright

bench: setup  ## time training beside the released code's step
	$(BIN)/scmd bench --out docs/benchmarks.md $(BENCH)

docs: setup  ## build the pages
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo docs/_build/html/index.html

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,export]'
	touch $@

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) demo docs/_build
