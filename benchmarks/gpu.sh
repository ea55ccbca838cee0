#!/usr/bin/env bash
# The tables for a GPU host: MODEL=model.gguf benchmarks/gpu.sh
#
# llama-server and llama-batched-bench are in PATH, and `import llama_cpp` has the same llama.cpp; beside these, it needs
# what the worker needs. PYTHON=... chooses the interpreter, PARTS="chats start ..." some of the parts. Rows go to $OUT
# as JSON, if it is set.
#
# For little time: PARTS=chats takes about a minute on an H100. It runs REPEAT times (2) at each of CONCURRENCY
# (1,8,32,64), and shows the run in the middle (of two the faster) and how far apart they are.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)} && mkdir -p "$out"
model=${MODEL:?MODEL must name a GGUF file}
throughput=("$python" benchmarks/throughput.py --model "$model" --servers "this worker,llama-server")

part() {
    [[ " ${PARTS:-chats start turns long steps whole stale chunks mixed} " == *" $1 "* ]] &&
        printf '\n== %s: %s (%s s so far)\n' "$1" "$2" "$SECONDS"
}

nvidia-smi --query-gpu=name,memory.total,memory.free --format=csv,noheader || true

if part chats "prompts and answers of 128 tokens, all at once, beside llama-server and the ceiling"; then
    "${throughput[@]}" --concurrency "${CONCURRENCY:-1,8,32,64}" --n-ctx 32768 --repeat "${REPEAT:-2}" \
        --json "$out/chats.json"
fi
if part start "from the process's start to the first text, the model in the page cache; the median of three"; then
    "$python" benchmarks/start.py --model "$model" --n-ctx 32768 --chats 64 --json "$out/start.json"
fi
if part turns "a second turn's first text over the first turn's, whose 2,000 tokens are all new"; then
    "${throughput[@]}" --workloads turns --concurrency 1 --shared 2000 --n-ctx 32768 --repeat 3 --json "$out/turns.json"
fi
if part long "gaps of running chats while a prompt of 4,000 tokens comes, over those when it does not"; then
    "${throughput[@]}" --workloads long --concurrency 8,32 --tokens 256 --n-ctx 32768 --repeat 3 --json "$out/long.json"
fi
if part steps "where a step goes, without HTTP"; then
    N_CTX=32768 "$python" benchmarks/step.py --concurrency 1,8,32,64 --tokens 128 --json "$out/steps.json"
fi
if part whole "the same with samplers that get the whole vocabulary"; then
    N_CTX=32768 "$python" benchmarks/step.py --concurrency 32,64 --tokens 64 --whole --json "$out/whole.json"
fi
if part stale "the same beside 24,000 tokens of finished conversations, which expire on the way"; then
    N_CTX=32768 "$python" benchmarks/step.py --concurrency 32 --tokens 128 --stale 24000 --repeat 7 --json "$out/stale.json"
fi
if part chunks "this worker with other chunks of prompts beside running answers: bursts, and gaps while 4,000 tokens come"; then
    for chunk in 128 256 512 2048; do
        echo "PREFILL_CHUNK=$chunk"
        PREFILL_CHUNK=$chunk "${throughput[@]}" --servers "this worker" --workloads chats,long --concurrency 32 \
            --n-ctx 32768
    done
fi
if part mixed "a shared system prompt, conversations of three turns, a long prompt among running chats"; then
    "${throughput[@]}" --workloads shared,turns,long --concurrency 32 --n-ctx 131072 --json "$out/mixed.json"
fi
echo "done after $SECONDS s"
