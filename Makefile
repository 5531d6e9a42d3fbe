PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Limits of `make train`; without them, the command trains for 25 epochs.
QUICK := trainer.max_epochs=12 trainer.max_time=00:00:08:00

.DEFAULT_GOAL := help
.PHONY: help install train explore blind pretrained test test-minimum test-slow faults gpu lint check format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Create the virtual environment and install everything into it

$(READY): pyproject.toml
	@echo "Installing into $(VENV): about 3 minutes, 7 GB on Linux"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(READY) ## Train on phantoms, 8 minutes at most; ARGS='...' adds or changes options
	@echo "A short run: 12 epochs on 1,280 phantoms, 8 minutes at most. Without these limits: 25 epochs"
	$(BIN)/python -m vaegan_pl.train experiment=larsen_plus trainer.devices=1 $(QUICK) $(ARGS)
	@echo "Before you paste these commands: source $(BIN)/activate"

explore: $(READY) ## Open the newest run's model in the browser; ARGS='...' adds or changes options
	$(BIN)/python -m vaegan_pl.explore $(ARGS)

blind: $(READY) ## Test whether you can tell real slices from samples; ARGS='...' names model and data
	$(BIN)/python -m vaegan_pl.blind_test weights=outputs/latest/vae_gan_model.pth data=phantom $(ARGS)

pretrained: $(READY) ## Train the model of weights=pretrained again, about an hour; DATA=PATH names the images
	@test -n '$(DATA)' || { echo 'error: name the folder of the images: make pretrained DATA=PATH'; exit 1; }
	$(BIN)/python -m vaegan_pl.train experiment=larsen_plus model.networks.latent_dim=64 trainer.precision=32-true \
		data=mri data.root='$(DATA)' hydra.run.dir=outputs/pretrained $(ARGS)
	$(BIN)/python -m vaegan_pl.export weights=outputs/pretrained/vae_gan_model.pth format=decoder output=outputs/pretrained
	$(BIN)/python -m vaegan_pl.evaluate weights=outputs/pretrained/vae_gan_decoder.pth data=mri data.root='$(DATA)'
	@echo "vaegan_pl/pretrained/README.md says when to replace the present model"

test: $(READY) ## Run the tests; ARGS='...' goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-minimum: ## Run the tests with the oldest versions that pyproject.toml allows, in a new .venv-minimum
	$(PYTHON) -m venv --clear .venv-minimum
	.venv-minimum/bin/python -m pip install --quiet --constraint constraints-minimum.txt --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-minimum/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal -W default $(ARGS)

test-slow: $(READY) ## Run long tests, and sweeps in other processes, on Slurm and on Ray, which it installs
	$(BIN)/python -m pip install --quiet --editable '.[dev,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(ARGS)

faults: $(READY) ## Kill runs, break files, fill disks: about an hour; ARGS='...' adds options
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(ARGS)

gpu: $(READY) ## Check and measure training on this machine's GPU; ARGS='...' adds options
	$(BIN)/python -m tests.gpu $(ARGS)

lint: $(READY) ## Check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint test ## Everything that CI checks

format: $(READY) ## Format the code and apply the linter's fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the virtual environment and caches; outputs/ stays
	rm -rf $(VENV) .venv-minimum .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
