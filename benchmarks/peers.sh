#!/usr/bin/env bash
# Compiles llama-server and llama-batched-bench for this machine from the very sources that llama-cpp-python's pinned
# release has in it, once, into ~/.cache/gguf-on-runpod/llama.cpp: the peer and the ceiling of benchmarks/throughput.py.
# Ten to twenty minutes on two cores. FOLDER=... puts them elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${FOLDER:-${XDG_CACHE_HOME:-$HOME/.cache}/gguf-on-runpod/llama.cpp}
if [ -x "$folder/llama-server" ] && [ -x "$folder/llama-batched-bench" ]; then
    exit
fi

for tool in cmake ninja c++; do
    command -v $tool >/dev/null || { echo "peers: $tool is needed to compile llama.cpp's programs" >&2 && exit 1; }
done

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
sed -n '/^llama-cpp-python==/,/[^\\]$/p' requirements/worker.txt >"$temporary/pin.txt"
echo "peers: fetching llama.cpp's sources"
.venv/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --require-hashes \
    --build-constraint requirements/build.txt -r "$temporary/pin.txt" -d "$temporary"
tar xzf "$temporary"/llama_cpp_python-*.tar.gz -C "$temporary" --strip-components 1

echo "peers: compiling llama-server and llama-batched-bench, once"
options=(
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
)
cmake -S "$temporary/vendor/llama.cpp" -B "$temporary/build" -G Ninja "${options[@]}" \
    -DCMAKE_CXX_FLAGS="-include $PWD/builder/amx_fix.h" >"$temporary/cmake.log"
cmake --build "$temporary/build" --target llama-server llama-batched-bench >"$temporary/build.log" ||
    { tail -50 "$temporary/build.log" >&2 && exit 1; }
mkdir -p "$folder"
cp "$temporary"/build/bin/llama-{server,batched-bench} "$folder"
