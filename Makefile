# Two commands do everything: `make run` and `make test`.  `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# One thread for the small matrices here: on two cores it is twice as fast as two.
export OMP_NUM_THREADS ?= 1
# A bytecode cache saves ten seconds at every start.
unexport PYTHONDONTWRITEBYTECODE
export TOKENIZERS_PARALLELISM = false

.PHONY: help run test bench lab build refresh check standalone class slides site clean

help:
	@echo "make run         install, fetch the model, execute all notebooks (copies in executed/)"
	@echo "make test        install, fetch the model, run all tests"
	@echo "make bench       measure the kernels against other libraries, rewrite the tables of docs/performance*.md"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make build       rebuild the stored notebooks from notebooks/source/"
	@echo "make refresh     texts, links, badges and first cells of the stored notebooks, outputs as they are"
	@echo "make check       compare the stored notebooks with their sources, the texts with the glossary"
	@echo "make standalone  notebooks that need no repository, for upload, in build/standalone/"
	@echo "make class       versions for a class, instructor and student, for nbgrader, in build/class/"
	@echo "make slides      slides of the stored notebooks, no network needed, in build/slides/"
	@echo "make site        the site, in both languages, in build/site/"
	@echo "make clean       remove the environment and what was executed or built (not the model cache)"

# The environment is made again when the list of packages changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || \
	  { echo "Python 3.11.5 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 run"; exit 1; }
	@echo "== making the environment in $(VENV) (several minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev,site,class]"
	@echo "== compiling, so that later starts are quick"
	@$(BIN)/python -m compileall -qq -j 2 $(VENV)/lib || true
	@$(BIN)/python -c "from helpers.kernels import compile_kernels; compile_kernels()"
	@touch $@

run: $(READY)
	@echo "== the models"
	@$(BIN)/python -c "from helpers import load_model; print(*(load_model(n)[0].provenance for n in (None, 'minilm')), sep='\n')"
	@echo "== executing the notebooks"
	@$(BIN)/python -m tools.build --run executed

test: export QKV_MODEL = smollm2
test: $(READY)
	@echo "== the models"
	@$(BIN)/python -c "from helpers import load_model; print(*(load_model(n)[0].provenance for n in (None, 'minilm')), sep='\n')"
	@echo "== the tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env tests helpers notebooks/vi notebooks/en

# As many threads as the machine has, for every method alike; some ten minutes on a quiet machine.
bench: ALL = $$($(BIN)/python -c 'import os; print(os.cpu_count())')
bench: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[bench]"
	OMP_NUM_THREADS=$(ALL) $(BIN)/python -m pytest --override-ini addopts= -q tools/benchmarks
	OMP_NUM_THREADS=$(ALL) $(BIN)/python -m tools.benchmarks.report measure
	$(BIN)/python -m tools.benchmarks.report write

lab: $(READY)
	$(BIN)/jupyter lab

build: $(READY)
	$(BIN)/python -m tools.build

refresh: $(READY)
	$(BIN)/python -m tools.build --refresh

standalone: $(READY)
	$(BIN)/python -m tools.standalone

check: $(READY)
	$(BIN)/python -m tools.build --check
	$(BIN)/python -m tools.glossary --check

class: $(READY)
	$(BIN)/python -m tools.classroom

slides: $(READY)
	$(BIN)/python -m tools.slides

site: $(READY)
	$(BIN)/python -m tools.site.build

clean:
	rm -rf $(VENV) executed build
