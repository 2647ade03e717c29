# make train: a small search on MOSI; make test: all checks; make gpu: what needs a GPU; make paper:
# the paper's tables (README, Reproduce). Words after it change that: DATA= the folder of the
# pickles; SETTINGS= how many are searched for MOSI; SEEDS= seeds per setting; FLAGS= more for the
# train scripts, as in make paper FLAGS="--output_path elsewhere --jobs 4". make ablation NAME=mosi:
# what each modality is worth.

VENV := .venv
PYTHON := $(VENV)/bin/python
DATA ?= data
SETTINGS ?= 300
SEEDS ?= 5
NAME ?= mosi
FLAGS ?=

# Of a flag, what FLAGS say, else a default: the commands of a target agree on their files.
flag = $(or $(shell printf '%s\n' $(FLAGS) | \
	sed -n -e 's/^--$(1)=//p' -e '/^--$(1)$$/{n;p;}' | tail -n 1),$(2))
FOLDER = $(call flag,data_path,$(DATA))
RESULTS = $(call flag,output_path,results)
MODELS = $(call flag,model_path,models)
RUN = $(call flag,run_id,1)
BEST = $(PYTHON) report.py --best_grid $(RESULTS)/results_mosi_search_$(RUN).csv
NAMES = $(patsubst train_%.py,%,$(wildcard train_*.py))
MAKE_MOSI = test -e $(FOLDER)/mosi.pkl || \
	$(PYTHON) data/prepare.py synthetic mosi --output_path $(FOLDER)

.PHONY: train test gpu gpu-test gpu-steps gpu-throughput paper paper-mosi search-mosi rank-study ablation clean

train: $(VENV)/ready
	@$(MAKE_MOSI)
	$(PYTHON) train_mosi.py --data_path $(FOLDER) --settings 12 --epochs 50 --patience 10 $(FLAGS)

test: $(VENV)/ready-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile --durations 15

# What needs a GPU and a CUDA build of torch: at most 8 minutes each, whatever becomes of the others.
# make gpu PYTHON=python3 takes that Python with what it has, and installs nothing.
gpu:
	@$(MAKE) --no-print-directory --keep-going -j1 gpu-test gpu-steps gpu-throughput

GPU_READY = $(if $(filter command,$(origin PYTHON)),,$(VENV)/ready-dev)
ON_GPU = PYTHONUNBUFFERED=1 timeout --kill-after 15 480 $(PYTHON)

gpu-test: $(GPU_READY)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(ON_GPU) -m pytest -W default -vvsrs -m gpu tests/test_gpu.py

gpu-steps: $(GPU_READY)
	@$(MAKE_MOSI)
	$(ON_GPU) benchmarks/steps.py --data_path $(FOLDER) --output_path $(RESULTS)

gpu-throughput: $(GPU_READY)
	@$(MAKE_MOSI)
	$(ON_GPU) benchmarks/throughput.py --cuda --settings 2304 --stack 128 16 --epochs 20 \
		--release_settings 6 --release_epochs 2 --data_path $(FOLDER) --output_path $(RESULTS)

# Training for the paper's tables, as far as the data are there, and the report.
paper: $(VENV)/ready
	$(if $(THERE),,$(error expected $(NAMES:%=%.pkl) in $(FOLDER), or one of them, got none))
	@for name in $(filter-out $(THERE),$(NAMES)); do \
		echo "$(FOLDER)/$$name.pkl is not there: left out"; done
	@for name in $(THERE); do $(MAKE) --no-print-directory paper-$$name || exit; done
	$(PYTHON) benchmarks/efficiency.py --output_path $(RESULTS)
	$(PYTHON) report.py $(PAPER_RUNS:%=$(RESULTS)/results_%_$(RUN).csv) \
		--model_path $(MODELS) --output_path $(RESULTS)

# What the report is of, whatever else lies beside it. IEMOCAP has a run per emotion.
RUNS_OF_mosi = mosi_search mosi_rank
RUNS_OF_iemocap = iemocap_paper_*
THERE = $(strip $(foreach name,$(NAMES),$(if $(wildcard $(FOLDER)/$(name).pkl),$(name))))
PAPER_RUNS = $(foreach name,$(THERE),$(or $(RUNS_OF_$(name)),$(name)_paper))

paper-mosi: rank-study

paper-iemocap: EMOTION = --emotion all
paper-%: $(VENV)/ready
	$(PYTHON) train_$*.py --data_path $(FOLDER) --hyperparams --repeats $(SEEDS) $(EMOTION) \
		$(FLAGS) --signiture $*_paper

# No setting was published for MOSI: search for one, then train it at several ranks.
search-mosi: $(VENV)/ready
	$(PYTHON) train_mosi.py --data_path $(FOLDER) --settings $(SETTINGS) \
		$(FLAGS) --signiture mosi_search

rank-study: search-mosi
	best=$$($(BEST)) && \
	$(PYTHON) train_mosi.py --data_path $(FOLDER) --repeats $(SEEDS) \
		$(FLAGS) --signiture mosi_rank --grid rank=1,2,4,8,16,32 \
		$$(echo $$best | sed 's/rank=[0-9]*//')

# Every combination of NAME's modalities, with its published settings or MOSI's best of a search.
ablation: EMOTION = $(if $(filter iemocap,$(NAME)),--emotion all)
ablation: $(if $(filter mosi,$(NAME)),search-mosi,$(VENV)/ready)
	@setting="$(if $(filter mosi,$(NAME)),--grid $$($(BEST)),--hyperparams)" && \
	for left_out in "" _audio _video _text _audio_video _audio_text _video_text; do \
		$(PYTHON) train_$(NAME).py --data_path $(FOLDER) --repeats $(SEEDS) $(EMOTION) $(FLAGS) \
			--signiture $(NAME)_ablation$${left_out:+_without}$$left_out $$setting \
			$$(echo $$left_out | sed 's/_/ --without /g') || exit; \
	done
	$(PYTHON) report.py $(RESULTS) --model_path $(MODELS) --output_path $(RESULTS)

$(VENV)/ready: requirements.txt
	@python3 -c 'import sys; v = sys.version.split()[0]; \
		sys.version_info < (3, 10) and sys.exit("expected Python 3.10 or newer, got " + v)'
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV)
