PYTHON ?= python3
# The release the project is tested with; any from 2.5 on works. For the small CPU build of PyTorch:
#   make install TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: install demo demo-video ablations test lint bench clean
install: .venv/installed

# What is compiled without isolation has to find what it imports: our extension PyTorch, sed_scores_eval numpy and Cython.
.venv/installed: setup.py pyproject.toml requirements.txt $(wildcard libs/ops/csrc/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77,<82" numpy cython
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	touch $@

# Planted data of three tasks, a trained network, and its table beside random guessing: see README.md.
demo: install
	rm -rf ckpt/demo_make
	$(BIN)/python tools/make_demo_data.py configs/demo.yaml
	$(BIN)/python train.py configs/demo.yaml --output make
	$(BIN)/python eval.py configs/demo.yaml ckpt/demo_make
	$(BIN)/python tools/demo_report.py configs/demo.yaml ckpt/demo_make

# Real media: clips with planted events, their features, a trained network, and a page of what it finds in another clip.
# RECORDINGS="my_sounds/ street.wav" puts recorded sounds behind the events.
demo-video: install
	rm -rf ckpt/demo_video_make
	$(BIN)/python tools/make_demo_videos.py configs/demo_video.yaml $(if $(RECORDINGS),--recordings $(RECORDINGS))
	$(BIN)/python extract.py data/demo_video/clips --encoder builtin --out data/demo_video/features
	$(BIN)/python train.py configs/demo_video.yaml --output make
	$(BIN)/python eval.py configs/demo_video.yaml ckpt/demo_video_make
	$(BIN)/python tools/demo_report.py configs/demo_video.yaml ckpt/demo_video_make
	$(BIN)/python infer.py data/demo_video/long.mp4 --checkpoint ckpt/demo_video_make --out data/demo_video/found

# One thing changed at a time, on the demo's planted data, and what that does to each task. Goes on where it was interrupted.
ABLATIONS := base noise_only visual_only audio_only no_cross_attention no_pyramid shared_experts experts_at_the_top \
	linear_classifier prompts_random prompts_offsets tal_alone avel_alone sed_alone class_agnostic class_aware
ablations: install
	$(BIN)/python tools/make_demo_data.py configs/demo.yaml
	$(BIN)/python tools/experiments.py $(ABLATIONS:%=configs/ablations/%.yaml) --seeds 1 --jobs 2 --out ckpt/ablations

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The fast path beside the plain baseline on this machine, at the published setting: a table, and JSON in build/benchmarks.
# Part of it: .venv/bin/python -m benchmarks --only train nms
bench: install
	$(BIN)/python -m benchmarks

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build *.egg-info libs/ops/_nms*.so libs/ops/_nms*.txt
