#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the three networks of a model, in steps of a few minutes, and write the model file.

    train.py --data DIR --out DIR --minutes 9.5          # simulate, then train as far as the time goes; call it again
    train.py --data DIR --out DIR --minutes 6 --finish   # one call: the last stage takes the time that is left
    train.py --data DIR --out DIR --simulate-only        # the events alone, ahead; trainings may start meanwhile

Stages: embed, filter, gnn, each with its budget in seconds of one GPU, or in steps. OUT/state.pt holds weights,
optimiser and what is used of the budgets, and is written every half minute: the next call goes on where the last one
ended, on another machine too.
With --teacher embedding and filter also learn what that model says. Networks begin with --warm's weights where the
sizes agree, and stay as they are with a budget of 0. Radius and cut of the filter are set on validation events of the
training's own; tables of the alternatives, and of the teacher's networks, are in OUT/choices.json, figures on the way in
OUT/curve.csv, the model in OUT/<name>.safetensors. models.sh has the commands of the shipped models, growth.py compares
trainings with few and many events. Needs: pip install -r requirements.txt.

Figures and loss in curve.csv are of the validation events, «seen …» of as many that were learned from. Both are
judged as they were simulated, without guns over them, so that only the learning tells them apart.
"""
import argparse
import csv
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import choose
import data
import events as ev
import export
import networks
import update
from data import START, say

STAGES = ("embed", "filter", "gnn")
MARGIN, REACH = 0.3, 0.33           # of the embedding: others are pushed beyond MARGIN, looked for within REACH
PEAK_RATE = {"embed": 1.5e-3, "filter": 2e-3, "gnn": 1e-3}
WARM = 0.4                          # of the peak rate, for networks that begin with weights of another model
TAUGHT = 0.5                        # weight of the teacher's scores beside the truth
FIRST = 16                          # events to begin with, while the others are simulated
CHECK_EVERY = 10.0                  # s between points of curve.csv, at least
CHECKS = 40                         # of a long stage
RADII_SHOWN = (0.4, 0.45, 0.5)      # in curve.csv
RESERVE = 12.0                      # s that --finish leaves for validation and export


# ---- one training step of each stage ---------------------------------------------------------------------------------

def varied(event, random):
    """Now and then turned and mirrored; not without `random`."""
    return ev.turned(event, random) if random is not None and random.random() < event["turn"] else event


def embed_step(net, event, random, teacher, progress):
    """Contrastive: points of one track together, others beyond the margin. In the beginning also: where the teacher
    puts the points."""
    event = varied(event, random)
    device, n = event["r"].device, len(event["r"])
    query = torch.randint(0, n, (2000,), device=device)
    good = ((event["pt"] > 0.5) & (event["pid"] >= 0)).nonzero().squeeze(1)
    if len(good):
        query = torch.cat([query, good[torch.randint(0, len(good), (6000,), device=device)]])
    place = net(event["features"])
    with torch.no_grad():
        pairs = (place[query] @ place.t() > 1 - REACH ** 2 / 2).nonzero()
        a, b = query[pairs[:, 0]], pairs[:, 1]
        wrong = (event["pid"][a] != event["pid"][b]) & (event["rho"][a] < event["rho"][b])
        a, b = a[wrong], b[wrong]
        if len(a) > 30 * len(query):
            some = torch.randint(0, len(a), (30 * len(query),), device=device)
            a, b = a[some], b[some]
    chosen = (event["truth_pt"] > 0.5).nonzero().squeeze(1)
    chosen = chosen[torch.randint(0, len(chosen), (20000,), device=device)]
    source, target = event["truth"][:, chosen]
    weight = (1.0 + (event["truth_pt"][chosen] > 0.9) + 2.0 * event["truth_far"][chosen]) * event["weight"][source]
    together = ((place[source] - place[target]).square().sum(1) * weight).sum() / weight.sum()
    apart = ((place[a] - place[b]).square().sum(1) + 1e-9).sqrt()
    push = F.relu(MARGIN - apart).square().sum() / len(query)
    loss = 2 / MARGIN ** 2 * (together + push)
    if "taught" in event:
        loss = loss + 2 / MARGIN ** 2 * (1 - progress) ** 2 * (place - event["taught"]).square().sum(1).mean()
    return loss


def edge_weights(event, edges, true):
    """True edges of soft particles matter little, those of the rare stiff and far ones more."""
    pt = event["pt"][edges[0].long()]
    weight = torch.ones(len(true), device=pt.device)
    for above, value in ((0.0, 0.2), (0.63, 1.0), (0.9, 2.0), (2.0, 5.0), (5.0, 10.0)):
        weight[true & (pt > above)] = value
    weight[true & event["far"][edges[0].long()]] *= 3
    return weight * event["weight"][edges[0].long()]


def binary_loss(logit, true, weight):
    loss = F.binary_cross_entropy_with_logits(logit.float(), true.float(), reduction="none")
    return (loss * weight).sum() / weight.sum()


def filter_step(net, sample, random, teacher, progress, batch=400_000):
    event, edges, true = sample
    event = varied(event, random)
    device = edges.device
    chosen = torch.randint(0, edges.shape[1], (batch,), device=device)
    positive = true.nonzero().squeeze(1)
    chosen = torch.cat([chosen, positive[torch.randint(0, len(positive), (batch // 10,), device=device)]])
    edges, true = edges[:, chosen], true[chosen]
    inputs = event["features"], edges.long(), ev.edge_features(event, edges)
    logit, weight = net(*inputs), edge_weights(event, edges, true)
    loss = binary_loss(logit, true, weight)
    if teacher and event["plain"]:
        with torch.no_grad():
            says = teacher["filter"](*inputs).float().sigmoid()
        loss = loss + TAUGHT * binary_loss(logit, says, weight)
    return loss


def thin(sample, random):
    """Half of the time: some of the primary vertices only, down to one, so that sparse events are known too. The edges
    between the points that stay are exactly the graph of the thinned event. Without `random` the whole event."""
    event, edges, true = sample
    if random is None or random.random() < 0.5:
        return edges, true
    number = int(event["vertex"].max()) + 1
    keep_vertex = torch.zeros(number, dtype=torch.bool, device=edges.device)
    keep_vertex[torch.randperm(number, device=edges.device)[:max(1, int(number * random.random() ** 2))]] = True
    if random.random() < 0.5:
        keep_vertex[1] = True       # the hard collision
    keep = keep_vertex[event["vertex"].long()]
    kept = keep[edges[0].long()] & keep[edges[1].long()]
    if kept.sum() < 100:
        return edges, true
    return edges[:, kept], true[kept]


def gnn_inputs(sample, random):
    """What gnn_loss takes."""
    event = varied(sample[0], random)
    edges, true = thin(sample, random)
    used = torch.zeros(len(event["r"]), dtype=torch.bool, device=edges.device)      # leave out points without edges
    used[edges.flatten().long()] = True
    row = used.cumsum(0) - 1
    return (event["features"][used], row[edges.long()], ev.edge_features(event, edges), true.float(),
            edge_weights(event, edges, true))


def gnn_loss(net, x, edges, edge_x, true, weight):
    return binary_loss(net(x, edges, edge_x), true, weight)


def gnn_step(net, sample, random, teacher, progress):
    return gnn_loss(net, *gnn_inputs(sample, random))


# ---- figures on the way ----------------------------------------------------------------------------------------------

@torch.no_grad()
def loss_of(net, samples, step, options):
    """What `step` loses on average, without a teacher; the same draws in every call."""
    device, losses = options.device, []
    with torch.random.fork_rng(), torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
        torch.manual_seed(options.seed)
        for sample in samples:
            losses.append(step(net, sample, None, None, 1.0))
    return torch.stack(losses).mean().item()


def check_of(figures, step, unseen, seen, options):
    """The check of a stage: check(net, last) gives figures(net, samples) and the loss of the unseen samples, the loss
    of the seen ones, and at last their figures too."""
    def check(net, last):
        found = {**figures(net, unseen), "loss": loss_of(net, unseen, step, options),
                 "seen loss": loss_of(net, seen, step, options)}
        if last:
            found.update({"seen " + name: value for name, value in figures(net, seen).items()})
        return found
    return check


def radius_figures(net, events, options):
    """True edges and edges within some radii; with --graph-edges the true edges among so many."""
    try:
        table = choose.radius_table(events, net, sorted({*choose.RADII, *RADII_SHOWN}))
    except OverflowError:
        return {}
    found = {f"{name} at {row['r']}": row[name] for name in ("efficiency", "edges") for row in table
             if row["r"] in RADII_SHOWN}
    if options.graph_edges:
        name = f"efficiency of {options.graph_edges:g} per point"
        found[name] = choose.at_edges(table, options.graph_edges, "efficiency")
    return found


def filter_figures(net, samples, options):
    """True edges among those that the filter is to leave."""
    graphs = [sample[:2] for sample in samples]
    logits = [choose.score_edges(net, *graph) for graph in graphs]
    table = choose.filter_table(graphs, logits, (options.edges_per_point,))
    row = next(row for row in table if row["per_point"] == options.edges_per_point)
    return {f"efficiency of {options.edges_per_point:g} per point": row["efficiency"]}


def track_figures(net, samples, options):
    """Of tracks of best edges, before they are joined."""
    graphs = [sample[:2] for sample in samples]
    row, = choose.track_table(graphs, [choose.score_edges(net, *graph, None) for graph in graphs], (0.4,),
                              ("best_edges",))
    return {name: row[name] for name in ("edge_efficiency", "efficiency", "fakes", "impure")}


# ---- driver ----------------------------------------------------------------------------------------------------------

def train_stage(stage, net, samples, step, state, options, teacher=None, refresh=None, check=None):
    """Runs `step` until the stage's budget or the call's time is used; True when the budget is used up. `refresh` gives
    the samples anew, `check` figures for the curve; it does not count as training time."""
    budget, used = options.budget[stage], state["used"].get(stage, 0.0)
    if (state["steps"].get(stage, 0) if options.steps else used) >= budget:
        return True
    if options.finish and stage == STAGES[-1]:
        budget = min(budget, used + max(1.0, options.minutes * 60 - RESERVE - (time.time() - START)))
    peak = PEAK_RATE[stage] * (WARM if stage in state["warm"] else 1)
    captured = stage == "gnn" and options.device == "cuda" and not options.eager
    learn = (update.Captured(net, gnn_loss, options.device) if captured else update.Update(net, step, options.device))
    steps = state["steps"].get(stage, 0)
    random = np.random.default_rng([options.seed, steps, STAGES.index(stage)])
    torch.manual_seed(options.seed + steps)
    if state.get("optimizer_of") == stage:
        learn.load(state)
    every = CHECK_EVERY if options.steps else max(CHECK_EVERY, budget / CHECKS)
    begin, saved, checked, losses = time.time(), time.time(), time.time(), []
    while True:
        now = used + time.time() - begin
        progress = (steps if options.steps else now) / budget
        if progress >= 1 or time.time() - START > options.minutes * 60:
            break
        if refresh:
            samples = refresh(samples)
        rate = peak * max(0.01, 0.5 * (1 + math.cos(math.pi * progress))) * min(1, (steps + 1) / 100)
        sample = samples[random.integers(len(samples))]
        loss = learn(rate, *(gnn_inputs(sample, random) if captured else (sample, random, teacher, progress)))
        steps += 1
        losses.append(loss)
        if len(losses) == 100:
            mean = torch.stack(losses).mean().item()
            with open(options.out + "/log.csv", "a", newline="") as file:
                csv.writer(file).writerow([stage, f"{now:.1f}", steps, f"{mean:.5f}", f"{rate:.2e}"])
            if steps % 500 == 0 or steps == 100:
                say(f"{stage} {now:.0f} s, step {steps}, {100 * progress:.0f} % done, loss {mean:.4f}")
            losses = []
        if check and time.time() - checked > every:
            pause = time.time()
            note(options, stage, now, steps, len(samples), check(net, False))
            checked = time.time()
            begin += checked - pause
        if time.time() - saved > 30:
            save(stage, net, learn, steps, used + time.time() - begin, state, options)
            saved = time.time()
    save(stage, net, learn, steps, used + time.time() - begin, state, options)
    if check:
        note(options, stage, state["used"][stage], steps, len(samples), check(net, True))
    say(f"{stage}: {steps} steps in {state['used'][stage]:.0f} s, {100 * min(1, progress):.0f} % of the budget")
    return progress >= 1


def save(stage, net, learn, steps, used, state, options):
    state[stage] = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    state.update(learn.state(), optimizer_of=stage)
    state["steps"][stage], state["used"][stage] = steps, used
    torch.save(state, options.out + "/state.pt.part")
    os.replace(options.out + "/state.pt.part", options.out + "/state.pt")


def note(options, stage, seconds, steps, number, figures):
    """Lines of curve.csv: stage, seconds of training, steps, events, name of the figure, value."""
    with open(options.curve, "a", newline="") as file:
        if not file.tell():
            csv.writer(file).writerow(["stage", "seconds", "step", "events", "figure", "value"])
        csv.writer(file).writerows([stage, f"{seconds:.1f}", steps, number, name, f"{value:.5f}"]
                                   for name, value in figures.items())


def warm_up(nets, options):
    """Compiles filter and interaction network on a made-up graph, before there are events to wait for."""
    device, n_features, n_edge = options.device, len(ev.FEATURES), len(ev.EDGE_FEATURES)
    for nodes, edges in ((3000, 9000), (2000, 7000)):
        inputs = (torch.randn(nodes, n_features, device=device), torch.randint(nodes, (2, edges), device=device),
                  torch.randn(edges, n_edge, device=device))
        for net in (nets["filter"], nets["gnn"]):
            with torch.autocast(device, dtype=torch.float16):
                loss = net(*inputs).float().mean()
            loss.backward()
            net.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.float16), torch.no_grad():
                net(*inputs)
    say("networks compiled")


def size(text):
    """Of an option: 256x4 -> (256, 4)."""
    width, layers = text.split("x")
    if int(width) < 1 or int(layers) < 1:
        raise ValueError(text)
    return int(width), int(layers)


def parser_of_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder of the simulated events; what is missing is simulated")
    parser.add_argument("--out", required=True, help="folder for state, logs and the model file")
    parser.add_argument("--name", default="standard")
    parser.add_argument("--version", default="1")
    parser.add_argument("--embed", type=size, default=(256, 4), metavar="WxL", help="width and layers (%(default)s)")
    parser.add_argument("--filter", type=size, default=(128, 3), metavar="WxL", help="likewise")
    parser.add_argument("--gnn", type=size, default=(64, 8), metavar="WxS", help="width and steps")
    parser.add_argument("--own", action="store_true", help="every step of the gnn has weights of its own")
    parser.add_argument("--warm", metavar="MODEL", help="begin with this file's networks where the sizes are the same; "
                        "with its interaction network made twice as wide, or its steps' weights made their own, where "
                        "--gnn or --own asks for that")
    parser.add_argument("--teacher", metavar="MODEL", help="embedding and filter also learn from this file's")
    parser.add_argument("--events", type=int, default=160, help="collision events to simulate")
    parser.add_argument("--train-on", type=int, metavar="N", help="learn from the first N of them (all)")
    parser.add_argument("--pixels", action="store_true", help="leave out the points on strips")
    parser.add_argument("--barrel", type=float, default=1.0, metavar="W",
                        help="edges count W at eta 0, less and less up to |eta| 2, 1 beyond: where tracks have few points")
    parser.add_argument("--turn", type=float, default=0.0, metavar="P",
                        help="share of the steps at which the event is turned about the beam line, and may be mirrored")
    parser.add_argument("--jets", action="store_true", help="lay two events of hard jets, without pile-up, over each")
    parser.add_argument("--as-simulated", action="store_true", help="no modules out of place, no lost points")
    parser.add_argument("--mu", type=float, default=200.0, help="pile-up of the training events")
    parser.add_argument("--minutes", type=float, default=9.5, help="end this call after so long")
    parser.add_argument("--finish", action="store_true", help="shorten the last stage so the call ends with a model")
    parser.add_argument("--seconds", default="100,40,160", help="budgets of embed, filter, gnn (0: not trained)")
    parser.add_argument("--steps", help="budgets in steps instead: the same training on any machine")
    parser.add_argument("--edge-efficiency", type=float, default=0.9955, help="sets the radius")
    parser.add_argument("--graph-edges", type=float, metavar="E", help="sets the radius instead: E edges per point")
    parser.add_argument("--edges-per-point", type=float, default=3.3, help="sets the cut of the filter")
    parser.add_argument("--track-cut", type=float, default=0.4, help="cut of the model file's tracks section")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--eager", action="store_true", help="do not compile the networks")
    parser.add_argument("--simulate-only", action="store_true", help="make the events, nothing else")
    return parser


def parse(parser):
    """The options."""
    options = parser.parse_args()
    numbers = (options.steps or options.seconds).split(",")
    try:
        options.budget = dict(zip(STAGES, (float(number) for number in numbers), strict=True))
    except ValueError:
        parser.error(f"--seconds and --steps take three numbers, not {','.join(numbers)}")
    if options.steps and options.finish:
        parser.error("--finish shortens the last stage, --steps says how long it is: only one of them")
    if options.train_on is not None and not 1 <= options.train_on <= options.events:
        parser.error(f"--train-on {options.train_on}: 1 to {options.events}, the number of --events")
    options.sizes = {"embed": options.embed, "filter": options.filter, "gnn": (*options.gnn, options.own)}
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.curve = options.out + "/curve.csv"
    return options


def take(nets, state, options):
    """Weights of the state, as far as it has some."""
    if state.setdefault("sizes", options.sizes) != options.sizes:
        raise SystemExit(f"{options.out}/state.pt is of networks {state['sizes']}, not {options.sizes}: another --out?")
    for stage, net in nets.items():
        if stage in state:
            net.load_state_dict(state[stage])


def beginning(stage, net, size):
    """What a network of this size may begin with, having another model's: (network or None, what was done to it)."""
    has = networks.size_of(net)
    if has == size:
        return net, ""
    if stage == "gnn":
        width, steps, own = size
        if own and has == (width, steps, False):
            return networks.separated(net), ", which steps no longer share"
        if not own and has == (width / 2, steps, False):
            return networks.widened(net), ", made twice as wide"
    return None, ""


def networks_of(options, state):
    """(networks, teacher's or None): with the weights of the state, or of --warm, or fresh."""
    read = lambda path: {stage: net.to(options.device).eval() for stage, net in networks.read(path)[0].items()}
    teacher = read(options.teacher) if options.teacher else None
    warm = read(options.warm) if options.warm else {}
    torch.manual_seed(options.seed)
    nets = networks.make(len(ev.FEATURES), len(ev.EDGE_FEATURES), options.sizes)
    for stage, net in nets.items():
        net.to(options.device).eval()
        if stage in state:
            continue
        begin, how = None, ""
        if stage in warm:
            begin, how = beginning(stage, warm[stage], options.sizes[stage])
        if begin:
            net.load_state_dict(begin.state_dict())
            state["warm"].append(stage)
            say(f"{stage} begins with the weights of {options.warm}{how}")
        elif not options.budget[stage]:
            raise SystemExit(f"a budget of 0 for {stage}, and no --warm file has one of size {options.sizes[stage]}")
    take(nets, state, options)
    if options.device == "cuda" and not options.eager:
        torch._dynamo.config.suppress_errors = True
        torch._dynamo.config.recompile_limit = 64
        networks.on_edges = torch.compile(networks.on_edges, dynamic=True)
        networks.on_nodes = torch.compile(networks.on_nodes, dynamic=True)
        nets["filter"].mlp.compile(dynamic=True)
        warm_up(nets, options)
    return nets, teacher


def show(title, table):
    for row in table:
        say(title, *(f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in row.items()))


def choose_radius(nets, teacher, validation, state, options, report):
    """Sets state["radius"]; tables of the network and of the teacher's."""
    table, wanted = choose.radius_table(validation, nets["embed"]), options.edge_efficiency
    show("radius", table)
    report["radius"] = {"own": table}
    if teacher:
        theirs = report["radius"]["teacher"] = choose.radius_table(validation, teacher["embed"])
        show("radius, teacher's", theirs)
        mine, other = choose.edges_for(table, wanted), choose.edges_for(theirs, wanted)
        say(f"edges for an efficiency of {wanted}: {mine:.0f}, with the teacher's embedding {other:.0f}")
    state["radius"] = (choose.at_edges(table, options.graph_edges, "r") if options.graph_edges
                       else choose.radius_for(table, wanted))
    report["radius"]["chosen"] = state["radius"]
    say("radius", state["radius"])


def choose_filter(nets, teacher, graphs, state, options, report):
    """Sets state["filter_cut"]; returns the cut on the logit. Tables likewise."""
    def scored(net):
        logits = [choose.score_edges(net, event, edges) for event, edges in graphs]
        table = choose.filter_table(graphs, logits, (options.edges_per_point,))
        width, layers = networks.size_of(net)[:2]
        show(f"filter {width} x {layers}", table)
        return table

    table = scored(nets["filter"])
    report["filter"] = {"own": table}
    if teacher:
        report["filter"]["teacher"] = scored(teacher["filter"])
    row = next(row for row in table if row["per_point"] == options.edges_per_point)
    state["filter_cut"] = row["cut"]
    return row["logit"]


def choose_gnn(nets, teacher, graphs, options, report):
    """Tables of track builders, of the network and of the teacher's."""
    scores = lambda net: [choose.score_edges(net, event, edges, None) for event, edges in graphs]
    report["tracks"] = {"own": choose.track_table(graphs, scores(nets["gnn"]))}
    show("tracks", report["tracks"]["own"])
    if teacher:
        report["tracks"]["teacher"] = choose.track_table(graphs, scores(teacher["gnn"]))
        show("tracks, teacher's", report["tracks"]["teacher"])


def new_state():
    """Of a training that has not begun: seconds and steps of each stage, stages with another model's weights."""
    return {"used": {}, "steps": {}, "warm": []}


def state_of(options):
    """The state to go on with: of OUT/state.pt, or a new one."""
    if not os.path.exists(options.out + "/state.pt"):
        return new_state()
    state = torch.load(options.out + "/state.pt", map_location=options.device, weights_only=False)
    say("going on:", {stage: round(seconds) for stage, seconds in state["used"].items()})
    return state


def train(options, state, loader, simulation, nets, teacher):
    """All stages, as far as budgets and time go, then choices.json and the model; True once the budgets are used up."""
    check = lambda figures, step, unseen, seen: check_of(lambda net, samples: figures(net, samples, options), step,
                                                         unseen, seen, options)
    report = {}

    #   ---- embedding
    events = loader.wait(options.train_on or min(options.events, FIRST), simulation)
    say(len(events), "events to begin with,", int(np.mean([len(e["r"]) for e in events])), "points on average")
    validation, seen = loader.validation(simulation), loader.seen()
    if not train_stage("embed", nets["embed"], events, embed_step, state, options, teacher, loader.refresh,
                       check(radius_figures, embed_step, validation, seen)):
        return False
    if options.steps or options.train_on:       # the same training on any machine: all events from here on
        if simulation and not options.train_on:
            simulation.wait()
        events = loader.wait(options.train_on or math.inf, simulation)
    say(len(events), "events,", len(validation), "for validation")
    choose_radius(nets, teacher, validation, state, options, report)

    #   ---- filter
    graphs = data.Graphs(loader, nets, state["radius"])
    unseen, seen = ([graphs.of(event) for event in events] for events in (validation, seen))
    samples = graphs.refresh()
    say(len(samples), "graphs,", int(np.mean([s[1].shape[1] for s in samples])), "edges on average")
    if not train_stage("filter", nets["filter"], samples, filter_step, state, options, teacher, graphs.refresh,
                       check(filter_figures, filter_step, unseen, seen)):
        return False
    graphs.cut = choose_filter(nets, teacher, [sample[:2] for sample in unseen], state, options, report)

    #   ---- interaction network
    graphs.samples, unseen, seen = ([graphs.kept(sample) for sample in group] for group in (graphs.samples, unseen, seen))
    samples = graphs.refresh()
    say(len(samples), "gnn graphs,", int(np.mean([s[1].shape[1] for s in samples])), "edges on average")
    done = train_stage("gnn", nets["gnn"], samples, gnn_step, state, options, teacher, graphs.refresh,
                       check(track_figures, gnn_step, unseen, seen))
    choose_gnn(nets, teacher, [sample[:2] for sample in unseen], options, report)
    with open(options.out + "/choices.json", "w") as file:
        json.dump(report, file, indent=1)
    export.write_model(f"{options.out}/{options.name}.safetensors", nets, options.name, options.version,
                       state["radius"], state["filter_cut"], options.track_cut,
                       "pixels alone" if options.pixels else "pixels and strips")
    say("done" if done or options.finish else "gnn budget not used up: call again", "— model written")
    return done


def main():
    options = parse(parser_of_options())
    os.makedirs(options.out, exist_ok=True)
    os.makedirs(options.data, exist_ok=True)
    simulation = data.simulate(options)
    if options.simulate_only:
        if simulation:
            simulation.wait()
        say("all events are there" if data.simulate_commands(options) == [] else "events are missing: see simulate.log")
        return
    torch.set_float32_matmul_precision("high")
    state, pool = state_of(options), data.workers()
    nets, teacher = networks_of(options, state)
    train(options, state, data.Loader(pool, options, teacher), simulation, nets, teacher)


if __name__ == "__main__":
    main()
