# `make demo` and `make test` do all set-up on a machine that has Python 3.11 or newer, make and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# What installs nothing takes the Python that is named, that of .venv, or the one that the machine has torch for.
WITH_TORCH = $(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),python3),$(PYTHON))
RUNTIME := $(VENV)/.runtime-installed
DEVELOPMENT := $(VENV)/.development-installed
TOOLS := build/tools
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint torture slow oldest mutants quality minutes gpu docs site package matrix pictures notebooks bench growth clean

demo: $(RUNTIME)  ## Train DDPM and blur diffusion on embedded digits and sample both (a few minutes on two cores).
	@for arm in "--rotation identity" "--rotation dct --schedule quartic"; do \
	  run=$$($(BIN)/gendiff train --preset digits-demo $$arm) && \
	  $(BIN)/gendiff sample "$$run" --n 64 --trajectory || exit $$?; \
	done

test: $(DEVELOPMENT)  ## Run the tests, a file at a time on each core.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: $(DEVELOPMENT)  ## Style, types and the arrows of docs/architecture.md.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

torture: $(DEVELOPMENT)  ## Fault-injection campaigns (minutes).
	@$(BIN)/python -m pytest -m torture $(ARGS)

slow: $(DEVELOPMENT)  ## What takes minutes: agreement with other programs, campaigns on small things, type checkers (minutes).
	@$(BIN)/python -m pytest -m slow $(ARGS)

oldest: $(DEVELOPMENT)  ## What is done with diffusers, by the oldest version that is promised and the newest (minutes).
	@OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/oldest.py $(ARGS)

mutants: $(DEVELOPMENT)  ## Small changes to the mathematics, each of which a test must notice (an hour; ARGS="--modules gendiff/level.py --all").
	@OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/mutants.py $(ARGS)

docs: $(DEVELOPMENT)  ## Write the pages that follow from the code, and fold lines of the others that are too long.
	@$(BIN)/python docs/generate.py
	@$(BIN)/python docs/wrap.py

site: $(TOOLS)/.site  ## Make the site, build/site, from README.md, docs/ and examples/; needs no torch, and no net once its tools are there.
	@$(TOOLS)/bin/python docs/site.py build/pages
	@NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --quiet
	@echo 'build/site/index.html; with its search: python3 -m http.server -d build/site'

package: $(TOOLS)/.package  ## Make dist/: the wheel and the source archive, as an index takes them.
	@rm -rf dist
	@$(TOOLS)/bin/python -m build --outdir dist .
	@$(TOOLS)/bin/twine check --strict dist/*

matrix: $(TOOLS)/.matrix  ## The tests under every Python and torch that are promised (hours, and many gigabytes; ARGS="--list" shows the parts).
	@$(TOOLS)/bin/nox $(ARGS)

pictures: $(DEVELOPMENT)  ## Draw the pictures of docs/processes.md (minutes).
	@$(BIN)/python docs/draw.py

notebooks: $(DEVELOPMENT)  ## Run the notebooks of examples/, and keep in them what they show (minutes).
	@$(BIN)/python docs/notebooks.py

quality: $(DEVELOPMENT)  ## Fréchet distance against evaluations, all arms and seeds (many hours; ARGS="--sets digits --seeds 0 --minutes 60" is a slice).
	@$(BIN)/python tests/campaigns/quality.py --out docs/results $(ARGS)

minutes: $(DEVELOPMENT)  ## Fréchet distance against processor minutes of training, for the settings of the run on digits (an hour or two).
	@$(BIN)/python tests/campaigns/minutes.py --out docs/results --figure docs/images/minutes.png $(ARGS)

gpu:  ## All that waits for a GPU, in calls of nine minutes: repeat it while a part goes on (ARGS="--minutes 30"); installs nothing.
	@exec $(WITH_TORCH) tests/campaigns/gpu.py --out runs/gpu $(ARGS)

bench: $(DEVELOPMENT)  ## Speed of packed sets beside their sources, of work side by side, and of the U-Net beside plain loops; a GPU if there is one.
	@$(BIN)/python tests/campaigns/data_benchmark.py $(DATA_ARGS)
	@$(BIN)/python tests/campaigns/threads_benchmark.py $(THREADS_ARGS)
	@$(BIN)/python tests/campaigns/unet_benchmark.py $(ARGS)

growth: $(DEVELOPMENT)  ## Time and memory against resolution, N, channels and batch; two processes against one.
	@$(BIN)/python tests/campaigns/growth.py $(ARGS)

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)
	@echo "installing gendiff into $(VENV) ..." >&2
	@$(INSTALL) --editable .
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(VENV)
	@echo "installing gendiff and its development tools into $(VENV) ..." >&2
	@$(INSTALL) --editable ".[dev]"
	@touch $@ $(RUNTIME)

$(TOOLS)/.%: pyproject.toml | $(TOOLS)
	@echo "installing the tools of make $* into $(TOOLS) ..." >&2
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --group $*
	@touch $@

$(VENV) $(TOOLS):
	@$(PYTHON) -m venv $@

clean:  ## Remove the environment and caches; runs stay.
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
