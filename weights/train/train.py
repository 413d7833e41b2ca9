#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the three networks of a model, in steps of a few minutes, and write the model file.

    train.py --data DIR --out DIR --minutes 9.5          # simulate, then train as far as the time goes; call it again
    train.py --data DIR --out DIR --minutes 9.5 --seconds 300,120,800

Stages: embed, filter, gnn, each with its budget in seconds of one GPU. OUT/state.pt holds weights, optimiser and the
seconds used, and is written every half minute: the next call goes on where the last one ended, on another machine too.
When all budgets are used the cut of the filter and of the edges are set on validation events of the training's own, and
OUT/<name>.safetensors is written. Needs: pip install -r requirements.txt.
"""
import argparse
import csv
import glob
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import events as ev
import export
import graph
import networks

HERE = os.path.dirname(os.path.abspath(__file__))
STAGES = ("embed", "filter", "gnn")
RADIUS, MARGIN = 0.5, 0.3
PEAK_RATE = {"embed": 1.5e-3, "filter": 2e-3, "gnn": 1e-3}
START = time.time()


def say(*words):
    print(f"[{time.time() - START:6.1f} s]", *words, flush=True)


# ---- data ----------------------------------------------------------------------------------------------------------

def simulate(options):
    """Starts the simulation of whatever is missing: collision events, guns to lay over them, validation events."""
    part = lambda share: str(max(1, int(options.events * share)))
    gun = ["--count", "40", "--eta", "4", "--beam-z", "120", "--events", part(0.5), "--seed"]
    pile_up = ["--mu", str(options.mu), "--events"]
    #   Vertices far out in z are rare in collisions, so a third of these come from a beam spot twice as long
    wanted = {"validation": [*pile_up, "4", "--seed", str(options.seed + 1)],
              "muons": ["--gun", "13", *gun, str(options.seed + 2)],
              "pions": ["--gun", "211", *gun, str(options.seed + 3)],
              "collisions": [*pile_up, part(2 / 3), "--seed", str(options.seed)],
              "collisions_wide": [*pile_up, part(1 / 3), "--beam-z", "110", "--seed", str(options.seed + 4)]}
    commands = []
    for folder, arguments in wanted.items():
        target = os.path.join(options.data, folder)
        if len(glob.glob(target + "/*.npz.xz")) < int(arguments[arguments.index("--events") + 1]):
            share = {"collisions": 0.5, "collisions_wide": 0.25}.get(folder, 0)
            workers = max(1, int((os.cpu_count() or 2) * share))
            commands.append(" ".join([sys.executable, os.path.join(HERE, "simulate.py"), *arguments, "--out", target,
                                      "--processes", str(workers)]))
    if not commands:
        return None
    say("simulating into", options.data)
    return subprocess.Popen(["sh", "-c", " & ".join(commands) + " & wait"],
                            stdout=open(options.out + "/simulate.log", "a"), stderr=subprocess.STDOUT)


def load_all(pool, options, known, simulation, at_least):
    """Loads new events (each with a gun event laid over it) into `known`; waits until there are `at_least`."""
    while True:
        guns = sorted(glob.glob(options.data + "/muons/*.npz.xz")) + sorted(glob.glob(options.data + "/pions/*.npz.xz"))
        paths = [p for p in sorted(glob.glob(options.data + "/collisions*/*.npz.xz")) if p not in known]
        if guns and len(known) + len(paths) >= at_least:
            break
        if simulation is None or simulation.poll() is not None:
            if not paths and len(known) < at_least:
                raise SystemExit(f"{options.data}: {len(known)} events, {at_least} wanted; see {options.out}/simulate.log")
            break
        time.sleep(1)
    work = [[path, guns[(len(known) + i) % len(guns)]] for i, path in enumerate(paths)]
    for path, packed in zip(paths, pool.imap(ev.load, work)):
        known[path] = ev.to_device(packed, options.device)
    return known


# ---- one training step of each stage ---------------------------------------------------------------------------------

def embed_step(net, event, random):
    """Contrastive: points of one track together, the hardest others beyond the margin."""
    device, n = event["r"].device, len(event["r"])
    query = torch.randint(0, n, (2000,), device=device)
    good = ((event["pt"] > 0.5) & (event["pid"] >= 0)).nonzero().squeeze(1)
    if len(good):
        query = torch.cat([query, good[torch.randint(0, len(good), (6000,), device=device)]])
    place = net(event["features"])
    with torch.no_grad():
        distance = 2 - 2 * (place[query] @ place.t())
        distance[event["rho"][query, None] >= event["rho"][None]] = 9
        nearest, other = distance.topk(min(30, n), dim=1, largest=False)
        near = nearest < 1.2 * MARGIN ** 2
        a, b = query[:, None].expand_as(other)[near], other[near]
        wrong = event["pid"][a] != event["pid"][b]
        a, b = a[wrong], b[wrong]
    chosen = (event["truth_pt"] > 0.5).nonzero().squeeze(1)
    chosen = chosen[torch.randint(0, len(chosen), (20000,), device=device)]
    source, target = event["truth"][:, chosen]
    together = (place[source] - place[target]).square().sum(1)
    apart = ((place[a] - place[b]).square().sum(1) + 1e-9).sqrt()
    push = F.relu(MARGIN - apart).square().sum() / len(query)
    return 2 / MARGIN ** 2 * (together.mean() + push)


def edge_weights(event, edges, true):
    """True edges of soft particles matter little, those of the rare stiff ones more."""
    pt = event["pt"][edges[0].long()]
    weight = torch.ones(len(true), device=pt.device)
    for above, value in ((0.0, 0.2), (0.63, 1.0), (0.9, 2.0), (2.0, 5.0), (5.0, 10.0)):
        weight[true & (pt > above)] = value
    return weight


def binary_loss(logit, true, weight):
    loss = F.binary_cross_entropy_with_logits(logit.float(), true.float(), reduction="none")
    return (loss * weight).sum() / weight.sum()


def filter_step(net, sample, random, batch=400_000):
    event, edges, true = sample
    device = edges.device
    chosen = torch.randint(0, edges.shape[1], (batch,), device=device)
    positive = true.nonzero().squeeze(1)
    chosen = torch.cat([chosen, positive[torch.randint(0, len(positive), (batch // 10,), device=device)]])
    edges, true = edges[:, chosen], true[chosen]
    logit = net(event["features"], edges.long(), ev.edge_features(event, edges))
    return binary_loss(logit, true, edge_weights(event, edges, true))


def thin(sample, random):
    """Half of the time: a part of the primary vertices only, so that sparse events are known too. The edges between
    the points that stay are exactly the graph of the thinned event."""
    event, edges, true = sample
    if random.random() < 0.5:
        return event["features"], edges, true, event
    share = random.random() ** 2
    keep_vertex = torch.rand(int(event["vertex"].max()) + 1, device=edges.device) < max(share, 0.02)
    keep = keep_vertex[event["vertex"].long()]
    kept = keep[edges[0].long()] & keep[edges[1].long()]
    if kept.sum() < 100:
        return event["features"], edges, true, event
    return event["features"], edges[:, kept], true[kept], event


def gnn_step(net, sample, random):
    features, edges, true, event = thin(sample, random)
    used, edges_new = torch.unique(edges, return_inverse=True)      # leave out points without edges
    logit = net(features[used.long()], edges_new.view(2, -1), ev.edge_features(event, edges))
    return binary_loss(logit, true, edge_weights(event, edges, true))


# ---- driver ----------------------------------------------------------------------------------------------------------

def train_stage(stage, net, samples, step, state, options, refresh=None):
    """Runs `step` until the stage's budget or the call's time is used; True when the budget is used up."""
    budget, used = options.seconds[stage], state["used"].get(stage, 0.0)
    if used >= budget:
        return True
    optimizer = torch.optim.AdamW(net.parameters(), PEAK_RATE[stage], weight_decay=1e-4)
    scaler = torch.amp.GradScaler(options.device, enabled=options.device == "cuda")
    steps = state["steps"].get(stage, 0)
    random = np.random.default_rng([options.seed, steps, STAGES.index(stage)])
    torch.manual_seed(options.seed + steps)
    if state.get("optimizer_of") == stage:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    begin, saved, losses = time.time(), time.time(), []
    net.train()
    while True:
        now = used + time.time() - begin
        if now >= budget or time.time() - START > options.minutes * 60:
            break
        if refresh:
            samples = refresh(samples)
        rate = PEAK_RATE[stage] * max(0.01, 0.5 * (1 + math.cos(math.pi * now / budget))) * min(1, (steps + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(options.device, dtype=torch.float16, enabled=options.device == "cuda"):
            loss = step(net, samples[random.integers(len(samples))], random)
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
                say(f"{stage} {now:.0f} of {budget} s, step {steps}, loss {mean:.4f}")
            losses = []
        if time.time() - saved > 30:
            save(stage, net, optimizer, scaler, steps, used + time.time() - begin, state, options)
            saved = time.time()
    save(stage, net, optimizer, scaler, steps, used + time.time() - begin, state, options)
    net.eval()
    say(f"{stage}: {steps} steps, {state['used'][stage]:.0f} of {budget} s used")
    return state["used"][stage] >= budget


def save(stage, net, optimizer, scaler, steps, used, state, options):
    state[stage] = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    state.update(optimizer=optimizer.state_dict(), scaler=scaler.state_dict(), optimizer_of=stage)
    state["steps"][stage], state["used"][stage] = steps, used
    torch.save(state, options.out + "/state.pt.part")
    os.replace(options.out + "/state.pt.part", options.out + "/state.pt")


@torch.no_grad()
def score_edges(net, event, edges, options, chunk=2_000_000):
    parts = []
    for piece in edges.split(chunk, dim=1):
        with torch.autocast(options.device, dtype=torch.float16, enabled=options.device == "cuda"):
            parts.append(net(event["features"], piece.long(), ev.edge_features(event, piece)).float())
    return torch.cat(parts)


def target_efficiency(event, edges):
    """Share of the true edges of particles above 0.9 GeV that are among `edges`."""
    n = len(event["r"])
    wanted = event["truth"][:, event["truth_pt"] > 0.9]
    have = edges[0].long() * n + edges[1].long()
    return torch.isin(wanted[0] * n + wanted[1], have).float().mean().item()


def mean_of(rows):
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder of the simulated events; what is missing is simulated")
    parser.add_argument("--out", required=True, help="folder for state, logs and the model file")
    parser.add_argument("--name", default="standard")
    parser.add_argument("--version", default="1")
    parser.add_argument("--events", type=int, default=160, help="collision events to train on")
    parser.add_argument("--mu", type=float, default=200.0, help="pile-up of the training events")
    parser.add_argument("--minutes", type=float, default=9.5, help="end this call after so long")
    parser.add_argument("--seconds", default="300,120,800", help="budgets of embed, filter, gnn")
    parser.add_argument("--edges-per-point", type=float, default=3.3, help="sets the cut of the filter")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--eager", action="store_true", help="do not compile the networks")
    options = parser.parse_args()
    options.seconds = dict(zip(STAGES, (float(s) for s in options.seconds.split(","))))
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    os.makedirs(options.out, exist_ok=True)
    os.makedirs(options.data, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if options.device == "cuda" and not options.eager:
        torch._dynamo.config.suppress_errors = True
        torch._dynamo.config.recompile_limit = 64
        networks.on_edges = torch.compile(networks.on_edges, dynamic=True)
    state = {"used": {}, "steps": {}}
    if os.path.exists(options.out + "/state.pt"):
        state = torch.load(options.out + "/state.pt", map_location=options.device, weights_only=False)
        say("going on:", {stage: round(seconds) for stage, seconds in state["used"].items()})

    simulation = simulate(options)
    pool = multiprocessing.get_context("spawn").Pool(max(1, min(8, (os.cpu_count() or 2) // 2)))
    n_features, n_edge = len(ev.FEATURES), len(ev.EDGE_FEATURES)
    nets = {"embed": networks.Embedding(n_features), "filter": networks.Filter(n_features, n_edge),
            "gnn": networks.Interaction(n_features, n_edge)}
    if options.device == "cuda" and not options.eager:
        nets["filter"].mlp.compile(dynamic=True)
    for stage, net in nets.items():
        net.to(options.device)
        if stage in state:
            net.load_state_dict(state[stage])
        net.eval()
    known, looked = {}, [time.time()]

    def more_events(samples):
        """While the simulation runs, take its new events every 20 s."""
        if time.time() - looked[0] > 20 and simulation is not None and len(known) < options.events:
            load_all(pool, options, known, simulation, 0)
            looked[0] = time.time()
            return list(known.values())
        return samples

    load_all(pool, options, known, simulation, min(options.events, 24))
    say(len(known), "events to begin with,", int(np.mean([len(e["r"]) for e in known.values()])), "points on average")
    validation = [ev.to_device(p, options.device)
                  for p in pool.imap(ev.load, [[p] for p in sorted(glob.glob(options.data + "/validation/*.npz.xz"))])]
    if not train_stage("embed", nets["embed"], list(known.values()), embed_step, state, options, more_events):
        return
    if simulation is not None:
        simulation.wait()
    load_all(pool, options, known, None, 1)
    say(len(known), "events")

    build = lambda event: graph.radius_graph(event, nets["embed"], RADIUS)
    checks = []
    for event in validation:
        for r in (0.4, 0.45, RADIUS):
            edges = graph.radius_graph(event, nets["embed"], r)
            checks.append({"r": r, "edges": edges.shape[1], "efficiency": target_efficiency(event, edges)})
    for r in (0.4, 0.45, RADIUS):
        say("radius graph", {k: round(v, 4) for k, v in mean_of([c for c in checks if c["r"] == r]).items()})
    samples = []
    for event in known.values():
        edges = build(event)
        samples.append((event, edges, ev.is_true(event, edges)))
    say("graphs built,", int(np.mean([s[1].shape[1] for s in samples])), "edges on average")
    if not train_stage("filter", nets["filter"], samples, filter_step, state, options):
        return

    validation_graphs = [(event, build(event)) for event in validation]
    logits = [score_edges(nets["filter"], event, edges, options) for event, edges in validation_graphs]
    ranked = torch.cat(logits).sort(descending=True).values
    points = sum(len(event["r"]) for event in validation)
    for per_point in (2.0, 2.5, 3.0, 3.3, 3.6, 4.0, options.edges_per_point):
        cut = ranked[min(len(ranked) - 1, int(per_point * points))].item()
        kept = [target_efficiency(event, edges[:, l > cut]) for (event, edges), l in zip(validation_graphs, logits)]
        say(f"filter at {per_point} edges per point: cut {1 / (1 + math.exp(-cut)):.5f}, efficiency {np.mean(kept):.4f}")
    state["filter_cut"] = 1 / (1 + math.exp(-cut))
    thinned = []
    for event, edges, _ in samples:
        edges = edges[:, score_edges(nets["filter"], event, edges, options) > cut]
        thinned.append((event, edges, ev.is_true(event, edges)))
    del samples
    if options.device == "cuda":
        torch.cuda.empty_cache()
    say("gnn graphs:", int(np.mean([s[1].shape[1] for s in thinned])), "edges on average")
    done = train_stage("gnn", nets["gnn"], thinned, gnn_step, state, options)

    validation_graphs = [(e, edges[:, l > cut]) for (e, edges), l in zip(validation_graphs, logits)]
    rows = []
    for event, edges in validation_graphs:
        logit = score_edges(nets["gnn"], event, edges, options, chunk=1 << 40)
        score = logit.sigmoid()
        for edge_cut in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
            kept = edges[:, score > edge_cut]
            pick = graph.best_edges(kept, score[score > edge_cut], len(event["r"]))
            for builder, chosen in (("best_edges", kept[:, pick]), ("components", kept)):
                figures = graph.physics(event, graph.components(chosen, len(event["r"])))
                rows.append({"builder": builder, "cut": edge_cut, "edge_efficiency": target_efficiency(event, kept),
                             **figures})
    table = []
    for builder in ("best_edges", "components"):
        for edge_cut in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
            mean = mean_of([{k: v for k, v in r.items() if k not in ("builder", "cut")} for r in rows
                            if r["builder"] == builder and r["cut"] == edge_cut])
            table.append({"builder": builder, "cut": edge_cut, **{k: round(v, 5) for k, v in mean.items()}})
            say(table[-1])
    with open(options.out + "/validation.json", "w") as file:
        json.dump(table, file, indent=1)
    export.write_model(f"{options.out}/{options.name}.safetensors", nets, options.name, options.version, RADIUS,
                       state["filter_cut"])
    say("done" if done else "gnn budget not used up: call again", "— model written")


if __name__ == "__main__":
    main()
