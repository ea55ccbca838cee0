#!/usr/bin/env bash
# Downloads what MODEL names into a folder of the image, or leaves it empty: bake.sh FOLDER
set -euo pipefail
mkdir -p "$1"
[ -n "${MODEL:-}" ] || exit 0

token=/run/secrets/hf_token
if [ -e "$token" ]; then
    HF_TOKEN=$(<"$token")
    export HF_TOKEN
fi
MODELS_DIR=$1 /opt/venv/bin/python -m handler fetch
find "$1" -name '*.lock' -delete  # of the download
chmod -R g=u "$1"
