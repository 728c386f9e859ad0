# Two commands: `make demo` sees the product work, `make test` proves it. Both make .venv when it is not there.
PYTHON ?= python3.11
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: demo gpu lowest test test-all lab export docs clean

demo: .venv/ready
	$(BIN)/paligemma-vqa demo --output runs/demo

# Checks and measures the graphics card: six minutes, no network, no weights. `make gpu GPU='--device cpu --tiny'` tries the same without a card.
GPU ?=
gpu: .venv/ready
	HF_HUB_OFFLINE=1 $(BIN)/python -m paligemma_vqa.proof --output runs/gpu $(GPU)

# The proof with the lowest versions that pyproject.toml allows, torch included: gigabytes, in a second environment.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet torch==2.8.0 transformers==5.17.0 peft==0.19.0 accelerate==1.12.0 pillow filelock tqdm lazy-loader
	HF_HUB_OFFLINE=1 .venv-lowest/bin/python -m paligemma_vqa.proof --device cpu --tiny --output runs/lowest

# The doc tests in the notebooks; imports between rooms; then what a doc test cannot show. At most 12 minutes on two cores.
test: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --skip_folder_re '^[_.]|^tutorials$$'
	$(BIN)/ruff check --quiet .
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# The rest, which takes minutes each: the tutorials, whose outputs are compared, kills and full disks by the hundred, Ray.
test-all: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

lab: .venv/ready
	$(BIN)/jupyter lab nbs/index.ipynb

# After changing a notebook: write the modules and the README, and clean the notebooks.
export: .venv/ready
	$(BIN)/nbdev_export
	$(BIN)/python docs/house.py
	$(BIN)/nbdev_clean
	$(BIN)/jupyter nbconvert --log-level=ERROR --to markdown --output-dir . --output README nbs/index.ipynb
	sed -i 's#](\([a-z0-9_]*[/.]\)#](nbs/\1#g; s#](nbs/\.\./#](#g; s#](\.\./#](#g' README.md

# The site: README, chapters, API pages. A link that leads nowhere is an error.
docs: .venv/ready
	$(BIN)/python docs/build.py
	@echo "docs/_build/html/index.html"

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,qlora,ray]'
	touch $@

clean:
	rm -rf .venv .venv-lowest runs _docs _proc docs/_build build dist *.egg-info
