#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What more training events bring: trains the three networks from scratch on the first 8, 24, 72 and 144 events, with
the same number of steps each.

    growth.py --data DIR --out DIR             # ends after 8.6 minutes; call it again until it says «all done»

OUT/growth.csv has the lines of train.py's curve.csv, written as they come; the column `events` tells the trainings
apart. OUT/<events>/ has the state, the tables and the model of each. A call that was cut short goes on when it is made
again. All graphs have --graph-edges edges per point and all filters leave --edges-per-point, so that networks are
compared at equal work. Other options are train.py's.
"""
import argparse
import copy
import os

import torch

import data
import train


def main():
    parser = train.parser_of_options()
    parser.description = __doc__.split("\n\n")[0]
    #   The fewest begin while the others are simulated; then the most: what is cut short lacks what is between them
    parser.add_argument("--numbers", default="8,144,24,72", help="events to train on, in this order (%(default)s)")
    parser.set_defaults(events=144, steps="2400,1800,1200", graph_edges=25.0, minutes=8.6)
    options = train.parse(parser)
    try:
        numbers = [int(number) for number in options.numbers.split(",")]
    except ValueError:
        parser.error(f"--numbers {options.numbers}: numbers with commas between them")
    if not all(1 <= number <= options.events for number in numbers):
        parser.error(f"--numbers {options.numbers}: each 1 to {options.events}, the number of --events")
    for folder in (options.data, options.out):
        os.makedirs(folder, exist_ok=True)
    options.curve = options.out + "/growth.csv"
    simulation, pool = data.simulate(options), data.workers()
    torch.set_float32_matmul_precision("high")
    begin = train.new_state()
    nets, teacher = train.networks_of(options, begin)
    fresh = {stage: copy.deepcopy(net.state_dict()) for stage, net in nets.items()}
    loader = data.Loader(pool, options, teacher)
    for number in numbers:
        mine = argparse.Namespace(**{**vars(options), "train_on": number, "out": f"{options.out}/{number}"})
        os.makedirs(mine.out, exist_ok=True)
        state = train.state_of(mine)
        if state["steps"].get("gnn", 0) >= mine.budget["gnn"]:
            continue
        train.say(f"---- {number} events")
        for stage, net in nets.items():     # the same networks for all: they are compiled once
            net.load_state_dict(fresh[stage])
        state["warm"] = list(begin["warm"])
        train.take(nets, state, mine)
        loader.train_on = number
        if not train.train(mine, state, loader, simulation, nets, teacher):
            train.say("the time is over: call again")
            return
    train.say("all done")


if __name__ == "__main__":
    main()
