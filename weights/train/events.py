# SPDX-License-Identifier: Apache-2.0
"""Events for training: reading, features, truth edges, and mixing.

An event is a dict of tensors, all on one device:
  features [N, F]   scaled node features, in the order of FEATURES
  r phi z rho eta   [N] mm, rad, mm, mm, -
  vertex [N]        number of the primary vertex of the first particle (for thinning)
  pid [N]           first particle of the point; pt [N] its transverse momentum, GeV
  far [N]           1 where that particle is p_good and made more than FAR from the beam line
  p_pt p_eta p_good p_hits   [P] per particle; p_good: charged and from the generator
  truth [2, T]      edges between consecutive points of one particle, outward by rho
  truth_pt truth_far [T]   pT of that particle; whether it is far
  plain             whether a model of such events as simulate.py makes them, near z = 0, may teach here
"""
import io
import lzma
import math
import os

import numpy as np
import torch

import robust

FAR = 30.0                          # mm
#   Half of the varied events have modules out of place (width of the shifts, mm), a third lose a share of their points.
MISALIGNED, SHIFT = 0.5, (0.01, 0.07)
LOSSY, LOST = 0.33, (0.0, 0.06)
#   The node features of the model file, with their scales (docs/model-file.md).
FEATURES = [("r", 1000.0), ("phi", math.pi), ("z", 1000.0), ("cos_phi", 1.0), ("sin_phi", 1.0), ("eta", 4.0),
            ("size_loc0", 10.0), ("size_loc1", 10.0), ("log_charge", 5.0)]
EDGE_FEATURES = [("dr", 100.0, 0.0), ("dphi", 0.1, 0.0), ("dz", 100.0, 0.0), ("deta", 0.2, 0.0), ("z0", 50.0, 10.0),
                 ("curvature", 1 / 3000.0, 10.0)]


def read(path):
    """The arrays of one simulated event (.npz.xz)."""
    with lzma.open(path) as file:
        archive = np.load(io.BytesIO(file.read()))
        return {name: archive[name] for name in archive.files}


def overlay(event, extra):
    """One event with the points of both: a particle gun event laid over a collision event."""
    shift_p, shift_n = len(event["p_pdg"]), len(event["x_um"])
    joined = {}
    for name in event:
        a, b = event[name], extra[name]
        if name in ("particle", "extra_particle"):
            a, b = a.astype(np.int32), b.astype(np.int32) + shift_p
        elif name == "extra_hit":
            b = b + shift_n
        elif name == "p_vertex":
            b = b + (event["p_vertex"].max() if shift_p else 0)
        joined[name] = np.concatenate([a, b])
    return joined


def vary(raw, seed):
    """A training event as a real detector would give it, often: modules out of place, points lost. (event, varied)"""
    random = np.random.default_rng(seed)
    misaligned, lossy = random.random(2) < (MISALIGNED, LOSSY)
    if misaligned:
        raw = robust.misalign(raw, random, random.uniform(*SHIFT))
    if lossy:
        raw = robust.drop_points(raw, random, random.uniform(*LOST))
    return raw, bool(misaligned)


def pack(raw):
    """numpy arrays of one event -> float32 and int32 arrays that become tensors; no GPU needed."""
    x, y, z = (raw[f"{axis}_um"].astype(np.float32) / np.float32(1000) for axis in "xyz")
    charge = (raw["charge_e3"] / 1000).astype(np.float16).astype(np.float32)    # as it travels on the wire
    r = np.hypot(x, y)
    eta = np.arcsinh(z / np.maximum(r, 1e-3))
    one = np.maximum(r, 1e-12)
    columns = {"r": r, "phi": np.arctan2(y, x), "z": z, "cos_phi": x / one, "sin_phi": y / one, "eta": eta,
               "size_loc0": raw["size_loc0"], "size_loc1": raw["size_loc1"], "log_charge": np.log1p(charge)}
    rho = np.hypot(r, z)
    point = np.concatenate([np.arange(len(x)), raw["extra_hit"]]).astype(np.int64)
    owner = np.concatenate([raw["particle"], raw["extra_particle"]]).astype(np.int64)
    point, owner = point[owner >= 0], owner[owner >= 0]
    order = np.lexsort((point, rho[point], owner))
    point, owner = point[order], owner[order]
    same = owner[1:] == owner[:-1]
    pt = np.hypot(raw["p_px"], raw["p_py"])
    first = np.maximum(raw["particle"].astype(np.int64), 0)
    has = raw["particle"] >= 0
    good = (raw["p_process"] == 0) & (raw["p_q"] != 0)
    p_far = good & (np.hypot(raw["p_vx"], raw["p_vy"]) > FAR)
    packed = {"features": np.stack([columns[name] / np.float32(scale) for name, scale in FEATURES], axis=1),
              "r": r, "phi": columns["phi"], "z": z, "rho": rho, "eta": eta,
              "vertex": np.where(has, raw["p_vertex"][first], 0).astype(np.int32),
              "pid": np.where(has, first, -1).astype(np.int32), "pt": np.where(has, pt[first], 0),
              "far": has & p_far[first],
              "p_pt": pt, "p_eta": np.arcsinh(raw["p_pz"] / np.maximum(pt, 1e-6)),
              "p_good": good,
              "p_hits": np.bincount(owner, minlength=len(pt)).astype(np.int32),
              "truth": np.stack([point[:-1][same], point[1:][same]]), "truth_pt": pt[owner[:-1][same]],
              "truth_far": p_far[owner[:-1][same]]}
    return {name: np.ascontiguousarray(a.astype(np.float32) if a.dtype == np.float64 else a)
            for name, a in packed.items()}


def load(work):
    """One packed event: work is (files, seed, pixels): a collision file, gun files to lay over it, the seed of what
    happens to it in the detector (None: nothing), and whether its points on strips are left out. Runs in a worker
    process."""
    paths, seed, pixels = work
    raw, varied = read(paths[0]), False
    for path in paths[1:]:
        raw = overlay(raw, read(path))
    if pixels:
        raw = robust.on_pixels(raw)
    if seed is not None:
        raw, varied = vary(raw, seed)
    return {**pack(raw), "plain": not varied and not os.path.dirname(paths[0]).endswith("_wide")}


def to_device(packed, device):
    event = {name: torch.from_numpy(array).to(device) for name, array in packed.items() if name != "plain"}
    event["plain"] = packed["plain"]
    event["truth"] = event["truth"].long()
    event["truth_key"] = (event["truth"][0] * len(event["r"]) + event["truth"][1]).sort().values
    return event


def turned(event, random):
    """The event turned about the beam line by any angle, and mirrored in z half of the time: what a point's place says
    by itself is then worth less. What a teacher says of it is left out."""
    mirror, angle = (-1 if random.random() < 0.5 else 1), random.uniform(-math.pi, math.pi)
    phi = event["phi"] + angle
    phi = phi - 2 * math.pi * torch.round(phi / (2 * math.pi))
    new = {"phi": phi, "cos_phi": phi.cos(), "sin_phi": phi.sin(), "z": mirror * event["z"], "eta": mirror * event["eta"]}
    features = event["features"].clone()
    for column, (name, scale) in enumerate(FEATURES):
        if name in new:
            features[:, column] = new[name] / scale
    return {**{name: value for name, value in event.items() if name != "taught"}, "features": features,
            **{name: new[name] for name in ("phi", "z", "eta")}}


def is_true(event, edges):
    """Which edges join consecutive points of one particle."""
    key = edges[0].long() * len(event["r"]) + edges[1].long()
    truth = event["truth_key"]
    place = torch.searchsorted(truth, key).clamp(max=len(truth) - 1)
    return truth[place] == key


def edge_features(event, edges):
    """[E, 6] as docs/model-file.md defines them."""
    a, b = edges[0].long(), edges[1].long()
    dr, dz = event["r"][b] - event["r"][a], event["z"][b] - event["z"][a]
    dphi = event["phi"][b] - event["phi"][a]
    dphi = dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi))
    run = torch.where(dr < 0, -1.0, 1.0) * dr.abs().clamp(min=2.0)
    raw = {"dr": dr, "dphi": dphi, "dz": dz, "deta": event["eta"][b] - event["eta"][a],
           "z0": event["z"][a] - event["r"][a] * dz / run, "curvature": dphi / run}
    columns = []
    for name, scale, clamp in EDGE_FEATURES:
        value = raw[name] / scale
        columns.append(value.clamp(-clamp, clamp) if clamp else value)
    return torch.stack(columns, dim=1)
