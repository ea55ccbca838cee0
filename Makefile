# From a fresh clone `make run` and `make test` do all of their own set-up; the second time they start at once.
# ARGS="..." goes to the program that a target runs: make test ARGS="-k stop", make run ARGS="--port 9000".
ARGS :=
SETUP := .venv/.installed handler/engine/llama/libdraw.so
BIN := .venv/bin
comma := ,

.PHONY: help run gateway test unit check deploy-check docs-check fix bench model docs screenshots lock image wheel clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# exec: no shell stands between make and the server, so the server itself gets the signal that stops it.
run: model  ## Serve the demo model at http://127.0.0.1:8000 until Ctrl-C: the gateway and its worker.
	@exec $(BIN)/python -m local_gateway --demo $(ARGS)

gateway: $(SETUP)  ## Serve what gateway.yaml or the environment says, at the same address.
	@exec $(BIN)/python -m local_gateway $(ARGS)

test: model  ## Run all tests.
	@$(BIN)/pytest $(ARGS)

# Tests that need a compiled llama.cpp, real processes or other programs; the rest are unit tests.
STAGES := tests/contract tests/emulator tests/end_to_end tests/engine/llama tests/gateway/process tests/web

unit: .venv/.unit-installed  ## Run the unit tests: nothing is compiled, no network, under two minutes.
	@$(BIN)/pytest -m "not model" $(STAGES:%=--ignore=%) $(ARGS)

check: .venv/.unit-installed  ## Lint, formatting and types; changes nothing.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

deploy-check:  ## Check compose.yaml, deploy/, the Tiltfile, Dockerfiles and workflows with the tools that read them.
	@deploy/check/run.sh $(ARGS)

docs-check: model  ## Run what the documentation says, with the real programs; check its links.
	@deploy/check/run.sh deploy/check/test_links.py
	@$(BIN)/python -m tests.docs $(ARGS)

fix: .venv/.unit-installed  ## Format, and repair what the linter can.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

RESULT := benchmarks/results/$(shell date +%Y-%m-%d-%H%M%S)

bench: model  ## Tokens/s beside two other servers and what llama.cpp itself can compute; a plot; under ten minutes.
	-@benchmarks/peers.sh
	@$(BIN)/python benchmarks/throughput.py --concurrency 1,4,8 --tokens 64 --json $(RESULT).json --plot $(RESULT).png $(ARGS)

model: $(SETUP)  ## Fetch the demo model, once per machine.
	@$(BIN)/python -m handler fetch

docs: $(SETUP)  ## Write from the settings: docs/configuration.md, docs/gateway.md, the schema, the Hub's inputs.
	@$(BIN)/python builder/reference.py
	@$(BIN)/python builder/gateway_reference.py
	@$(BIN)/python builder/api_reference.py

# One file per need. Versions stay as they are where they still fit; `make lock ARGS=--upgrade` takes the newest.
# gateway.txt and dev.txt are held to worker.txt's versions, because all are installed together for tests.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

screenshots: model  ## Pictures of the dashboard, by Debian's Chromium, and of the terminal into docs/images.
	@$(BIN)/python -m tests.web.screenshots docs/images
	@$(BIN)/python -m tests.docs.still docs/images/terminal.svg

lock: $(SETUP)  ## Pin versions and hashes in requirements/ from pyproject.toml.
	$(COMPILE) $(ARGS) --group pip -o requirements/pip.txt
	$(COMPILE) $(ARGS) --group build -o requirements/build.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra worker -o requirements/worker.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra gateway --extra chat --extra postgres --extra otel \
		-c requirements/worker.txt -o requirements/gateway.txt
	$(COMPILE) $(ARGS) --group peer -c requirements/worker.txt --no-emit-package llama-cpp-python -o requirements/peer.txt
	$(COMPILE) $(ARGS) deploy/check/requirements.in -o deploy/check/requirements.txt
	$(COMPILE) $(ARGS) --group dev -c requirements/worker.txt -c requirements/gateway.txt -o requirements/dev.txt

# make image VARIANT=cpu                   for machines without a GPU
# make image MODEL=org/name:Q4_K_M         with a model in it; HF_TOKEN from the environment where it needs one
# make image ARGS="--build-arg LLAMA_WHEEL=NAME"    with what `make wheel` left in builder/wheels: minutes, not an hour
VARIANT := cuda
CPU_BASE := debian:12.12-slim
IMAGE := gguf-on-runpod:$(VARIANT)
DOCKER := docker
MODEL :=
BUILD = $(DOCKER) build --platform linux/amd64 --build-arg VARIANT=$(VARIANT) \
	$(if $(filter cpu,$(VARIANT)),--build-arg BUILD_BASE=$(CPU_BASE) --build-arg BASE=$(CPU_BASE)) $(ARGS)

image:  ## Build the image for RunPod.
	$(BUILD) --build-arg MODEL=$(MODEL) $(if $(HF_TOKEN),--secret id=hf_token$(comma)env=HF_TOKEN) -t $(IMAGE) .

wheel:  ## Compile llama-cpp-python as the image needs it, into builder/wheels.
	$(BUILD) --target wheel --output type=local$(comma)dest=builder/wheels .

clean:  ## Remove the virtual environment and the tools' caches; what is shared between clones stays.
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache handler/engine/llama/libdraw.so
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.unit-installed: builder/setup.sh $(wildcard requirements/*.txt)
	@builder/setup.sh unit

.venv/.installed: builder/setup.sh $(wildcard requirements/*.txt)
	@builder/setup.sh

handler/engine/llama/libdraw.so: $(wildcard handler/engine/llama/*.c) builder/native.sh
	@builder/native.sh
