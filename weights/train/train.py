#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the three networks of a model, in steps of a few minutes, and write the model file.

    train.py --data DIR --out DIR --minutes 9.5          # simulate, then train as far as the time goes; call it again
    train.py --data DIR --out DIR --minutes 6 --finish   # one call: the last stage takes the time that is left
    train.py --data DIR --out DIR --simulate-only        # the events alone, ahead; trainings may start meanwhile

Stages: embed, filter, gnn, each with its budget in seconds of one GPU. OUT/state.pt holds weights, optimiser and the
seconds used, and is written every half minute: the next call goes on where the last one ended, on another machine too.
With --teacher embedding and filter also learn what that model says. Networks begin with --warm's weights where the sizes
agree, and stay as they are with a budget of 0. Radius and cut of the filter are set on validation events of the
training's own; tables of the alternatives, and of the teacher's networks, are in OUT/choices.json, figures on the way in
OUT/curve.csv, the model in OUT/<name>.safetensors. models.sh has the commands of the shipped models. Needs:
pip install -r requirements.txt.
"""
import argparse
import csv
import fcntl
import glob
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
import zlib

import numpy as np
import torch
import torch.nn.functional as F

import choose
import events as ev
import export
import graph
import networks

HERE = os.path.dirname(os.path.abspath(__file__))
STAGES = ("embed", "filter", "gnn")
MARGIN, REACH = 0.3, 0.33           # of the embedding: others are pushed beyond MARGIN, looked for within REACH
PEAK_RATE = {"embed": 1.5e-3, "filter": 2e-3, "gnn": 1e-3}
WARM = 0.4                          # of the peak rate, for networks that begin with weights of another model
TAUGHT = 0.5                        # weight of the teacher's scores beside the truth
FIRST = 16                          # events to begin with, while the others are simulated
CHECK_EVERY = 10.0                  # s between points of curve.csv
RESERVE = 12.0                      # s that --finish leaves for validation and export
START = time.time()


def say(*words):
    print(f"[{time.time() - START:6.1f} s]", *words, flush=True)


# ---- data ----------------------------------------------------------------------------------------------------------

class Simulation:
    """The simulation into DATA, by this or another process: whoever simulates holds a lock on DATA/lock."""

    def __init__(self, options, commands):
        self.path = os.path.join(options.data, "lock")
        with open(self.path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("another process simulates into", options.data)
                return
            say("simulating into", options.data)
            with open(options.out + "/simulate.log", "a") as log:   # the shell inherits the lock
                subprocess.Popen(["sh", "-c", " & ".join(commands) + " & wait"], stdout=log, stderr=log,
                                 pass_fds=[lock.fileno()])

    def runs(self):
        with open(self.path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except OSError:
                return True

    def wait(self):
        while self.runs():
            time.sleep(0.5)


def simulate_commands(options):
    """One command for each kind of events that is not complete: collisions, guns to lay over them, validation."""
    part = lambda share: str(max(1, int(options.events * share)))
    gun = ["--eta", "4", "--beam-z", "120", "--events", part(0.3), "--seed"]
    pile_up = ["--mu", str(options.mu), "--events"]
    #   Vertices far out in z are rare in collisions, so a third of these come from a beam spot twice as long; so are
    #   stiff particles, and those made far from the beam line
    wanted = {"validation": [*pile_up, "4", "--seed", str(options.seed + 1)],
              "muons": ["--gun", "13", "--count", "40", *gun, str(options.seed + 2)],
              "pions": ["--gun", "211", "--count", "40", *gun, str(options.seed + 3)],
              "decays": ["--gun", "211", "--count", "30", "--pt", "0.5", "10", "--decay", "400", *gun,
                         str(options.seed + 5)],
              "collisions": [*pile_up, part(2 / 3), "--seed", str(options.seed)],
              "collisions_wide": [*pile_up, part(1 / 3), "--beam-z", "110", "--seed", str(options.seed + 4)]}
    shares, commands = {"collisions": 0.57, "collisions_wide": 0.32, "validation": 0.125}, []
    for folder, arguments in wanted.items():
        target = os.path.join(options.data, folder)
        if len(glob.glob(target + "/*.npz.xz")) < int(arguments[arguments.index("--events") + 1]):
            workers = max(1, int((os.cpu_count() or 2) * shares.get(folder, 0)))
            commands.append(" ".join(["nice", "-n", "10", sys.executable, os.path.join(HERE, "simulate.py"), *arguments,
                                      "--out", target, "--processes", str(workers)]))
    return commands


def simulate(options):
    """Starts the simulation of whatever is missing; None if nothing is."""
    commands = simulate_commands(options)
    return Simulation(options, commands) if commands else None


def files(options, *folders):
    return sorted(path for folder in folders for path in glob.glob(f"{options.data}/{folder}/*.npz.xz"))


class Loader:
    """Loads events (guns laid over them, varied) in worker processes; `known` has those that are there."""

    def __init__(self, pool, options, teacher):
        self.pool, self.options, self.teacher = pool, options, teacher
        self.known, self.pending, self.looked = {}, {}, 0.0

    def look(self):
        """Asks for files that are new, takes what has been loaded."""
        over = [files(self.options, "muons", "pions"), files(self.options, "decays")]
        new = [p for p in files(self.options, "collisions", "collisions_wide")
               if p not in self.known and p not in self.pending]
        for path in new if all(over) else []:
            number = zlib.crc32(os.sep.join(path.split(os.sep)[-2:]).encode())      # the same in every call
            guns = [folder[number % len(folder)] for folder in over]
            seed = None if self.options.as_simulated else [self.options.seed, number]
            self.pending[path] = self.pool.apply_async(ev.load, [([path, *guns], seed)])
        for path in [path for path, result in self.pending.items() if result.ready()]:
            event = ev.to_device(self.pending.pop(path).get(), self.options.device)
            if self.teacher and event["plain"]:
                event["taught"] = graph.embed(event, self.teacher["embed"])
            self.known[path] = event
        self.looked = time.time()
        return list(self.known.values())

    def refresh(self, samples):
        """For the training loop: looks once a second or so."""
        return self.look() if time.time() - self.looked > 1 else samples

    def wait(self, at_least, simulation):
        """Waits for so many events, or for all that the simulation makes."""
        while True:
            over = simulation is None or not simulation.runs()      # asked first: what it made is seen below
            events = self.look()
            if len(events) >= at_least or (over and not self.pending):
                break
            time.sleep(0.2)
        if len(events) < max(1, at_least if at_least < math.inf else 1):
            raise SystemExit(f"{self.options.data}: {len(events)} events of {at_least} wanted: see simulate.log")
        return events


# ---- one training step of each stage ---------------------------------------------------------------------------------

def embed_step(net, event, random, teacher, progress):
    """Contrastive: points of one track together, others beyond the margin. In the beginning also: where the teacher
    puts the points."""
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
    weight = 1.0 + (event["truth_pt"][chosen] > 0.9) + 2.0 * event["truth_far"][chosen]
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
    return weight


def binary_loss(logit, true, weight):
    loss = F.binary_cross_entropy_with_logits(logit.float(), true.float(), reduction="none")
    return (loss * weight).sum() / weight.sum()


def filter_step(net, sample, random, teacher, progress, batch=400_000):
    event, edges, true = sample
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
    between the points that stay are exactly the graph of the thinned event."""
    event, edges, true = sample
    if random.random() < 0.5:
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


def gnn_step(net, sample, random, teacher, progress):
    event = sample[0]
    edges, true = thin(sample, random)
    used = torch.zeros(len(event["r"]), dtype=torch.bool, device=edges.device)      # leave out points without edges
    used[edges.flatten().long()] = True
    row = used.cumsum(0) - 1
    logit = net(event["features"][used], row[edges.long()], ev.edge_features(event, edges))
    return binary_loss(logit, true, edge_weights(event, edges, true))


# ---- driver ----------------------------------------------------------------------------------------------------------

def train_stage(stage, net, samples, step, state, options, teacher=None, refresh=None, check=None):
    """Runs `step` until the stage's budget or the call's time is used; True when the budget is used up. `refresh` gives
    the samples anew, `check` figures for the curve."""
    budget, used = options.seconds[stage], state["used"].get(stage, 0.0)
    if used >= budget:
        return True
    if options.finish and stage == STAGES[-1]:
        budget = min(budget, used + max(1.0, options.minutes * 60 - RESERVE - (time.time() - START)))
    peak = PEAK_RATE[stage] * (WARM if stage in state["warm"] else 1)
    optimizer = torch.optim.AdamW(net.parameters(), peak, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(options.device, enabled=options.device == "cuda")
    steps = state["steps"].get(stage, 0)
    random = np.random.default_rng([options.seed, steps, STAGES.index(stage)])
    torch.manual_seed(options.seed + steps)
    if state.get("optimizer_of") == stage:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    begin, saved, checked, losses = time.time(), time.time(), time.time(), []
    while True:
        now = used + time.time() - begin
        if now >= budget or time.time() - START > options.minutes * 60:
            break
        if refresh:
            samples = refresh(samples)
        rate = peak * max(0.01, 0.5 * (1 + math.cos(math.pi * now / budget))) * min(1, (steps + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(options.device, dtype=torch.float16, enabled=options.device == "cuda"):
            loss = step(net, samples[random.integers(len(samples))], random, teacher, now / budget)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        steps += 1
        losses.append(loss.detach())
        if len(losses) == 100:
            mean = torch.stack(losses).mean().item()
            with open(options.out + "/log.csv", "a", newline="") as file:
                csv.writer(file).writerow([stage, f"{now:.1f}", steps, f"{mean:.5f}", f"{rate:.2e}"])
            if steps % 500 == 0 or steps == 100:
                say(f"{stage} {now:.0f} of {budget:.0f} s, step {steps}, loss {mean:.4f}")
            losses = []
        if check and time.time() - checked > CHECK_EVERY:
            note(options, stage, now, steps, len(samples), check(net))
            checked = time.time()
        if time.time() - saved > 30:
            save(stage, net, optimizer, scaler, steps, used + time.time() - begin, state, options)
            saved = time.time()
    save(stage, net, optimizer, scaler, steps, used + time.time() - begin, state, options)
    if check:
        note(options, stage, state["used"][stage], steps, len(samples), check(net))
    say(f"{stage}: {steps} steps, {state['used'][stage]:.0f} of {budget:.0f} s used")
    return state["used"][stage] >= budget


def save(stage, net, optimizer, scaler, steps, used, state, options):
    state[stage] = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    state.update(optimizer=optimizer.state_dict(), scaler=scaler.state_dict(), optimizer_of=stage)
    state["steps"][stage], state["used"][stage] = steps, used
    torch.save(state, options.out + "/state.pt.part")
    os.replace(options.out + "/state.pt.part", options.out + "/state.pt")


def note(options, stage, seconds, steps, number, figures):
    """Lines of curve.csv: stage, seconds of training, steps, events, name of the figure, value."""
    with open(options.out + "/curve.csv", "a", newline="") as file:
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


def parse():
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder of the simulated events; what is missing is simulated")
    parser.add_argument("--out", required=True, help="folder for state, logs and the model file")
    parser.add_argument("--name", default="standard")
    parser.add_argument("--version", default="1")
    parser.add_argument("--embed", type=size, default=(256, 4), metavar="WxL", help="width and layers (%(default)s)")
    parser.add_argument("--filter", type=size, default=(64, 3), metavar="WxL", help="likewise")
    parser.add_argument("--gnn", type=size, default=(64, 8), metavar="WxS", help="width and steps")
    parser.add_argument("--warm", metavar="MODEL", help="begin with this file's networks where the sizes are the same")
    parser.add_argument("--teacher", metavar="MODEL", help="embedding and filter also learn from this file's")
    parser.add_argument("--events", type=int, default=160, help="collision events to simulate")
    parser.add_argument("--as-simulated", action="store_true", help="no modules out of place, no lost points")
    parser.add_argument("--mu", type=float, default=200.0, help="pile-up of the training events")
    parser.add_argument("--minutes", type=float, default=9.5, help="end this call after so long")
    parser.add_argument("--finish", action="store_true", help="shorten the last stage so the call ends with a model")
    parser.add_argument("--seconds", default="100,40,160", help="budgets of embed, filter, gnn (0: not trained)")
    parser.add_argument("--edge-efficiency", type=float, default=0.9955, help="sets the radius")
    parser.add_argument("--edges-per-point", type=float, default=3.3, help="sets the cut of the filter")
    parser.add_argument("--track-cut", type=float, default=0.4, help="cut of the model file's tracks section")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--eager", action="store_true", help="do not compile the networks")
    parser.add_argument("--simulate-only", action="store_true", help="make the events, nothing else")
    options = parser.parse_args()
    options.seconds = dict(zip(STAGES, (float(s) for s in options.seconds.split(","))))
    options.sizes = {"embed": options.embed, "filter": options.filter, "gnn": options.gnn}
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def networks_of(options, state):
    """(networks, teacher's or None): with the weights of the state, or of --warm, or fresh."""
    read = lambda path: {stage: net.to(options.device).eval() for stage, net in networks.read(path)[0].items()}
    teacher = read(options.teacher) if options.teacher else None
    warm = read(options.warm) if options.warm else {}
    nets = networks.make(len(ev.FEATURES), len(ev.EDGE_FEATURES), options.sizes)
    if state.setdefault("sizes", options.sizes) != options.sizes:
        raise SystemExit(f"{options.out}/state.pt is of networks {state['sizes']}, not {options.sizes}: another --out?")
    for stage, net in nets.items():
        net.to(options.device).eval()
        if stage in state:
            net.load_state_dict(state[stage])
        elif stage in warm and networks.size_of(warm[stage]) == options.sizes[stage]:
            net.load_state_dict(warm[stage].state_dict())
            state["warm"].append(stage)
            say(f"{stage} begins with the weights of {options.warm}")
        elif not options.seconds[stage]:
            raise SystemExit(f"--seconds: 0 for {stage}, and no --warm file has one of size {options.sizes[stage]}")
    if options.device == "cuda" and not options.eager:
        torch._dynamo.config.suppress_errors = True
        torch._dynamo.config.recompile_limit = 64
        networks.on_edges = torch.compile(networks.on_edges, dynamic=True)
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
    state["radius"] = choose.radius_for(table, wanted)
    report["radius"]["chosen"] = state["radius"]
    say("radius", state["radius"])


def choose_filter(nets, teacher, graphs, state, options, report):
    """Sets state["filter_cut"]; returns the cut on the logit and the logits [E] of each graph. Tables likewise."""
    def scored(net):
        logits = [choose.score_edges(net, event, edges) for event, edges in graphs]
        table = choose.filter_table(graphs, logits, (options.edges_per_point,))
        width, layers = networks.size_of(net)
        show(f"filter {width} x {layers}", table)
        return logits, table

    logits, table = scored(nets["filter"])
    report["filter"] = {"own": table}
    if teacher:
        report["filter"]["teacher"] = scored(teacher["filter"])[1]
    row = next(row for row in table if row["per_point"] == options.edges_per_point)
    state["filter_cut"] = row["cut"]
    return row["logit"], logits


def choose_gnn(nets, teacher, graphs, options, report):
    """Tables of track builders, of the network and of the teacher's."""
    scores = lambda net: [choose.score_edges(net, event, edges, None) for event, edges in graphs]
    report["tracks"] = {"own": choose.track_table(graphs, scores(nets["gnn"]))}
    show("tracks", report["tracks"]["own"])
    if teacher:
        report["tracks"]["teacher"] = choose.track_table(graphs, scores(teacher["gnn"]))
        show("tracks, teacher's", report["tracks"]["teacher"])


def main():
    options = parse()
    os.makedirs(options.out, exist_ok=True)
    os.makedirs(options.data, exist_ok=True)
    simulation = simulate(options)
    if options.simulate_only:
        if simulation:
            simulation.wait()
        say("all events are there" if simulate_commands(options) == [] else "events are missing: see simulate.log")
        return
    torch.set_float32_matmul_precision("high")
    state = {"used": {}, "steps": {}, "warm": []}
    if os.path.exists(options.out + "/state.pt"):
        state = torch.load(options.out + "/state.pt", map_location=options.device, weights_only=False)
        say("going on:", {stage: round(seconds) for stage, seconds in state["used"].items()})
    pool = multiprocessing.get_context("spawn").Pool(max(1, min(8, (os.cpu_count() or 2) // 2)))
    nets, teacher = networks_of(options, state)
    loader, report = Loader(pool, options, teacher), {}

    def load_validation():
        return [ev.to_device(packed, options.device) for packed in
                pool.imap(ev.load, [([path], None) for path in files(options, "validation")])]

    #   ---- embedding
    events = loader.wait(min(options.events, FIRST), simulation)
    say(len(events), "events to begin with,", int(np.mean([len(e["r"]) for e in events])), "points on average")
    validation = load_validation()

    def check_radius(net):
        try:
            return {f"{name} at {row['r']}": row[name] for name in ("efficiency", "edges")
                    for row in choose.radius_table(validation[:1], net, [0.4, 0.45, 0.5])}
        except OverflowError:
            return {}

    if not train_stage("embed", nets["embed"], events, embed_step, state, options, teacher, loader.refresh,
                       check_radius if validation else None):
        return
    if simulation:
        simulation.wait()
    events = loader.wait(math.inf, simulation)
    validation = load_validation()
    say(len(events), "events,", len(validation), "for validation")
    choose_radius(nets, teacher, validation, state, options, report)

    #   ---- filter
    build = lambda event: graph.radius_graph(event, nets["embed"], state["radius"])
    samples = []
    for event in events:
        edges = build(event)
        samples.append((event, edges, ev.is_true(event, edges)))
    graphs = [(event, build(event)) for event in validation]
    say("graphs built,", int(np.mean([s[1].shape[1] for s in samples])), "edges on average")
    if not train_stage("filter", nets["filter"], samples, filter_step, state, options, teacher):
        return
    cut, logits = choose_filter(nets, teacher, graphs, state, options, report)

    #   ---- interaction network
    thinned = []
    for event, edges, _ in samples:
        edges = edges[:, choose.score_edges(nets["filter"], event, edges) > cut]
        thinned.append((event, edges, ev.is_true(event, edges)))
    graphs = [(event, edges[:, logit > cut]) for (event, edges), logit in zip(graphs, logits)]
    del samples, logits
    say("gnn graphs:", int(np.mean([s[1].shape[1] for s in thinned])), "edges on average")

    def check_tracks(net):
        row, = choose.track_table(graphs[:2], [choose.score_edges(net, *g, None) for g in graphs[:2]], (0.4,),
                                  ("best_edges",))
        return {name: row[name] for name in ("edge_efficiency", "efficiency", "fakes", "impure")}

    done = train_stage("gnn", nets["gnn"], thinned, gnn_step, state, options, teacher, check=check_tracks)
    choose_gnn(nets, teacher, graphs, options, report)
    with open(options.out + "/choices.json", "w") as file:
        json.dump(report, file, indent=1)
    export.write_model(f"{options.out}/{options.name}.safetensors", nets, options.name, options.version,
                       state["radius"], state["filter_cut"], options.track_cut)
    say("done" if done or options.finish else "gnn budget not used up: call again", "— model written")


if __name__ == "__main__":
    main()
