# The arrows of the chain. Every target calls the one command line, `recsys`; see `recsys --help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECSYS := $(BIN)/recsys
DATA := data
VENV_BENCH := .venv-bench
LIGHTFM := lightfm-next==1.19.0
# obp declares versions of 2022; these are the ones that its estimators were run with here.
OBP := obp==0.5.7
OBP_NEEDS := matplotlib==3.11.2 numpy==2.4.6 pandas==3.1.1 pyyaml==6.0.4 scikit-learn==1.9.1 scipy==1.17.1 seaborn==0.13.2 torch==2.13.0 tqdm==4.70.1
VENV_PEERS := .venv-peers
PEERS := bentoml==1.4.40 httptools==0.9.0 litserve==0.2.19 mlflow==3.17.2 numpy==2.4.6 orjson==3.13.0 uvloop==0.23.0
MINUTES ?= 30
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
# No target of ours is a file, but those of the environments.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' Makefile)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -e '.[serve,train]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --progress-bar on -e '.[dev]'
	@touch $@

$(VENV_BENCH)/installed: Makefile # LightFM, a baseline only, in an environment of its own
	$(PYTHON) -m venv $(VENV_BENCH)
	$(VENV_BENCH)/bin/python -m pip install --progress-bar on $(LIGHTFM)
	@touch $@

$(VENV_BENCH)/installed-obp: $(VENV_BENCH)/installed # Open Bandit Pipeline, a witness only
	$(VENV_BENCH)/bin/python -m pip install --progress-bar on $(OBP_NEEDS)
	$(VENV_BENCH)/bin/python -m pip install --progress-bar on --no-deps --ignore-requires-python $(OBP)
	@touch $@

$(VENV_PEERS)/installed: Makefile # other model servers, to be measured beside ours
	$(PYTHON) -m venv $(VENV_PEERS)
	$(VENV_PEERS)/bin/python -m pip install --progress-bar on $(PEERS)
	@touch $@

run: $(VENV)/installed ## Everything: data, tables, phase 1, publish, serve
	$(RECSYS) ingest
	$(RECSYS) tables
	$(RECSYS) train --phase 1 --publish
	$(RECSYS) serve

ingest: $(VENV)/installed ## Take the default data in (own data: recsys ingest --mapping shop.toml)
	$(RECSYS) ingest

tables: $(VENV)/installed ## Build the tables
	$(RECSYS) tables

doctor: $(VENV)/installed ## What the data supports, and what is missing
	$(RECSYS) doctor

train-phase1: $(VENV)/installed ## Train, evaluate and register phase 1
	$(RECSYS) train --phase 1 --force

train-phase2: $(VENV)/installed ## The same for phase 2: content, for new items, and regional demand
	$(RECSYS) train --phase 2 --force

train-phase3: $(VENV)/installed ## The same for phase 3: the ensemble, with a ranker
	$(RECSYS) train --phase 3 --force

evaluate: $(VENV)/installed ## The measured table of phase 1 (writes reports/)
	$(RECSYS) evaluate --phase 1

evaluate-phase2: $(VENV)/installed ## The measured table of phase 2, phase 1 beside it
	$(RECSYS) evaluate --phase 2

evaluate-phase3: $(VENV)/installed ## The measured table of phase 3, the others beside it
	$(RECSYS) evaluate --phase 3

publish: $(VENV)/installed ## Make the newest bundle live
	$(RECSYS) publish

rollback: $(VENV)/installed ## Make the bundle live that was so before
	$(RECSYS) rollback

serve: $(VENV)/installed ## Serve the live bundle
	$(RECSYS) serve

mlflow: $(VENV)/installed ## Open the comparison of runs
	$(RECSYS) mlflow

lock: $(VENV)/installed-dev ## Write requirements/serve.txt anew: every package that serves, with its hashes
	$(BIN)/uv pip compile pyproject.toml --extra serve --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --upgrade --quiet --custom-compile-command "make lock" -o requirements/serve.txt

audit: $(VENV)/installed-dev ## Look the lock's packages up among known vulnerabilities (needs a network that reaches them)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements/serve.txt

fuzz-api: $(VENV)/installed-dev ## Ask the service whatever its OpenAPI document allows and forbids (EXAMPLES=1000 for each operation)
	API_EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/python -m pytest tests/integration/test_api_fuzz.py -q

browser: # Chromium for the browser tests
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium; } || \
	  echo "Chromium is missing and could not be installed: browser tests will be skipped"

postgres: # PostgreSQL for the tests of the event log, which start a private one
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq postgresql; } || \
	  echo "PostgreSQL is missing and could not be installed: its tests will be skipped"

faketime: # clocks that jump, for the chaos
	@ls /usr/lib/*/faketime >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq libfaketime; } || \
	  echo "libfaketime is missing and could not be installed: no clock will jump"

curl: # For the steps of docs/runbook.md, which tests carry out
	@command -v curl >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq curl; } || \
	  echo "curl is missing and could not be installed: the test of the runbook will fail"

test: $(VENV)/installed-dev browser postgres curl ## Install what the tests need and run them all
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

format: $(VENV)/installed-dev
	$(BIN)/ruff format .

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(RECSYS) docs --check

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: lint types test ## The one gate: format, lint, strict types, tests

bench-pipeline: $(VENV)/installed ## 1, 5 and 25 million events through the pipelines
	$(BIN)/python -m benchmarks.pipeline

bench-stranger: $(VENV)/installed ## 500,000 messy order lines through a proposed mapping
	$(BIN)/python -m benchmarks.stranger

bench-cold: $(VENV)/installed $(VENV_BENCH)/installed ## Items that nobody has met, ranked by what they are (TEST=--test: the test month)
	$(BIN)/python -m benchmarks.cold $(TEST)

bench-beauty: $(VENV)/installed $(VENV_BENCH)/installed ## The same on Amazon Beauty, and what it costs warm items (TEST=--test: the last items)
	$(BIN)/python -m benchmarks.beauty $(TEST)

bench-strangers: $(VENV)/installed ## Shoppers after 0, 1, 2 and 5 events (TEST=--test: the test month)
	$(BIN)/python -m benchmarks.strangers $(TEST)

bench-sequence: $(VENV)/installed ## Does attention over visits pay? (validation month only)
	$(BIN)/python -m benchmarks.sequence

bench-cuda: $(VENV)/installed ## Networks fitted on a GPU and on the processor beside it (needs a GPU, and a PyTorch build for it)
	$(BIN)/python -m benchmarks.cuda

bench-ablation: $(VENV)/installed ## What each source and feature adds to phase 3's ranker (validation month only)
	$(BIN)/python -m benchmarks.ablation

bench-retailrocket: $(VENV)/installed ## The phases on Retailrocket's buyers (needs ../shared/data)
	$(BIN)/python -m benchmarks.retailrocket

bench-serve: $(VENV)/installed ## /recommend of every phase beside a constant FastAPI route (needs wrk)
	$(BIN)/python -m benchmarks.serve

bench-keys: $(VENV)/installed ## What API keys and limits cost on /recommend (needs wrk)
	$(BIN)/python -m benchmarks.keys
bench-rollback: $(VENV)/installed ## Seconds from a rollback to every worker, under full load (needs wrk and two trained phases)
	$(BIN)/python -m benchmarks.rollback
bench-peers: $(VENV)/installed-dev $(VENV_PEERS)/installed ## The same model behind MLflow's server, BentoML and LitServe (needs wrk)
	$(BIN)/python -m benchmarks.peers

load-test: $(VENV)/installed-dev ## The rated load of one core, then 2, 5 and 10 times that
	$(BIN)/python -m benchmarks.load_test

chaos: $(VENV)/installed-dev postgres faketime ## One fault after the other under steady load: Redis, databases, disk, workers, bundles, clocks
	$(BIN)/python -m benchmarks.chaos

soak: $(VENV)/installed-dev ## Steady load for MINUTES=30: memory and descriptors stay as they are
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

bench-events: $(VENV)/installed-dev postgres ## Kill the service 50 times under load, and count events/s, on both databases (needs wrk)
	$(BIN)/python -m benchmarks.events

bench-fuzz: $(VENV)/installed-dev ## A million random requests under random business rules
	$(BIN)/python -m benchmarks.fuzz

bench-experiments: $(VENV)/installed ## The statistics of experiments against known truth (needs ../shared/data)
	$(BIN)/python -m benchmarks.experiments

bench-offpolicy: $(VENV)/installed $(VENV_BENCH)/installed-obp ## Off-policy estimates beside the truth and obp (needs ../shared/data)
	$(BIN)/python -m benchmarks.offpolicy

bench-beside: $(VENV)/installed ## What of that which stands beside an item and a cart comes true (validation month only)
	$(BIN)/python -m benchmarks.beside

bench-reasons: $(VENV)/installed ## Does an item's score fall without the event that its reason cites? (needs trained bundles)
	$(BIN)/python -m benchmarks.reasons

bench-simulator: $(VENV)/installed ## What there is to gain in the simulator: lists without a model, and the truth
	$(BIN)/python -m benchmarks.simulator_range

calibrate-simulator: $(VENV)/installed ## Fit the simulator's clicks to the Open Bandit logs (needs ../shared/data)
	$(BIN)/python -m benchmarks.calibrate_simulator

case-study: $(VENV)/installed ## The phases as arms in the real service against shoppers whose truth is known
	$(RECSYS) case-study

reality-check: $(VENV)/installed ## The five questions: a degraded model, no model, runbook and rollback drilled, a decision
	$(RECSYS) reality-check
case-study-small: $(VENV)/installed-dev ## The same in two minutes on a tiny shop: the arms' order, and whether the experiment finds the truth
	$(BIN)/python -m pytest tests/integration/test_closed_loop.py

case-study-weeks: $(VENV)/installed ## Four weeks in which phase 1 learns from what the system logged itself
	$(RECSYS) case-study --weeks 4

docs: $(VENV)/installed ## Bring the documents' tables up to date with reports/
	$(RECSYS) docs

clean: ## Remove everything that was built; keeps the event log
	rm -rf $(VENV) $(VENV_BENCH) $(VENV_PEERS) $(DATA)/raw $(DATA)/tables $(DATA)/bundles $(DATA)/mlflow build dist *.egg-info
