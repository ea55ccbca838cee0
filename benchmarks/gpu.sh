#!/usr/bin/env bash
# The tables for a GPU host: MODEL=model.gguf benchmarks/gpu.sh [PART...]
#
# llama-server and llama-batched-bench are in PATH, or where LLAMA_SERVER and LLAMA_BATCHED_BENCH say, and
# `import llama_cpp` has the same llama.cpp (a folder in PYTHONPATH will do); beside these, it needs what the worker
# needs. PYTHON=... chooses the interpreter. Rows go to $OUT as JSON, if it is set. The worker's settings come from the
# environment as always (WEIGHTS=16bit, ...), so two runs of a part compare two of them.
#
# Without a PART it does those marked with a star. Each is stopped after LIMIT seconds (120 for each of REPEAT), and the others go on; the
# status is 1 if one was stopped or failed. REPEAT=2 does each twice, in turns, LOOP_SECONDS=12 is the closed loop's time,
# SETTLE the seconds that the worker is left alone after its start.
# Within a part each program is measured alone, one after the other.
#
#   ceilings*  llama-batched-bench with and without -kvu                      40 s with a 7B on an H100
#   loop8* loop32* loop64*   the closed loop of people's chats, beside llama-server in its two best modes   80 s each
#   ours8 ours32 ours64      the same without llama-server                    25 s each
#   defaults32* defaults64*  the closed loop with only the model named, beside the tuned worker   80 s each
#   equal*     prompts and answers of 128 tokens, all at once, 32 and 64, beside llama-server   80 s
#   unequal*   equal prompts, 130 to 140, log-normal: the worker alone        40 s
#   steps*     where a step goes at 32 and 64, without HTTP                   40 s
#   prefill    packed prompts in the context for them, by the size of a part, and hand-overs   20 s
#   long*      gaps of running chats while a prompt of 4,000 tokens comes     60 s
#   python     llama-cpp-python's example server in the closed loop at 32 (LLAMA_CPP_PYTHON_SERVER names it)
#   one        the closed loop with one chat                                  60 s
#   seeded     50 seeded requests alone and among 15 others, byte by byte     80 s
#   exact      the same with SEEDED=exact, so both runs give its price        90 s
#   start turns shared structured whole unified   as they say below
#   cost       what a million tokens cost; GPU names the one this is          80 s
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)} && mkdir -p "$out"
model=${MODEL:?MODEL must name a GGUF file}
limit=${LIMIT:-$((120 * ${REPEAT:-1}))}
parts=" ${*:-${PARTS:-ceilings loop8 loop32 loop64 defaults32 defaults64 equal unequal steps long}} "
known=" ceilings loop8 loop32 loop64 ours8 ours32 ours64 one python defaults32 defaults64 equal unequal long"
known+=" steps prefill whole unified start turns shared structured seeded exact cost "
for name in $parts; do
    [[ $known == *" $name "* ]] || { echo "gpu.sh: no part $name; there are:$known" >&2 && exit 2; }
done
failed=()

chats=${CHATS:-64}  # that each server makes room for, of the length that a part's workloads have
repeat=(--repeat "${REPEAT:-1}")
settle=0
[ "${WEIGHTS:-auto}" = auto ] && settle=30  # the second copy of the weights is loaded after the start
loop=(--workloads loop --seconds "${LOOP_SECONDS:-12}")
ours=(--servers "this worker")
both=(--servers "this worker,llama-server")

# part NAME TITLE COMMAND...: runs it if it is wanted, for so long at most.
part() {
    [[ $parts == *" $1 "* ]] || return 0
    printf '\n== %s: %s (%s s so far)\n' "$1" "$2" "$SECONDS"
    local begun=$SECONDS
    timeout --kill-after=10 "$limit" "${@:3}"
    local status=$?
    [ $status = 124 ] && echo "$1: stopped after its $limit s"
    [ $status = 0 ] || failed+=("$1")
    printf '%s: %s s\n' "$1" $((SECONDS - begun))
}

# throughput NAME TITLE OPTIONS...
throughput() {
    part "$1" "$2" "$python" benchmarks/throughput.py --settle "${SETTLE:-$settle}" --model "$model" --chats "$chats" \
        --ceilings "$out/ceilings.json" --json "$out/$1.json" "${repeat[@]}" "${@:3}"
}

nvidia-smi --query-gpu=name,memory.total,memory.free,utilization.gpu --format=csv,noheader || true

part ceilings "what llama.cpp itself computes, in its two modes" \
    "$python" benchmarks/ceiling.py --model "$model" --concurrency "${CONCURRENCY:-8,32,64}" --json "$out/ceilings.json"
for number in 8 32 64; do
    throughput loop$number "the closed loop at $number" "${loop[@]}" "${both[@]}" --concurrency $number
    throughput ours$number "the closed loop at $number, without llama-server" \
        "${loop[@]}" "${ours[@]}" --concurrency $number
done
for number in 32 64; do
    throughput defaults$number "the closed loop at $number with only the model named, beside the tuned worker" \
        "${loop[@]}" --servers "this worker,defaults" --concurrency $number
done
throughput one "the closed loop with one chat" "${loop[@]}" "${both[@]}" --concurrency 1
throughput python "the closed loop at 32, llama-cpp-python's example server" \
    "${loop[@]}" --servers "this worker,llama-cpp-python" --concurrency 32
throughput equal "prompts and answers of 128 tokens, all at once" \
    --workloads equal "${both[@]}" --concurrency 32,64
throughput unequal "equal prompts, 130 to 140 tokens, log-normal" \
    --workloads equal,unequal,lognormal "${ours[@]}" --concurrency 32,64
throughput long "gaps of running chats while a prompt of 4,000 tokens comes, and otherwise" \
    --workloads long --concurrency 32,64 --tokens 256 "${ours[@]}"

steps=("$python" benchmarks/step.py --concurrency 32,64)
export N_CTX=${N_CTX:-36864} MAX_MODEL_LEN=${MAX_MODEL_LEN:-512}
part steps "where a step goes, without HTTP" "${steps[@]}" --tokens 128 --json "$out/steps.json"
MAX_MODEL_LEN=1024 N_CTX=131072 part prefill "packed prompts in the context for them" \
    "$python" benchmarks/prefill.py --parts 64,96,128,256,512,1024
part whole "the same with samplers that get the whole vocabulary" \
    "${steps[@]}" --tokens 64 --whole --json "$out/whole.json"
KV_UNIFIED=on part unified "the same with one cache for all slots" \
    "${steps[@]}" --tokens 64 --json "$out/unified.json"

part start "from the process's start to the first text, the model in the page cache; the median of three" \
    "$python" benchmarks/start.py --model "$model" --n-ctx 110592 --chats "$chats" \
    --json "$out/start.json"
throughput turns "a second turn's first text over the first turn's, whose 2,000 tokens are new" \
    --workloads turns --concurrency 1,8 --shared 2000 "${both[@]}"
throughput shared "a shared system prompt of 1,000 tokens, 32 chats at once, a cold cache" \
    --workloads shared --concurrency 32 "${both[@]}"
throughput structured "answers that follow a JSON schema" \
    --workloads structured --concurrency 1,32 --tokens 200 "${both[@]}"
MAX_MODEL_LEN=2048 N_CTX= part seeded "the same seed, alone and among 15 others" \
    "$python" benchmarks/seeded.py --model "$model" --json "$out/seeded.json"
SEEDED=exact MAX_MODEL_LEN=2048 N_CTX= part exact "the same seed with SEEDED=exact" \
    "$python" benchmarks/seeded.py --model "$model" --json "$out/exact.json"
part cost "what a million tokens cost" \
    "$python" -m benchmarks.cost --model "$model" --gpu "${GPU:-}" --json "$out/cost.json"

echo "done after $SECONDS s${failed:+; not whole: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
