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

# As much memory for each server as for all of its chats, and as long ones as the parts have. Of our slots an eighth is
# there for finished chats (docs/configuration.md, KV_UNIFIED).
short=(--n-ctx 131072) long=(--n-ctx 294912)
export MAX_MODEL_LEN=1024

part() {
    [[ " ${PARTS:-chats start turns long steps whole unified shared structured} " == *" $1 "* ]] &&
        printf '\n== %s: %s (%s s so far)\n' "$1" "$2" "$SECONDS"
}

nvidia-smi --query-gpu=name,memory.total,memory.free --format=csv,noheader || true

if part chats "prompts and answers of 128 tokens, all at once, beside llama-server and the ceiling"; then
    "${throughput[@]}" "${short[@]}" --concurrency "${CONCURRENCY:-1,8,32,64}" --repeat "${REPEAT:-2}" \
        --json "$out/chats.json"
fi
if part start "from the process's start to the first text, the model in the page cache; the median of three"; then
    "$python" benchmarks/start.py --model "$model" "${short[@]}" --chats 64 --json "$out/start.json"
fi
if part turns "a second turn's first text over the first turn's, whose 2,000 tokens are all new"; then
    MAX_MODEL_LEN=8192 "${throughput[@]}" "${long[@]}" --workloads turns --concurrency 1,8 --shared 2000 --repeat 2 \
        --json "$out/turns.json"
fi
if part long "gaps of running chats while a prompt of 4,000 tokens comes, over those when it does not"; then
    MAX_MODEL_LEN=8192 "${throughput[@]}" "${long[@]}" --workloads long --concurrency 8,32 --tokens 256 --repeat 2 \
        --json "$out/long.json"
fi
if part steps "where a step goes, without HTTP"; then
    N_CTX=131072 "$python" benchmarks/step.py --concurrency 1,8,32,64 --tokens 128 --json "$out/steps.json"
fi
if part whole "the same with samplers that get the whole vocabulary"; then
    N_CTX=131072 "$python" benchmarks/step.py --concurrency 32,64 --tokens 64 --whole --json "$out/whole.json"
fi
if part unified "the same with one cache for all slots"; then
    KV_UNIFIED=on N_CTX=131072 "$python" benchmarks/step.py --concurrency 32,64 --tokens 64 --json "$out/unified.json"
fi
if part shared "a shared system prompt of 1,000 tokens, 32 chats at once, a cold cache"; then
    MAX_MODEL_LEN=8192 "${throughput[@]}" "${long[@]}" --workloads shared --concurrency 32 --json "$out/shared.json"
fi
if part structured "answers that follow a JSON schema"; then
    "${throughput[@]}" "${short[@]}" --workloads structured --concurrency 1,32 --tokens 200 --json "$out/structured.json"
fi
echo "done after $SECONDS s"
