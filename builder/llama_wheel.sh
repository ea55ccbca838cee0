#!/usr/bin/env bash
# Puts the wheel of llama-cpp-python that the image installs into a folder: llama_wheel.sh cpu|cuda FOLDER
#
# Compiled from the source that requirements/llama.txt pins, or what LLAMA_WHEEL names: an https address, with
# LLAMA_WHEEL_SHA256 beside it, or a file in builder/wheels, where `make wheel` puts one. CUDA_ARCHITECTURES chooses the
# GPUs, and CMAKE_BUILD_PARALLEL_LEVEL how many compilers run at once.
#
# The compiled wheel runs on any x86-64 machine: the kernels for each generation of CPUs are a library of their own, and
# so are those for CUDA; the worker loads what fits the machine it finds itself on.
set -euo pipefail
cd "$(dirname "$0")/.."
variant=$1
folder=$2

# Machine code for each GPU that RunPod rents; for 9.0 also PTX, which drivers translate for those in between (10.0).
: "${CUDA_ARCHITECTURES:=75-real;80-real;86-real;89-real;90;120a-real}"

fail() {
    echo "llama_wheel: $*" >&2
    exit 1
}

pip=("${PYTHON:-python3}" -m pip --disable-pip-version-check)
mkdir -p "$folder"

case ${LLAMA_WHEEL:-} in
"") ;;
https://*)
    [ -n "${LLAMA_WHEEL_SHA256:-}" ] || fail "LLAMA_WHEEL is an address: give LLAMA_WHEEL_SHA256 too"
    requirement=$(mktemp)
    echo "llama-cpp-python @ $LLAMA_WHEEL --hash=sha256:$LLAMA_WHEEL_SHA256" >"$requirement"
    "${pip[@]}" download --no-cache-dir --no-deps --require-hashes -r "$requirement" -d "$folder"
    exit
    ;;
*)
    [ -f "builder/wheels/$LLAMA_WHEEL" ] || fail "there is no builder/wheels/$LLAMA_WHEEL; make one: make wheel"
    cp "builder/wheels/$LLAMA_WHEEL" "$folder"
    exit
    ;;
esac

options=(
    -DGGML_NATIVE=OFF           # not only for the machine that builds
    -DGGML_BACKEND_DL=ON        # kernels in libraries of their own, loaded at the start
    -DGGML_CPU_ALL_VARIANTS=ON  # from plain x86-64 to AVX2, AVX-512 and AMX
    -DMTMD_VIDEO=OFF            # images are decoded in the process alone, never by ffmpeg
    -DLLAMA_OPENSSL=OFF         # llama.cpp's own downloads: likewise
)
case $variant in
cpu) ;;
cuda)
    options+=(
        -DGGML_CUDA=ON
        "-DCMAKE_CUDA_ARCHITECTURES=$CUDA_ARCHITECTURES"
        -DGGML_CUDA_NCCL=OFF  # one more library to ship, for several GPUs that split each tensor
    )
    ;;
*) fail "the variant must be cpu or cuda, not '$variant'" ;;
esac

CMAKE_ARGS="${options[*]}" CXXFLAGS="${CXXFLAGS:-} -include $PWD/builder/amx_fix.h" "${pip[@]}" wheel --no-cache-dir \
    --no-deps --require-hashes --build-constraint requirements/build.txt -r requirements/llama.txt -w "$folder"
