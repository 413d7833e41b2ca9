#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains the shipped models on one GPU with 16 cores: models.sh DATA OUT. 13.4 minutes for standard, 2.7 for small,
# 9.3 for pixels, simulation included. Call it again if it was interrupted: it goes on where it stopped. PYTHON names another
# interpreter; BEFORE, BEFORE_SMALL and BEFORE_PIXELS the model files with which standard, small and pixels begin (the ones that ship).
#
#   OUT/standard/standard.safetensors   256 x 4, 128 x 3, 64 x 8 with own weights for each step, jets laid over the events; embedding of
#                                       BEFORE as it is, filter and network begin with its
#   OUT/small/small.safetensors         128 x 3, 128 x 3, 64 x 8; an embedding of its own, drawn to BEFORE's places, before the networks
#                                       of BEFORE_SMALL as they are: shared weights, for 1 MB at most
#   OUT/pixels/pixels.safetensors       the same as standard from pixels alone, short tracks counting more; embedding and filter of
#                                       BEFORE_PIXELS as they are, network begins with its
set -eu
[ $# -ge 2 ] || { echo "usage: models.sh DATA OUT [options for all trainings]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
shift 2
python=${PYTHON:-python3}
before=${BEFORE:-$here/../standard.safetensors}
before_small=${BEFORE_SMALL:-$here/../small.safetensors}
before_pixels=${BEFORE_PIXELS:-$here/../pixels.safetensors}

"$python" "$here/train.py" --data "$data" --out "$out/standard" --name standard --version 4 \
    --turn 0.5 --jets --own --warm "$before" --embed 256x4 --filter 128x3 --gnn 64x8 \
    --graph-edges 26.5 --edges-per-point 3.3 --events 480 --seconds 0,90,2000 --minutes 13.4 --finish "$@"
"$python" "$here/tracks.py" "$out/standard/standard.safetensors" 4
"$python" "$here/train.py" --data "$data" --out "$out/small" --name small --version 1 \
    --warm "$before_small" --teacher "$before" --embed 128x3 --filter 128x3 --gnn 64x8 \
    --edge-efficiency 0.992 --events 144 --seconds 25,0,0 --minutes 2.7 --finish --eager "$@"
"$python" "$here/train.py" --data "$data" --out "$out/pixels" --name pixels --version 4 \
    --pixels --barrel 3 --turn 0.5 --jets --own --warm "$before_pixels" --embed 256x4 --filter 128x3 --gnn 64x8 \
    --graph-edges 28 --edges-per-point 3 --events 360 --seconds 0,0,600 --minutes 9.3 --finish "$@"
"$python" "$here/tracks.py" "$out/pixels/pixels.safetensors" 4
