#!/usr/bin/env bash
# `make deploy-check`: everything in deploy/, compose.yaml, the Tiltfile and the workflows, read by the tools that will
# read them. Needs no cluster, no container engine and no account; promtool, if it is there, tests the alert rules.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools=.venv-deploy
if [ ! -e $tools/.installed ] || [ deploy/check/requirements.txt -nt $tools/.installed ]; then
    rm -rf $tools
    python3 -m venv $tools
    $tools/bin/pip install --quiet --require-hashes -r deploy/check/requirements.txt
    touch $tools/.installed
fi
[[ $* == *deploy/check/* ]] || set -- "$@" deploy/check
PATH=$PWD/$tools/bin:$PATH exec $tools/bin/python -m pytest -c deploy/check/pytest.ini "$@"
