#!/bin/sh
# The gateway, begun again whenever it ends: Tilt copies changed files into the container and ends it twice, at once.
pid=
trap 'kill "$pid"; wait "$pid"; exit 0' TERM INT
while :; do
    python -m local_gateway &
    pid=$!
    echo "$pid" >/tmp/gateway.pid
    wait "$pid"
    sleep 1
done
