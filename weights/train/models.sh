#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains the shipped models on one GPU with 16 cores: models.sh DATA OUT, some eight minutes, simulation included.
# Call it again if it was interrupted: it goes on where it stopped. PYTHON names another interpreter.
#
#   OUT/standard/standard.safetensors   256 x 4, 64 x 3, 64 x 8; begins with the network of the model before
#   OUT/small/small.safetensors         128 x 3, 32 x 2, 32 x 6; for CPUs
set -eu
[ $# -ge 2 ] || { echo "usage: models.sh DATA OUT [options for both trainings]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
shift 2
python=${PYTHON:-python3}
before=$here/../standard.safetensors

"$python" "$here/train.py" --data "$data" --out "$out/standard" --name standard --version 3 \
    --warm "$before" --teacher "$before" --fall-back --embed 256x4 --filter 64x3 --gnn 64x8 \
    --events 144 --seconds 95,35,150 --minutes 5.6 --finish "$@"
"$python" "$here/train.py" --data "$data" --out "$out/small" --name small --version 1 \
    --teacher "$out/standard/standard.safetensors" --embed 128x3 --filter 32x2 --gnn 32x6 \
    --edge-efficiency 0.992 --edges-per-point 3.0 --events 144 --seconds 25,12,65 --minutes 2.7 --finish --eager "$@"
