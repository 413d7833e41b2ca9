#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fits the weights of `tracks.join` (docs/model-file.md): of pairs of chains, which are of one particle?

    join.py --model standard.safetensors EVENT.npz.xz ... [--out NEW.safetensors --version 4]

Chains, pairs and terms are the engine's own: build/weights/train/join_pairs (join_pairs.c) writes them, for the model's
networks, steps before join, reach (dphi, dcot) and chi2. A logistic regression with 0.05·|w|² added to its loss finds the
weights; true pairs of particles above 0.9 GeV count three times. w0 is then lowered by 1: a pair has to be right with 73 %.

Prints what it took and gave as JSON. --out writes the model with the new weights; its networks stay as they are. numpy alone.
"""
import argparse
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "weights" / "convert"))
import safetensors_io  # noqa: E402

PT_MIN = 0.9            # GeV: particles above
PT_WEIGHT = 3.0         # … count so often
PENALTY = 0.05          # of the sum of the weights' squares, beside the sum of the pairs' losses
LOWERED = 1.0           # what w0 is lowered by
DIGITS = 3              # behind the point, of the weights in the file
STEPS_MAX = 100
SMALL = 1e-9            # of a step's largest component: done


class Fault(Exception):
    """What the user can mend, in one line."""


def read_pairs(program, model, events):
    """Runs join_pairs: (event [P], true [P], pt [P] in GeV, terms [P, 7] with the constant first)."""
    try:
        done = subprocess.run([program, model, *events], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Fault(f"{program}: {error.strerror}; ./run build makes it, --pairs names it") from error
    if done.returncode != 0:
        raise Fault(done.stderr.strip() or f"{program} ended with {done.returncode}")
    rows = np.loadtxt(io.StringIO(done.stdout), delimiter=",", skiprows=1, ndmin=2)
    if not len(rows):
        raise Fault("no event has a pair of chains within reach of each other")
    if rows[:, 1].min() == rows[:, 1].max():
        raise Fault(f"the {len(rows)} pairs are all {'true' if rows[0, 1] else 'false'}: give more events, or busier ones")
    return rows[:, 0].astype(int), rows[:, 1] > 0, rows[:, 2], np.column_stack([np.ones(len(rows)), rows[:, 3:]])


def fit(terms, true, count, penalty=PENALTY):
    """Weights [K] that minimise sum(count · loss) + penalty·|w|² of the logits terms [P, K] @ w, by Newton's method."""
    weights = np.zeros(terms.shape[1])

    def loss(w):
        logits = terms @ w
        return np.sum(count * np.logaddexp(0, np.where(true, -logits, logits))) + penalty * w @ w

    for _ in range(STEPS_MAX):
        rate = 1 / (1 + np.exp(-np.clip(terms @ weights, -500, 500)))
        gradient = terms.T @ (count * (rate - true)) + 2 * penalty * weights
        curvature = (terms.T * (count * rate * (1 - rate))) @ terms + 2 * penalty * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        before, size = loss(weights), 1.0
        while loss(weights - size * step) > before and size > SMALL:     # too far: half of it
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < SMALL:
            break
    return weights


def counts(true, pt, logits):
    """How many pairs there are, and how many of them a joint with these logits takes (logit above 0)."""
    hard, taken = true & (pt > PT_MIN), logits > 0
    return {"pairs": len(true), "true": int(true.sum()), "hard": int(hard.sum()), "taken_true": int((taken & true).sum()),
            "taken_hard": int((taken & hard).sum()), "taken_false": int((taken & ~true).sum())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=str(ROOT / "weights" / "standard.safetensors"))
    parser.add_argument("--pairs", default=str(ROOT / "build" / "weights" / "train" / "join_pairs"), metavar="PROGRAM",
                        help="join_pairs of the build (build/weights/train/join_pairs)")
    parser.add_argument("--lower", type=float, default=LOWERED, help="what w0 is lowered by (1)")
    parser.add_argument("--out", help="model file with the new weights")
    parser.add_argument("--version", help="its version, if not the old one")
    parser.add_argument("events", nargs="+", help="events with truth")
    options = parser.parse_args()
    try:
        _, true, pt, terms = read_pairs(options.pairs, options.model, options.events)
        tensors, pipeline = safetensors_io.read(options.model)
    except (Fault, OSError, ValueError) as error:
        sys.exit(f"join.py: {error}")
    hard = true & (pt > PT_MIN)
    weights = fit(terms, true, np.where(hard, PT_WEIGHT, 1.0))
    weights[0] -= options.lower
    weights = [round(float(w), DIGITS) for w in weights]
    old = pipeline["tracks"]["join"]["weights"]
    print(json.dumps({"events": len(options.events), "right_from": round(1 / (1 + math.exp(-options.lower)), 3),
                      "weights": weights, "taken": counts(true, pt, terms @ weights),
                      "weights_before": old, "taken_before": counts(true, pt, terms @ np.array(old, float))}))
    if options.out:
        pipeline["tracks"]["join"]["weights"] = weights
        pipeline["version"] = options.version or pipeline["version"]
        safetensors_io.write(options.out, tensors, pipeline)


if __name__ == "__main__":
    main()
