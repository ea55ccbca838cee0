#!/usr/bin/env sh
# Compiles the C of the worker for this machine's kind of processor, in a second: what setup.sh and the image's build run.
set -eu
cd "$(dirname "$0")/../handler/engine/llama"
"${CC:-cc}" -O3 -std=c11 -pthread -Wall -Wextra -Wconversion -shared -fPIC -o libdraw.so.new draw.c callbacks.c vocabulary.c
mv libdraw.so.new libdraw.so # at once: a worker may be running
