#!/usr/bin/env bash
# Makes .venv: every package that requirements/*.txt pins, with llama-cpp-python compiled for this machine's CPU.
# `setup.sh unit` leaves llama-cpp-python out: enough for linter, types and unit tests, in a minute and without a compiler.
# `make` calls it when .venv is missing or older than the pins. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $*" >&2
    exit 1
}

# Sets `python`. A name in PATH may be a shim that cannot run, and Debian's Python lacks ensurepip until its venv
# package is installed, so each candidate is asked.
find_python() {
    local candidates=${PYTHON:-python3.13 python3.12 python3.11 python3} without_venv=""
    for python in $candidates; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        "$python" -c 'import ensurepip, venv' 2>/dev/null && return
        without_venv=${without_venv:-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
    done
    [ -z "$without_venv" ] ||
        fail "Python $without_venv cannot make a virtual environment;" \
            "on Debian or Ubuntu: apt-get install python$without_venv-venv"
    fail "Python 3.11 or newer is needed, and none of these is one: $candidates;" \
        "on Debian or Ubuntu: apt-get install python3-venv, or say where it is: make PYTHON=/path/to/python3"
}

what=${1:-all}
find_python
[ "$what" = unit ] || command -v "${CXX:-c++}" >/dev/null ||
    fail "a C++ compiler is needed to compile llama.cpp; on Debian or Ubuntu: apt-get install g++"

# --clear when the interpreter it was made from is gone: such a .venv cannot repair itself.
.venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv

echo "setup: installing the pinned packages into .venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip=(.venv/bin/python -m pip)

# pip first, by itself: the one that comes with Python may be too old for what follows.
"${pip[@]}" install --quiet --require-hashes -r requirements/pip.txt

# The pins are complete and agree with each other, so nothing is left to resolve.
packages=$(mktemp)
sed '/^llama-cpp-python==/,/[^\\]$/d' requirements/worker.txt >"$packages"
"${pip[@]}" install --quiet --no-deps --require-hashes -r "$packages" -r requirements/gateway.txt -r requirements/dev.txt
rm "$packages"
touch .venv/.unit-installed
if [ "$what" = unit ]; then
    echo "setup: done, without llama-cpp-python"
    exit
fi

# llama-cpp-python is kept compiled in a folder of its own: pip's cache would take a wheel compiled for another CPU, or
# without amx_fix.h, for this one.
pin=$(sed -n '/^llama-cpp-python==/,/[^\\]$/p' requirements/worker.txt)
cpu=$(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || uname -mp)
key=$(echo "$pin$cpu" | cat - builder/amx_fix.h | cksum | cut -d' ' -f1)
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/gguf-on-runpod/llama-cpp-python-$key

compile() {
    echo "setup: compiling llama-cpp-python for this CPU, once: about ten minutes on two cores"
    local temporary
    temporary=$(mktemp -d)
    echo "$pin" >"$temporary/pin.txt"
    # Of all that pip says, show only the sign of life. Errors go to stderr and so past sed; not awk, because Debian's
    # mawk holds lines back until it has a full block.
    CXXFLAGS="${CXXFLAGS:-} -include $PWD/builder/amx_fix.h" "${pip[@]}" wheel --no-cache-dir --no-deps \
        --require-hashes --build-constraint requirements/build.txt -r "$temporary/pin.txt" -w "$temporary" |
        sed -u -n '/Building wheel for/p'
    mkdir -p "$wheels"
    mv "$temporary"/*.whl "$wheels"
    rm -r "$temporary"
}

[ -e "$(echo "$wheels"/*.whl)" ] || compile
"${pip[@]}" install --quiet --no-deps --no-index "$wheels"/*.whl
touch .venv/.installed
echo "setup: done"
