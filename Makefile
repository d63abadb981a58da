PYTHON ?= python3
DEMO ?=
BENCH ?=
RESULTS ?=
VENV := .venv
BIN := $(VENV)/bin
AUDIT := build/audit

SOAK := tests/soak tests/fuzz tests/data/test_data_sampling.py tests/protocol/test_protocol_ray.py

.PHONY: demo test soak check bench results docs sbom audit setup clean

demo: setup  ## train ERM, KD and SCMD on the embedded digits
	$(BIN)/scmd demo $(DEMO)

test: setup  ## run the tests, a file at a time on each processor
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

soak: setup  ## kill runs at random moments, and feed all inputs with nonsense: ten minutes
	SCMD_SOAK=1 $(BIN)/python -m pytest $(SOAK)

check: setup  ## lint and types
	$(BIN)/ruff format --check src tests scripts docs experiments
	$(BIN)/ruff check src tests scripts docs experiments
	$(BIN)/pyright

bench: setup  ## time training beside the released code's step
	$(BIN)/scmd bench --out docs/benchmarks.md $(BENCH)

results: setup  ## the main tables of the digits, anew; RESULTS=--all and more: experiments/README.md
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m experiments --processes 2 --page docs/results.md $(RESULTS)
	$(BIN)/python -m experiments.figures

docs: setup  ## build the pages
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo docs/_build/html/index.html

sbom: setup $(AUDIT)/.ready  ## a CycloneDX bill of materials of the environment
	mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o dist/scmd.cdx.json
	@echo dist/scmd.cdx.json

audit: $(AUDIT)/.ready  ## ask the internet for known vulnerabilities of what constraints.txt pins
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(AUDIT)/.ready:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	touch $@

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,export]'
	touch $@

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) $(AUDIT) demo docs/_build
