# make train: a small search on MOSI; make test: all checks; make gpu: what needs a
# GPU; make paper: the paper's tables.

VENV := .venv
PYTHON := $(VENV)/bin/python
DATA ?= data
SETTINGS ?= 300
SEEDS ?= 5
FLAGS ?=

.PHONY: train test gpu paper paper-mosi paper-pom paper-iemocap search-mosi rank-study clean

train: $(VENV)/ready
	@ls $(DATA)/*.pkl >/dev/null 2>&1 || $(PYTHON) data/prepare.py synthetic
	$(PYTHON) train_mosi.py --data_path $(DATA) --settings 12 --epochs 50 --patience 10 $(FLAGS)

test: $(VENV)/ready-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(PYTHON) -m pytest

# What needs a GPU and a CUDA build of torch: the tests of its path, and the speed of training there.
gpu: $(VENV)/ready-dev
	$(PYTHON) -m pytest -m gpu
	@ls $(DATA)/mosi.pkl >/dev/null 2>&1 || $(PYTHON) data/prepare.py synthetic mosi
	$(PYTHON) benchmarks/throughput.py --cuda --settings 4608 --stack 1 4 16 64 256 \
		--data_path $(DATA)

# Training for the paper's tables, as far as the data are there, and the report.
paper: $(VENV)/ready
	@for name in mosi pom iemocap; do \
		if [ -f $(DATA)/$$name.pkl ]; then $(MAKE) --no-print-directory paper-$$name || exit; \
		else echo "$(DATA)/$$name.pkl is not there: left out"; fi; \
	done
	$(PYTHON) benchmarks/efficiency.py
	$(PYTHON) report.py

paper-mosi: rank-study

paper-pom: $(VENV)/ready
	$(PYTHON) train_pom.py --data_path $(DATA) --signiture pom_paper --hyperparams \
		--repeats $(SEEDS) $(FLAGS)

paper-iemocap: $(VENV)/ready
	$(PYTHON) train_iemocap.py --data_path $(DATA) --signiture iemocap_paper --hyperparams \
		--emotion all --repeats $(SEEDS) $(FLAGS)

# No setting was published for MOSI: search for one, then train it at several ranks.
search-mosi: $(VENV)/ready
	$(PYTHON) train_mosi.py --data_path $(DATA) --signiture mosi_search --settings $(SETTINGS) $(FLAGS)

rank-study: search-mosi
	best=$$($(PYTHON) report.py --best_grid results/results_mosi_search_1.csv) && \
	$(PYTHON) train_mosi.py --data_path $(DATA) --signiture mosi_rank --repeats $(SEEDS) $(FLAGS) \
		--grid rank=1,2,4,8,16,32 $$best

$(VENV)/ready: requirements.txt
	@python3 -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV)
