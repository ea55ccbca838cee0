#!/usr/bin/env bash
# compose.yaml for real: up --wait, a look at the dashboard, a chat where there is a worker, down.
#
#   deploy/check/up.sh            the gateway alone
#   deploy/check/up.sh cpu        with the worker; its image takes ten minutes, or set WORKER_CPU_IMAGE
#
# With docker, or with podman where docker is missing: then images are not built, but named by GATEWAY_IMAGE and
# WORKER_CPU_IMAGE, and podman's health checks, for which it wants systemd, are run from here.
set -euo pipefail
cd "$(dirname "$0")/../.."

export GATEWAY_ADMIN_KEY=lg-for-this-check-and-nothing-else COMPOSE_PROFILES=${1:-}
scratch=$(mktemp -d)
children=()
compose=(docker compose)
build=--build
if ! docker info >/dev/null 2>&1; then
    podman system service --time=0 "unix://$scratch/podman.sock" >/dev/null 2>&1 &
    children+=($!)
    (while sleep 1; do
        podman ps --format '{{.Names}}' | xargs -r -n 1 podman healthcheck run >/dev/null 2>&1 || true
    done) &
    children+=($!)
    export DOCKER_HOST=unix://$scratch/podman.sock
    compose=(.venv-deploy/bin/docker-compose)
    build=--no-build
    sleep 2
fi

finish() {
    "${compose[@]}" --env-file /dev/null down -t 5 || true
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT

"${compose[@]}" --env-file /dev/null up -d --wait --wait-timeout 1200 $build

ask() { # PATH [curl's arguments]
    curl --silent --show-error --fail --max-time 60 "http://127.0.0.1:8000$1" "${@:2}"
}
ask / | grep -q /ui/app.js
[ "$(curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8000/v1/models)" = 401 ]
ask /ui/session --cookie-jar "$scratch/cookies" -H 'Content-Type: application/json' -H 'Sec-Fetch-Site: same-origin' \
    -d "{\"key\": \"$GATEWAY_ADMIN_KEY\"}" | grep -q true
ask /ui/keys --cookie "$scratch/cookies" | grep -q keys
if [ -n "$COMPOSE_PROFILES" ]; then
    ask /v1/chat/completions -H "Authorization: Bearer $GATEWAY_ADMIN_KEY" -H 'Content-Type: application/json' \
        -d '{"model": "llama", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}' | grep -q choices
fi
echo "up: all well"
