# The worker as an image. `make image` builds it for NVIDIA GPUs, `make image VARIANT=cpu` for CPUs; docs/deploy.md says
# what to do with it. CUDA 12.8 is the first that knows every GPU RunPod rents, up to compute capability 12.0.
ARG VARIANT=cuda
ARG CUDA_VERSION=12.8.1
ARG BUILD_BASE=nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04
ARG BASE=nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04

# hadolint global ignore=DL3006,DL3008
# DL3006: the bases are tagged, above. DL3008: versions of system packages are those of the base's release.

# Only what decides about the wheel, so that nothing else makes it be compiled again.
FROM ${BUILD_BASE} AS pin
COPY requirements/worker.txt /
RUN sed -n '/^llama-cpp-python==/,/[^\\]$/p' /worker.txt >/llama.txt

# llama-cpp-python, which has no wheels: compiled, or the wheel that LLAMA_WHEEL names.
FROM ${BUILD_BASE} AS compile
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates g++ python3-venv && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements/pip.txt requirements/build.txt requirements/
RUN python3 -m venv tools && tools/bin/pip install --no-cache-dir --require-hashes -r requirements/pip.txt
COPY --from=pin /llama.txt requirements/
COPY builder/llama_wheel.sh builder/amx_fix.h builder/
COPY builder/wheels builder/wheels
ARG VARIANT
ARG CUDA_ARCHITECTURES
ARG CMAKE_BUILD_PARALLEL_LEVEL
ARG LLAMA_WHEEL
ARG LLAMA_WHEEL_SHA256
RUN PYTHON=tools/bin/python builder/llama_wheel.sh "$VARIANT" /wheels

# For `make wheel`, which takes it out to compile only once.
FROM scratch AS wheel
COPY --from=compile /wheels /

# The worker's own C.
FROM compile AS native
COPY builder/native.sh builder/
COPY handler/engine/llama/draw.c handler/engine/llama/callbacks.c handler/engine/llama/vocabulary.c handler/engine/llama/
RUN builder/native.sh

# The worker's packages.
FROM compile AS packages
COPY requirements/worker.txt requirements/
COPY builder/slim.sh builder/
RUN python3 -m venv --without-pip /opt/venv && \
    tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl && \
    tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes -r requirements/worker.txt && \
    PYTHON=tools/bin/python builder/slim.sh /opt/venv

# The model to bake in, if there is one. The token is a secret of the build: it is in no layer and no build argument.
FROM packages AS model
COPY handler/__init__.py handler/__main__.py handler/cpu_quota.py handler/errors.py handler/loading_thread.py handler/progress.py handler/settings.py handler/stopwatch.py handler/
COPY handler/models handler/models
COPY builder/bake.sh builder/
ARG MODEL
RUN --mount=type=secret,id=hf_token builder/bake.sh /models

FROM ${BASE} AS run
ARG VARIANT
ARG CUBLAS=libcublas-12-8=12.8.4.1-1
RUN if [ "$VARIANT" != cuda ]; then CUBLAS=; fi && \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates libgomp1 python3 tini $CUBLAS && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10000 --gid 0 --create-home worker
COPY --from=model --chown=10000:0 /models /models
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 MODELS_DIR=/models
WORKDIR /app
COPY test_input.json ./
COPY handler handler
COPY --from=native /build/handler/engine/llama/libdraw.so handler/engine/llama/
RUN python -m compileall -q handler && \
    python -c "import runpod.serverless.modules.rp_fastapi, handler.models.locate, handler.job, handler.http.serve"
ARG MODEL
ENV MODEL=$MODEL
# Group 0 reads what RunPod mounts for root. To let the worker write to such a volume, build with RUN_AS=root.
ARG RUN_AS=worker
USER $RUN_AS
# No shell in between, so that the worker itself gets SIGTERM and finishes its jobs. `serve` may follow.
ENTRYPOINT ["tini", "--", "python", "-m", "handler"]
