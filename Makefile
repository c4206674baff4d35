# Everything here makes its own virtual environment first; the second time that takes no time.
PYTHON ?= python3
VENV := .venv
RUN := OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python
LABEL := .venv-label
BUNDLE := jsrt_rpg

.PHONY: demo demo-ms demo-oct demo-lgg demo-rank tables test torture label-demo label-test lint benchmark docs clean help

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/installed: requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, got $$($(PYTHON) --version): set PYTHON=python3.11, say." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is needed: on Debian and Ubuntu, apt-get install python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(VENV)/installed  ## Train Supervised and RPG on invented radiographs and compare them, about 8 minutes
	$(RUN) -m common grid grids/demo.yaml runs/demo

demo-ms: $(VENV)/installed  ## Train Supervised and POPCORN on invented brains and compare them, about 12 minutes
	$(RUN) -m common grid grids/demo_ms.yaml runs/demo-ms

demo-oct: $(VENV)/installed  ## Train Supervised and RPG+ on invented OCT and compare them, about 6 minutes
	$(RUN) -m common grid grids/demo_oct.yaml runs/demo-oct

demo-lgg: $(VENV)/installed  ## Train Supervised and SegMatch on invented gliomas and compare them, about 3 minutes
	$(RUN) -m common grid grids/demo_lgg.yaml runs/demo-lgg

demo-rank: $(VENV)/installed  ## Train Supervised and UniMatch without and with rank weighting and a detector on invented hearts, about 3 minutes
	$(RUN) -m common grid grids/demo_rank.yaml runs/demo-rank

tables: $(VENV)/installed  ## Run the paper's tables, small, on invented radiographs, about an hour and a quarter on 2 cores
	$(RUN) -m common grid grids/jsrt_small.yaml runs/tables

test: $(VENV)/installed  ## Run all tests, 6 to 16 minutes
	$(RUN) -m pytest -n 2 --dist loadfile

torture: $(VENV)/installed  ## Damage files, kill runs, fill disks, and count what passes in silence, about half an hour
	$(RUN) tests/torture

$(LABEL)/installed: label/requirements.txt label/torchvision_on_cpu.py setup.cfg
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' label/requirements.txt)"
	$(LABEL)/bin/pip install --quiet --disable-pip-version-check -r label/requirements.txt
	$(LABEL)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(LABEL)/bin/python label/torchvision_on_cpu.py
	@touch $@

label-demo: $(LABEL)/installed  ## Serve a bundle (BUNDLE=jsrt_rpg) in MONAI Label with invented studies; 4 GB the first time
	$(LABEL)/bin/python label/demo.py runs/label $(BUNDLE)

label-test: $(LABEL)/installed  ## Drive a real MONAI Label server with every bundle, about 8 minutes
	OMP_WAIT_POLICY=PASSIVE $(LABEL)/bin/python -m pytest -p no:cacheprovider tests/label

lint: $(VENV)/installed  ## Check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

benchmark: $(VENV)/installed  ## Time and memory beside the plain forms
	$(RUN) benchmarks/reference_labels.py
	$(RUN) benchmarks/rank_similarity.py
	$(RUN) benchmarks/proximity_graph.py
	$(RUN) benchmarks/volumes.py --small

docs: $(VENV)/installed  ## Build the documentation as a site, site/index.html
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(VENV)/bin/python -m mkdocs build --quiet --strict

clean:  ## Remove the virtual environments, the runs of the demonstrations and the site
	rm -rf $(VENV) $(LABEL) runs/demo runs/demo-ms runs/demo-oct runs/demo-lgg runs/demo-rank runs/label site
