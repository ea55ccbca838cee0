#!/usr/bin/env bash
# What benchmarks/throughput.py measures beside the worker, made once, in ~/.cache/gguf-on-runpod/llama.cpp (FOLDER=...
# puts it elsewhere), and anew when the pins or the CPU have changed:
#
#   bin/            llama-server and llama-batched-bench, compiled for this machine from the very sources that
#                   llama-cpp-python's pinned release has in it; five to ten minutes on two cores. Beside them the
#                   server with batching that the same release has among its examples
#   environment/    the Python packages of that server, and of the plot
#
# Each is made beside its place and renamed when it is whole. A second run at the same time waits for the first.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${FOLDER:-${XDG_CACHE_HOME:-$HOME/.cache}/gguf-on-runpod/llama.cpp}
python=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "peers: $*" >&2
    exit 1
}

[ -x $python ] || fail "there is no .venv; make bench makes it before it calls this"
mkdir -p "$folder"

# The open file is the lock: it is given back however this shell ends. Python's flock: macOS has no program for it.
lock() {
    $python -c "import fcntl, sys
try: fcntl.flock(9, fcntl.LOCK_EX | $1)
except BlockingIOError: sys.exit(1)"
}
exec 9>"$folder/.lock"
lock fcntl.LOCK_NB || { echo "peers: waiting for another run of this" && lock 0; }

rm -rf "$folder"/.making.*  # of a run that was killed
making=$(mktemp -d "$folder/.making.XXXXXX")
trap 'rm -rf "$making"' EXIT

pin=$(sed -n '/^llama-cpp-python==/,/[^\\]$/p' requirements/worker.txt)
cpu=$(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || uname -mp)

# is_there NAME KEY: whether that folder was made from these pins.
is_there() {
    [ "$(cat "$folder/$1/.key" 2>/dev/null)" = "$2" ]
}

# put NAME KEY: gives what was made its place.
put() {
    echo "$2" >"$making/$1/.key"
    rm -rf "${folder:?}/$1"
    mv "$making/$1" "$folder/$1"
}

# environment FOLDER PINS
environment() {
    $python -m venv --without-pip "$1"
    $python -m pip --python "$1/bin/python" install --quiet --require-hashes -r "$2"
}

find_tools() {
    command -v "${CXX:-c++}" >/dev/null ||
        fail "a C++ compiler is needed to compile llama.cpp; on Debian or Ubuntu: apt-get install g++"
    if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
        echo "peers: fetching cmake and ninja, which this system lacks"
        environment "$making/tools" requirements/build.txt
        PATH=$making/tools/bin:$PATH
    fi
}

fetch_sources() {
    echo "peers: fetching llama.cpp's sources"
    echo "$pin" >"$making/pin.txt"
    $python -m pip download --quiet --no-deps --no-binary llama-cpp-python --require-hashes \
        --build-constraint requirements/build.txt -r "$making/pin.txt" -d "$making"
    local archive=("$making"/llama_cpp_python-*.tar.gz)
    local inside
    inside=$(basename "${archive[0]}" .tar.gz)
    mkdir "$making/sources" "$making/bin"
    tar xzf "${archive[0]}" -C "$making/sources" --strip-components 3 "$inside/vendor/llama.cpp"
    tar xzf "${archive[0]}" -C "$making/bin" --strip-components 3 "$inside/examples/server/server.py"
    mv "$making/bin/server.py" "$making/bin/llama_cpp_python_server.py"
}

# logged NAME COMMAND...: shows the end of what a command said only if it fails.
logged() {
    "${@:2}" >"$making/$1.log" 2>&1 || { tail -50 "$making/$1.log" >&2 && fail "$1 failed; its last words are above"; }
}

compile() {
    echo "peers: compiling llama-server and llama-batched-bench for this CPU, once: five to ten minutes on two cores"
    local options=(
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    )
    logged configuring cmake -S "$making/sources" -B "$making/build" -G Ninja "${options[@]}" \
        -DCMAKE_CXX_FLAGS="-include $PWD/builder/amx_fix.h"
    logged compiling cmake --build "$making/build" --target llama-server llama-batched-bench
    mv "$making"/build/bin/llama-{server,batched-bench} "$making/bin"
}

main() {
    local key
    key=$(echo "$pin$cpu with the example server" | cat - builder/amx_fix.h | cksum | cut -d' ' -f1)
    if ! is_there bin "$key"; then
        find_tools
        fetch_sources
        compile
        put bin "$key"
    fi
    key=$(cat requirements/peer.txt <($python -V) | cksum | cut -d' ' -f1)
    if ! is_there environment "$key" || ! "$folder/environment/bin/python" -c '' 2>/dev/null; then
        echo "peers: installing the packages of llama-cpp-python's server"
        environment "$making/environment" requirements/peer.txt
        put environment "$key"
    fi
}

# Read to its end before it begins: bash reads as it goes, and this file may change while it compiles.
{ main; exit; }
