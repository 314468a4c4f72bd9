# Everything runs in an environment of its own; a fresh machine needs python3 ≥ 3.10 and make.
#   make quickstart [SEED=1]   synthetic shards, training on the CPU, results, a page about them
#   make quickstart-grpo       the quickstart's model learns on by reinforcement, beside segmentation alone
#   make ablation-grpo         the same with reinforcement alone too, three seeds
#   make test                  the fast tests          make test-all   the slow ones too
#   make lint                  ruff and mypy           make install    the environment alone
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
SEED ?= 1
RUN ?= runs/quickstart
GRPO_RUN ?= runs/quickstart-grpo
# where configs/data/synthetic*.yaml look for it
DATA := data/synthetic

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# two test processes on two cores: more threads would only get in each other's way
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# one test file a worker: fixtures of a session and of a module are made once
PARALLEL := -n $(WORKERS) --dist loadfile

.PHONY: install test test-slow test-all lint format quickstart quickstart-grpo ablation-grpo clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) --version). Name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@

test: $(INSTALLED)
	$(PYTEST) $(PARALLEL) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) $(PARALLEL) -m slow

test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DATA)/train/index.json: | $(INSTALLED)
	$(BIN)/coprs data synthetic --output $(DATA) --train 12000 --val 150 --test 250 --generalisation 150 --workers $(WORKERS)

# an earlier run is set aside, so that runs/quickstart/results.json is always this run's
quickstart: $(DATA)/train/index.json
	@if [ -e $(RUN) ]; then mv $(RUN) $(RUN)-until-$$(date +%Y%m%d-%H%M%S); fi
	$(BIN)/coprs fit --config configs/quickstart.yaml --seed_everything $(SEED) --trainer.default_root_dir $(RUN)
	$(BIN)/coprs test --ckpt_path $(RUN) --trainer.default_root_dir $(RUN) --callbacks.results.init_args.path results-test.json
	$(BIN)/coprs test --ckpt_path $(RUN) --trainer.default_root_dir $(RUN) --data.init_args.test $(DATA)/generalisation \
		--callbacks.results.init_args.path results-generalisation.json
	$(BIN)/coprs show $(RUN)
	$(BIN)/coprs evaluate --checkpoint $(RUN)
	$(BIN)/coprs report $(RUN)

$(DATA)/reinforce/index.json: | $(INSTALLED)
	$(BIN)/coprs data synthetic --output $(DATA) --train 0 --val 0 --test 0 --generalisation 0 \
		--reinforce 6000 --reinforce-val 150 --workers $(WORKERS)

$(RUN)/checkpoints/last.ckpt:
	$(MAKE) quickstart

GRPO = @if [ -e $(1) ]; then mv $(1) $(1)-until-$$(date +%Y%m%d-%H%M%S); fi; \
	$(BIN)/python -m tests.benchmarks.joint_training --output $(1) --start $(RUN)

quickstart-grpo: $(DATA)/reinforce/index.json | $(RUN)/checkpoints/last.ckpt
	$(call GRPO,$(GRPO_RUN)) --seeds $(SEED)

ablation-grpo: $(DATA)/reinforce/index.json | $(RUN)/checkpoints/last.ckpt
	$(call GRPO,$(GRPO_RUN)-ablation) --seeds 1 2 3 --variants joint segmentation_only reinforcement_only

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
