# make demo        set up the environment and run the whole chain on demo/archives
# make test        set up the machine and the environment and run all tests
# make test-fast   the tests that take seconds, for every save
# make lint        every static check
# make help        the rest

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
READY := .venv/.ready
DEMO := --configfile demo/config.yaml

# Each job is a process that imports torch or more; from sources that takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo demo-clean demo-accuracy demo-models demo-archives machine test test-fast lint format lock schema dictionary settings picture screenshots \
  bench-encode bench-unpack bench-cycle bench-feed bench-transcribe bench-classify \
  bench-gpu bench-load bench-queue bench-desk simulate-noon simulate-evidence check-cluster slurm-up slurm-down \
  cluster-up cluster-demo cluster-faults cluster-down

help:
	@echo "make install        the environment of production: requirements.lock and Earmark"
	@echo "make demo           run the whole chain on demo/archives and show what came out"
	@echo "make demo-clean     remove what the demo made (demo/volume)"
	@echo "make demo-accuracy  word error rates and classification accuracy of the demo's models"
	@echo "make demo-models    train the demo's models again (about an hour on two cores; espeak-ng)"
	@echo "make demo-archives  make the demo's archives again (espeak-ng)"
	@echo "make test           run all tests (as root: first install the programs they start)"
	@echo "make test-fast      run the tests that start no workflow, server, SLURM or browser"
	@echo "make bench-encode   CPU time of encoding against ffmpeg (ffmpeg, espeak-ng)"
	@echo "make bench-unpack   speed and memory of unpacking against tar"
	@echo "make bench-transcribe   transcription against WhisperX once per file (ffmpeg)"
	@echo "make bench-classify     classification against whole prompts and generated JSON, and a screen"
	@echo "make bench-gpu      both at full size, for a machine with a GPU (half an hour, 26 GB)"
	@echo "make bench-load     loading against row by row and against a bare COPY"
	@echo "make bench-queue    the review queue over ten million clips (ten minutes, 25 GB)"
	@echo "make simulate-noon  flagged clips at noon under both orders, weeks with bad days (simulated)"
	@echo "make simulate-evidence  whether the intervals of earmark harm hold (simulated, 20 minutes)"
	@echo "make slurm-up       a SLURM cluster on this machine, to try profiles/slurm (root)"
	@echo "make slurm-down     remove it again"
	@echo "make cluster-up     the five machines of docs/deploy.md as containers, set up by its commands (root)"
	@echo "make cluster-demo   let them work through the demo's archives; make cluster-faults kills their daemons"
	@echo "make cluster-down   remove them again"
	@echo "make bench-desk     the review desk's pages over ten million clips (a quarter of an hour, 25 GB)"
	@echo "make bench-cycle    what 100,000 finished archives cost a run's start"
	@echo "make bench-feed     how much of the GPUs' time a driver leaves unused (half an hour; root)"
	@echo "make check-cluster  30 archives on a SLURM of four nodes (a quarter of an hour; root)"
	@echo "make lint           ruff, mypy, import-linter, snakefmt, snakemake --lint, shellcheck"
	@echo "make format         let ruff and snakefmt lay out the code"
	@echo "make lock           pin the newest allowed versions in both lock files"
	@echo "make schema         write sql/schema.sql from the migrations"
	@echo "make dictionary     write docs/data-dictionary.md from the columns and their comments"
	@echo "make settings       write the configuration's reference from src/earmark/settings.py"
	@echo "make picture        draw docs/workflow.svg from the workflow (graphviz)"
	@echo "make screenshots    draw docs/review/ from the demo's results (chromium)"

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Earmark needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is not one of them;" \
	    "try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { \
	  echo "This Python cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(READY): $(INSTALLED) requirements-dev.lock
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements-dev.lock
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/snakemake --profile profiles/local $(DEMO)
	@$(BIN)/python -m demo.show $(DEMO)

demo-clean: $(INSTALLED)
	$(BIN)/earmark database $(DEMO) --stop
	rm -rf demo/volume

demo-accuracy: $(READY)
	$(BIN)/python -m demo.accuracy

demo-models: $(READY)
	$(BIN)/python -m demo.training.train_speech
	$(BIN)/python -m demo.training.train_classifier

demo-archives: $(READY)
	$(BIN)/python -m demo.make_archives

machine:
	@tests/setup-machine

test: machine $(READY)
	$(BIN)/pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

test-fast: $(READY)
	$(BIN)/pytest --quiet --numprocesses 2 --dist loadgroup -m "not slow"

bench-encode: $(READY)
	$(BIN)/python -m benchmarks.encode

bench-unpack: $(READY)
	$(BIN)/python -m benchmarks.unpack

bench-transcribe: $(READY)
	$(BIN)/python -m benchmarks.transcribe

bench-classify: $(READY)
	$(BIN)/python -m benchmarks.classify
	$(BIN)/python -m benchmarks.classify --screen --transcripts 400 --rounds 1

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

bench-load: $(READY)
	$(BIN)/python -m benchmarks.load

bench-queue: $(READY)
	$(BIN)/python -m benchmarks.queue

bench-desk: $(READY)
	$(BIN)/python -m benchmarks.desk

simulate-noon: $(READY)
	$(BIN)/python -m benchmarks.noon

simulate-evidence: $(READY)
	$(BIN)/python -m benchmarks.evidence

slurm-up:
	deploy/one-machine/slurm up

slurm-down:
	deploy/one-machine/slurm down

bench-cycle: $(READY)
	$(BIN)/python -m benchmarks.cycle

bench-feed: $(READY)
	$(BIN)/python -m benchmarks.feed

cluster-up:
	python3 deploy/containers/cluster.py up

cluster-demo:
	python3 deploy/containers/cluster.py demo

cluster-faults:
	python3 deploy/containers/cluster.py faults

cluster-down:
	python3 deploy/containers/cluster.py down

check-cluster: $(READY)
	$(BIN)/python -m benchmarks.cluster

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check workflow benchmarks
	$(BIN)/python workflow/lint.py $(DEMO)
	$(BIN)/shellcheck -x .ci/run tests/setup-machine deploy/one-machine/slurm $(addprefix deploy/cluster/,earmark-command setup-coordinator \
	  setup-transfer setup-worker download-models node-health steps.sh)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt workflow benchmarks

COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header \
  --no-annotate --python-version 3.11

lock: $(READY)
	$(COMPILE) pyproject.toml --group install --output-file requirements.lock
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

schema: $(READY)
	$(BIN)/python sql/write_schema.py

dictionary: $(READY)
	$(BIN)/python -m docs.write_data_dictionary

settings: $(READY)
	$(BIN)/python config/write_reference.py

picture: $(READY)
	$(BIN)/python docs/draw_workflow.py

screenshots: $(READY)
	$(BIN)/python docs/draw_screenshots.py $(DEMO)
