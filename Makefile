PYTHON ?= python3
# The tested release; 2.5 and later work. For the small CPU build of PyTorch:
#   make install TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Modules are compiled when they are first imported: that is faster than compiling all of them now.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile

.PHONY: install demo demo-video ablations test test-slow lint bench clean
install: .venv/dev

# Each stage is a stamp file. PyTorch comes first because the NMS extension is compiled against it.
.venv/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	@echo "install: PyTorch"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) "setuptools>=77,<82" $(TORCH)
	@touch $@

.venv/core: .venv/torch setup.py pyproject.toml requirements.txt $(wildcard libs/ops/csrc/*)
	@echo "install: core packages and the NMS extension"
	@$(PIP) -r requirements.txt & packages=$$!; \
		$(PIP) --no-build-isolation --no-deps -e .; built=$$?; wait $$packages && exit $$built
	@touch $@

# sed_scores_eval is built without isolation, so it needs Cython first.
.venv/dev: .venv/core
	@echo "install: metrics, media, encoders, tests"
	@$(PIP) cython
	@$(PIP) --no-build-isolation "uniav[dev]"
	@touch $@

# Planted data of three tasks, a trained network, and its table beside random guessing: see README.md.
demo: .venv/core
	rm -rf ckpt/demo_make
	$(BIN)/python tools/make_demo_data.py configs/demo.yaml
	$(BIN)/python train.py configs/demo.yaml --output make
	$(BIN)/python eval.py configs/demo.yaml ckpt/demo_make
	$(BIN)/python tools/demo_report.py configs/demo.yaml ckpt/demo_make

# Real media: clips with planted events, their features, a trained network, and a page of the events in another clip.
# RECORDINGS="my_sounds/ street.wav" puts recorded sounds behind the events.
demo-video: .venv/dev
	rm -rf ckpt/demo_video_make
	$(BIN)/python tools/make_demo_videos.py configs/demo_video.yaml $(if $(RECORDINGS),--recordings $(RECORDINGS))
	$(BIN)/python extract.py data/demo_video/clips --encoder builtin --out data/demo_video/features
	$(BIN)/python train.py configs/demo_video.yaml --output make
	$(BIN)/python eval.py configs/demo_video.yaml ckpt/demo_video_make
	$(BIN)/python tools/demo_report.py configs/demo_video.yaml ckpt/demo_video_make
	$(BIN)/python infer.py data/demo_video/long.mp4 --checkpoint ckpt/demo_video_make --out data/demo_video/found

# Each ablation changes one thing on the demo's planted data. A call after an interruption continues.
ABLATIONS := base noise_only visual_only audio_only no_cross_attention no_pyramid shared_experts experts_at_the_top \
	linear_classifier prompts_random prompts_offsets tal_alone avel_alone sed_alone class_agnostic class_aware
ablations: .venv/dev
	$(BIN)/python tools/make_demo_data.py configs/demo.yaml
	$(BIN)/python tools/experiments.py $(ABLATIONS:%=configs/ablations/%.yaml) --seeds 1 --jobs 2 --out ckpt/ablations

# The slow tests prove much and take long: compiled training, processes that are killed, the demos of videos.
test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright --pythonpath $(BIN)/python

# The fast code beside its plain baseline on this machine, at the published setting: a table, and JSON in
# build/benchmarks. Some cases alone: .venv/bin/python -m benchmarks --only train nms
bench: .venv/dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info libs/ops/_nms*.so libs/ops/_nms*.txt
