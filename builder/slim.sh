#!/usr/bin/env bash
# Removes from a virtual environment what a worker never uses: slim.sh FOLDER. PYTHON is one that has pip.
set -euo pipefail
python=$1/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

# llama-cpp-python's wheel holds each library of llama.cpp six times, for it cannot hold links: in lib and in
# llama_cpp/lib, with no version, a short and a long one. What the loader asks for is the short one.
libraries=$site/llama_cpp/lib
[ ! -d "$site/bin" ] || mv "$site"/bin/libggml-*.so "$libraries" # the kernels, which are loaded from there
rm -rf "$site/bin" "$site/lib" "$site/include"
rm -f "$libraries"/*.so.*.*
for library in "$libraries"/*.so.*; do
    ln -sf "$(basename "$library")" "${library%.so.*}.so"
done

# What packages ask for to do things that no worker does. The Dockerfile imports the worker after this.
unused=(
    boto3 botocore jmespath python-dateutil s3transfer six # runpod: uploads to buckets
    inquirerpy pfzy prettytable prompt-toolkit watchdog wcwidth # runpod: its command line
    fastapi-cli fastapi-cloud-cli agent-detector detect-installer fastar rich-toolkit rignore sentry-sdk # fastapi: its
    markdown-it-py mdurl pygments rich shellingham typer # command line, and what draws it
    hf-xet # huggingface-hub: downloads of its own
    uvloop # uvicorn: where it makes the event loop itself
)
"${PYTHON:-python3}" -m pip --python "$python" uninstall --quiet --yes "${unused[@]}"
find "$site/numpy" -type d -name tests -prune -exec rm -r {} +
