# SPDX-License-Identifier: Apache-2.0
"""What the training decides by its validation events: radius and cut of the filter. Each table lists the alternatives, so
that the choice can be judged, and the new networks beside the teacher's.

Efficiency of edges: share of the true edges of particles above PT_MIN that are there; `far`: of those particles among
them that were made far from the beam line (events.py).
"""
import math

import numpy as np
import torch

import events as ev
import graph

PT_MIN = 0.9                        # GeV
RADII = [round(0.30 + 0.02 * i, 2) for i in range(16)]
PER_POINT = (2.0, 2.5, 3.0, 3.3, 3.6, 4.0)
EDGE_CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


def mean_of(rows):
    return {key: round(float(np.mean([row[key] for row in rows])), 5) for key in rows[0]}


def found_of(event, edges):
    """(wanted [2, W], found [W]): the true edges of particles above PT_MIN, and which of them are among `edges`."""
    wanted, n = event["truth"][:, event["truth_pt"] > PT_MIN], len(event["r"])
    return wanted, torch.isin(wanted[0] * n + wanted[1], edges[0].long() * n + edges[1].long())


def efficiencies(event, edges):
    """{"efficiency", "far"} of these edges."""
    _, found = found_of(event, edges)
    far = event["truth_far"][event["truth_pt"] > PT_MIN]
    return {"efficiency": found.float().mean().item(),
            "far": found[far].float().mean().item() if far.any() else math.nan}


@torch.no_grad()
def radius_table(events, embedding, radii=RADII):
    """One row for each radius: edges of the radius graph on average, their efficiency."""
    rows = {r: [] for r in radii}
    for event in events:
        edges, place = graph.radius_graph(event, embedding, max(radii)), graph.embed(event, embedding)
        length = lambda pair: (place[pair[0].long()] - place[pair[1].long()]).norm(dim=1)
        wanted, found = found_of(event, edges)
        far = event["truth_far"][event["truth_pt"] > PT_MIN]
        all_lengths, lengths = length(edges), torch.where(found, length(wanted), 9.0)
        for r in radii:
            near, edge_count = (lengths <= r).float(), (all_lengths <= r).sum().item()
            rows[r].append({"r": r, "edges": edge_count, "per_point": edge_count / len(event["r"]),
                            "efficiency": near.mean().item(),
                            "far": near[far].mean().item() if far.any() else math.nan})
    return [mean_of(rows[r]) for r in radii]


def edges_for(table, efficiency):
    """Edges that this embedding takes for such an efficiency; infinite where it never gets there."""
    if table[-1]["efficiency"] < efficiency:
        return math.inf
    return float(np.exp(np.interp(efficiency, [row["efficiency"] for row in table],
                                  np.log([max(row["edges"], 1) for row in table]))))


def radius_for(table, efficiency):
    """The smallest radius of the table with that efficiency, else the largest."""
    return next((row["r"] for row in table if row["efficiency"] >= efficiency), table[-1]["r"])


def at_edges(table, per_point, column):
    """A column of the table where graphs have so many edges per point, between its rows; beyond them the last's."""
    edges = np.log([max(row["per_point"], 1e-9) for row in table])
    return round(float(np.interp(math.log(per_point), edges, [row[column] for row in table])), 5)


def filter_table(graphs, logits, extra=()):
    """Rows for numbers of kept edges per point: the cut on the logit that leaves so many, efficiency."""
    ranked = torch.cat(logits).sort(descending=True).values
    points = sum(len(event["r"]) for event, _ in graphs)
    rows = []
    for per_point in sorted({*PER_POINT, *extra}):
        cut = ranked[min(len(ranked) - 1, int(per_point * points))].item()
        kept = [efficiencies(event, edges[:, logit > cut]) for (event, edges), logit in zip(graphs, logits)]
        rows.append({"per_point": per_point, "logit": cut, "cut": round(1 / (1 + math.exp(-cut)), 6), **mean_of(kept)})
    return rows


def track_table(graphs, logits, cuts=EDGE_CUTS, builders=("best_edges", "components")):
    """Rows for builders and cuts: efficiency, fakes, impure share of components (graph.physics), averaged."""
    rows = []
    for (event, edges), logit in zip(graphs, logits):
        score = logit.sigmoid()
        for cut in cuts:
            kept = edges[:, score > cut]
            for builder in builders:
                chosen = kept
                if builder == "best_edges":
                    chosen = kept[:, graph.best_edges(kept, score[score > cut], len(event["r"]))]
                rows.append((builder, cut, {"edge_efficiency": efficiencies(event, kept)["efficiency"],
                                            **graph.physics(event, graph.components(chosen, len(event["r"])))}))
    return [{"builder": builder, "cut": cut, **mean_of([row for b, c, row in rows if (b, c) == (builder, cut)])}
            for builder in builders for cut in cuts]


@torch.no_grad()
def score_edges(net, event, edges, chunk=2_000_000):
    """[E] logits of a filter; of an interaction network with chunk=None (it needs the whole graph)."""
    parts, device = [], event["r"].device.type
    for piece in edges.split(chunk or max(1, edges.shape[1]), dim=1):
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            parts.append(net(event["features"], piece.long(), ev.edge_features(event, piece)).float())
    return torch.cat(parts)
