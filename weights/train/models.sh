#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains the shipped models on one GPU with 16 cores: models.sh DATA OUT. Seven minutes for standard and small,
# simulation included; 9.3 for pixels, likewise. Call it again if it was interrupted: it goes on where it stopped. PYTHON
# names another interpreter, BEFORE the model file that is teacher and beginning of standard, BEFORE_PIXELS that with
# which pixels begins (the ones that ship).
#
#   OUT/standard/standard.safetensors   256 x 4, 128 x 3, 64 x 8; filter of BEFORE as it is, network begins with its
#   OUT/small/small.safetensors         128 x 3, 128 x 3, 64 x 8; an embedding of its own before standard's networks
#   OUT/pixels/pixels.safetensors       256 x 4, 128 x 3, 64 x 8 with own weights for each step; from pixels alone, short
#                                       tracks counting more, jets laid over the events; embedding and filter of BEFORE_PIXELS as they are, network begins with its
set -eu
[ $# -ge 2 ] || { echo "usage: models.sh DATA OUT [options for all trainings]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
shift 2
python=${PYTHON:-python3}
before=${BEFORE:-$here/../standard.safetensors}
before_pixels=${BEFORE_PIXELS:-$here/../pixels.safetensors}
standard=$out/standard/standard.safetensors

"$python" "$here/train.py" --data "$data" --out "$out/standard" --name standard --version 3 \
    --warm "$before" --teacher "$before" --embed 256x4 --filter 128x3 --gnn 64x8 \
    --events 144 --seconds 95,0,150 --minutes 5.6 --finish "$@"
"$python" "$here/train.py" --data "$data" --out "$out/small" --name small --version 1 \
    --warm "$standard" --teacher "$standard" --embed 128x3 --filter 128x3 --gnn 64x8 \
    --edge-efficiency 0.992 --events 144 --seconds 25,0,0 --minutes 2.7 --finish --eager "$@"
"$python" "$here/train.py" --data "$data" --out "$out/pixels" --name pixels --version 4 \
    --pixels --barrel 3 --turn 0.5 --jets --own --warm "$before_pixels" --embed 256x4 --filter 128x3 --gnn 64x8 \
    --graph-edges 28 --edges-per-point 3 --events 360 --seconds 0,0,600 --minutes 9.3 --finish "$@"
"$python" "$here/tracks.py" "$out/pixels/pixels.safetensors" 4
