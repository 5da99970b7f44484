# Everything a contributor needs. `make quickstart` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .bench-venv
PEERS := lightning==2.6.6 accelerate==1.15.0 pytorch-ignite==0.5.5 keras==3.15.1
VISION := .torchvision
DOCS := .docs-venv
DEEPSPEED := .deepspeed-venv
XLA := .xla-venv
READY := $(VENV)/.ready
QUICK := playground/my-exp
# One thread: tiny models are much slower with several, and forking after threads ran can hang.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-gpu test-deepspeed test-xla kill-sweep lint format budget bench bench-gpu bench-where docs examples gallery clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml runtime/pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about two minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e . -e "runtime[tensorboard]" $$($(BIN)/python tools/dev_requirements.py)
	@touch $(READY)

setup: $(READY)  ## Create .venv with both packages and the development tools

quickstart: $(READY)  ## Write a project, train it, and say what to try next
	@rm -rf $(QUICK) && mkdir -p playground
	@cd playground && ../$(BIN)/scaffold new my-exp --defaults --no-git --runtime ../runtime
	@cd $(QUICK) && ../../$(BIN)/python train.py
	@echo
	@echo "Trained in $(QUICK). Try next:"
	@echo "  cd $(QUICK) && ../../$(BIN)/python train.py test --ckpt_path best"

# In a folder of its own: its compiled part does not load beside the CPU build of torch used here.
$(VISION)/.ready: $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VISION) torchvision==0.28.0
	@touch $@

test: $(READY) $(VISION)/.ready  ## Run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(READY)  ## Run the tests that take less than ten seconds
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-gpu: export PYTHONPATH = $(CURDIR)/runtime/tests/gpu
test-gpu: $(READY)  ## Run the tests of GPUs: on one, or on a stand-in of main memory where there is none
	@command -v g++ >/dev/null || { echo "make test-gpu needs a C++ compiler, since the stand-in" \
		"is compiled: apt-get install g++ (or your system's package for it)"; exit 1; }
	timeout -k 10 900 $(BIN)/python -m pytest -p stand_in runtime/tests/gpu

# On top of .venv, which stays without DeepSpeed: tests there are of how it is missed. It compiles what its processes
# talk through at first use: here, once, and not inside a test.
$(DEEPSPEED)/.ready: export TORCH_EXTENSIONS_DIR = $(CURDIR)/$(DEEPSPEED)/extensions
$(DEEPSPEED)/.ready: export DS_ACCELERATOR = cpu
$(DEEPSPEED)/.ready: $(READY)
	@command -v g++ >/dev/null || { echo "make test-deepspeed needs a C++ compiler, since DeepSpeed" \
		"compiles a part of itself: apt-get install g++ (or your system's package for it)"; exit 1; }
	@test -x $(DEEPSPEED)/bin/python || $(BIN)/python -m venv $(DEEPSPEED)
	@echo "Installing DeepSpeed into $(DEEPSPEED) and compiling (about two minutes the first time)"
	@$(DEEPSPEED)/bin/python -c "from sysconfig import get_path; place = get_path('purelib'); \
		below = place.replace('$(DEEPSPEED)', '$(VENV)'); \
		open(place + '/on_top.pth', 'w').write(f'import site; site.addsitedir({below!r})')"
	@$(DEEPSPEED)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt deepspeed setuptools ninja
	@PATH=$(CURDIR)/$(DEEPSPEED)/bin:$$PATH RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=0 \
		timeout 900 $(DEEPSPEED)/bin/python -c "import deepspeed; deepspeed.init_distributed('gloo', verbose=False)" \
		|| { echo "DeepSpeed could not compile its C++ part; what it printed is above." \
		"It needs g++, ninja and the headers of Python (apt-get install g++ python3-dev)."; exit 1; }
	@touch $@

test-deepspeed: export TORCH_EXTENSIONS_DIR = $(CURDIR)/$(DEEPSPEED)/extensions
test-deepspeed: $(DEEPSPEED)/.ready  ## Run the tests that need DeepSpeed, in an environment of its own
	PATH=$(CURDIR)/$(DEEPSPEED)/bin:$$PATH timeout -k 10 900 $(DEEPSPEED)/bin/python -m pytest \
		runtime/tests/distributed/test_deepspeed.py \
		tests/scaffold/test_trains.py::test_deepspeed_trains_two_batches_and_doctor_agrees

# The newest torch_xla needs torch 2.9, which brings seven gigabytes of libraries for GPUs.
$(XLA)/.ready:
	@test -x $(XLA)/bin/python || $(PYTHON) -m venv $(XLA)
	@echo "Installing torch_xla into $(XLA) (about five minutes and 7 GB)"
	@$(XLA)/bin/pip install --quiet --disable-pip-version-check torch==2.9.0 torch_xla==2.9.0 numpy \
		"jsonargparse[signatures]" pyyaml rich pytest pytest-timeout
	@touch $@

test-xla: $(XLA)/.ready  ## Run the tests that need torch_xla, on its CPU device, in an environment of its own
	PJRT_DEVICE=CPU PYTHONPATH=$(CURDIR)/runtime timeout -k 10 900 $(XLA)/bin/python -m pytest -o filterwarnings=default \
		runtime/tests/distributed/test_xla.py

kill-sweep: $(READY)  ## Kill N (100) training runs at random moments, resume them, count the identical ones
	$(BIN)/python runtime/tests/reliability/kill_sweep.py $(or $(N),100)

lint: $(READY)  ## ruff, black, mypy --strict on both packages, import directions, sizes
	$(BIN)/ruff check .
	$(BIN)/black --check --quiet . || $(BIN)/black --diff --quiet .
	@$(BIN)/black --check --quiet .
	$(BIN)/mypy scaffold runtime/scaffold_runtime
	$(BIN)/lint-imports
	@$(BIN)/python tools/budget.py --quiet

format: $(READY)  ## Let ruff and black rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/black --quiet .

budget: $(READY)  ## Source lines per module and lengths of functions
	@$(BIN)/python tools/budget.py

# Besides the peers, what the default project needs; the pinned torch stays, none of the peers replaces it.
$(BENCH)/.ready: pyproject.toml runtime/pyproject.toml constraints.txt Makefile
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@echo "Installing the peers into $(BENCH) (about two minutes the first time)"
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check $$(grep -E '^(torch|numpy)==' constraints.txt)
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e "runtime[plot]" -e . scikit-learn plotly tensorboard $(PEERS)
	@touch $@

bench: $(BENCH)/.ready  ## Ratios to the plain loop and the peers; ROWS="off import" some, WRITE=1 into the pages
	@$(BENCH)/bin/python benchmarks/bench.py $(ROWS) $(ROW) $(if $(WRITE),--write)

bench-gpu: $(BENCH)/.ready  ## Time per step on a GPU, and that nothing waits for it; ends with 2 where there is none
	@$(BENCH)/bin/python benchmarks/gpu.py $(ROWS) $(ROW)

bench-where: $(BENCH)/.ready  ## Where the time beside the plain loop goes, as a profile; ROWS="import new", or all with WRITE=1
	@$(BENCH)/bin/python benchmarks/where.py $(ROWS) $(ROW) $(if $(WRITE),--write)

$(DOCS)/.ready: constraints.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		mkdocs-material "mkdocstrings[python]" ruff
	@touch $@

docs: $(READY) $(DOCS)/.ready  ## Build the documentation into site/; a warning is an error
	@$(BIN)/python tools/pages.py
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet --site-dir site
	@echo "Open site/index.html"

examples: $(READY)  ## Render the example projects again
	@$(BIN)/python tools/examples.py

gallery: $(READY)  ## Train every task and write docs/gallery.md from what came out
	@$(BIN)/python tools/gallery.py $(TASKS)

clean:  ## Remove what was built, not what was written
	rm -rf $(VENV) $(BENCH) $(VISION) $(DOCS) $(DEEPSPEED) $(XLA) playground build dist site runtime/build runtime/dist
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
