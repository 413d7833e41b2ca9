# SPDX-License-Identifier: Apache-2.0
"""Radius graph, track building and physics figures in PyTorch: the training's own copies of what the engine does in C.

They exist so that networks are trained and cuts chosen on the very graphs that the engine will build; the figures of a
model card are taken with the engine and `trackmill score`.
"""
import math

import torch

EDGES_MAX = 100_000_000         # per event: an embedding that gives more has not been trained
CUTS = {"dphi_max": 0.5, "z0_max": 500.0, "z0_min_dr": 20.0}


@torch.no_grad()
def radius_graph(event, embedding, r, chunk=4096):
    """[2, E] int32 edges outward by rho, behind the geometric cuts of the model file; in no order."""
    place = embed(event, embedding)
    rho, order = event["rho"].sort()
    place, parts = place[order], []
    for start in range(0, len(rho), chunk):     # ordered by rho: targets lie behind their sources
        found = (place[start:start + chunk] @ place[start:].t() >= 1 - r * r / 2).nonzero() + start
        found = found[rho[found[:, 0]] < rho[found[:, 1]]]
        a, b = order[found[:, 0]], order[found[:, 1]]
        dphi = event["phi"][b] - event["phi"][a]
        dphi = dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi))
        dr, dz = event["r"][b] - event["r"][a], event["z"][b] - event["z"][a]
        z0 = event["z"][a] - event["r"][a] * dz / dr.clamp(min=1e-3)
        keep = (dphi.abs() < CUTS["dphi_max"]) & ((z0.abs() < CUTS["z0_max"]) | (dr < CUTS["z0_min_dr"]))
        parts.append(torch.stack([a[keep], b[keep]]).int())
        if sum(part.shape[1] for part in parts) > EDGES_MAX:
            raise OverflowError(f"more than {EDGES_MAX} edges within {r}: the embedding has not been trained")
    return torch.cat(parts, dim=1)


@torch.no_grad()
def embed(event, embedding):
    """[N, 8] float32: where the embedding puts the points."""
    with torch.autocast(event["r"].device.type, dtype=torch.float16, enabled=event["r"].is_cuda):
        return embedding(event["features"])


def best_edges(edges, score, n, rounds=64):
    """Edges that are the best both of their source and of their target among those still free, repeatedly."""
    device = score.device
    taken = torch.zeros(len(score), dtype=torch.bool, device=device)
    no_out, no_in = (torch.ones(n, dtype=torch.bool, device=device) for _ in range(2))
    left = torch.arange(len(score), device=device)
    for _ in range(rounds):
        a, b = edges[0][left].long(), edges[1][left].long()
        free = no_out[a] & no_in[b]
        left, a, b = left[free], a[free], b[free]
        if len(left) == 0:
            break
        s = score[left]
        best_out = torch.full((n,), -1e9, device=device).scatter_reduce(0, a, s, "amax")
        best_in = torch.full((n,), -1e9, device=device).scatter_reduce(0, b, s, "amax")
        pick = (s >= best_out[a]) & (s >= best_in[b])
        taken[left[pick]] = True
        no_out[a[pick]] = False
        no_in[b[pick]] = False
    return taken


def components(edges, n):
    """Least vertex of each vertex's component."""
    label = torch.arange(n, device=edges.device)
    a, b = edges[0].long(), edges[1].long()
    while True:
        least = torch.minimum(label[a], label[b])
        new = label.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
        new = new[new][new[new]]
        if torch.equal(new, label):
            return label
        label = new


def physics(event, label, pt_min=0.9, eta_max=4.0, min_points=3):
    """Double majority on first particles: dict of efficiency, fakes (majority pT > pt_min) and impure share."""
    pid, device = event["pid"].long(), label.device
    _, track = torch.unique(label, return_inverse=True)
    size = torch.bincount(track)
    n_particles = len(event["p_pt"])
    pair, count = torch.unique(track * (n_particles + 1) + pid + 1, return_counts=True)
    of_track, of_particle = pair // (n_particles + 1), pair % (n_particles + 1) - 1
    real = of_particle >= 0
    of_track, of_particle, count = of_track[real], of_particle[real], count[real]
    hits = torch.bincount(pid[pid >= 0], minlength=n_particles)
    most = torch.zeros_like(size).scatter_reduce(0, of_track, count, "amax")
    long = size >= min_points
    major = count == most[of_track]
    good = major & (count * 2 > size[of_track]) & (count * 2 > hits[of_particle]) & long[of_track]
    wanted = (event["p_pt"] > pt_min) & (event["p_eta"].abs() < eta_max) & event["p_good"] & (hits >= 3)
    found = torch.zeros(n_particles, dtype=torch.bool, device=device)
    found[of_particle[good]] = True
    matched = torch.zeros(len(size), dtype=torch.bool, device=device)
    matched[of_track[good]] = True
    majority_pt = torch.zeros(len(size), device=device)
    majority_pt[of_track[major]] = event["p_pt"][of_particle[major]]
    high = long & (majority_pt > pt_min)
    impure = long & (most * 2 <= size)
    ratio = lambda a, b: a.sum().item() / max(1, b.sum().item())
    return {"efficiency": ratio(found & wanted, wanted), "fakes": ratio(high & ~matched, high),
            "impure": ratio(impure, long), "particles": wanted.sum().item()}
