#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Simulated collision events from three Python packages: pip install pyacts==48.1.0 pythia8mc==8.317.2 numpy

Pythia 8 (one ttbar collision and Poisson(mu) inelastic ones, 14 TeV) -> ACTS Fatras in the Generic detector, 2 T ->
channel-level digitisation -> space points, one per measurement -> one .npz.xz file per event, in the format that the
docs/formats.md describes.

    simulate.py --mu 200 --events 20 --out pu200            # ttbar + pile-up
    simulate.py --gun 13 --count 10 --pt 0.5 50 --out few   # ten muons of either charge from one vertex
    simulate.py --mu 0 --jets 60 --out jets                 # two jets alone, of 60 GeV and far more
    simulate.py --gun 211 --count 20 --decay 300 --out far  # twenty pairs of pions, made up to 300 mm off the beam line

An event depends on --seed and its number alone, not on the number of threads or processes: every event starts its own
random streams. Lengths are in mm, energies in GeV throughout (the units of both Pythia and ACTS).
"""
import argparse
import io
import json
import lzma
import multiprocessing
import os
import tempfile
import threading
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore", module="acts")
import acts
import acts.examples as ex
import acts.examples.json as ex_json
import acts.json as acts_json
from acts.fatras import Barcode

#   Readout of the Generic detector: volume -> (pitch along local 0, pitch along local 1), mm
PITCH = {volume: pitch for volumes, pitch in (((7, 8, 9), (0.05, 0.05)), ((12, 13, 14), (0.08, 1.2)),
                                              ((16, 17, 18), (0.12, 10.6))) for volume in volumes}
CHARGE_NOISE = 0.01                 # Gaussian smearing of each cell's charge, in mm of path; below 0 the cell is lost
BEAM_SPOT = (0.01, 0.01)            # Gaussian width of the vertices in x and y, mm; in z: --beam-z
PT_MIN, ETA_MAX, R_MAX = 0.1, 4.0, 1000.0
Z_MAX = 3000.0                      # end of the detector's volumes: Fatras cannot start outside
DECAY_Z, DECAY_ANGLE = 1000.0, 0.15 # --decay: longest flight along z, mm; width in phi and eta about the flight
SILICON = (14, 8.2768450e-5)        # atomic number, molar density in mol/mm^3 (2.32 g/cm^3 / 28.03 g/mol)
QUIET = acts.logging.WARNING
TTBAR = ["Top:gg2ttbar = on", "Top:qqbar2ttbar = on"]


# ---- detector ------------------------------------------------------------------------------------------------------

def build_detector(directory, thin_silicon=False):
    """The Generic detector. The package gives its silicon a density 1000 times too small (so almost no ionisation
    loss; radiation length and hence scattering are right): write its material map, correct it, put it back."""
    detector = ex.GenericDetector(logLevel=QUIET)
    if thin_silicon:
        return detector
    geometry, converter = detector.trackingGeometry(), acts_json.MaterialMapJsonConverter.Config()
    stem = os.path.join(directory, "material")
    ex_json.JsonMaterialWriter(level=QUIET, converterCfg=converter, fileName=stem,
                               writeFormat=ex_json.JsonFormat.Json).write(geometry)
    with open(stem + ".json") as file:
        material_map = json.load(file)
    for entry in material_map["Surfaces"]["entries"]:
        entry["value"].pop("bounds", None)
        for slab in (slab for row in entry["value"]["material"]["data"] for slab in row):
            if slab["material"][3] == SILICON[0]:
                slab["material"][4] = SILICON[1]
    with open(stem + ".json", "w") as file:
        json.dump(material_map, file)
    decorator = acts_json.JsonMaterialDecorator(rConfig=converter, jFileName=stem + ".json", level=QUIET)
    for surface in geometry.geoIdSurfaceMap().values():     # given to the constructor it would miss some layers
        decorator.decorate(surface)
    return detector


def write_digitisation(geometry, path):
    """Write the channel grid of every module as ACTS's JSON. One entry serves a volume whose modules are all alike;
    the strip endcaps have rings of different trapezoids and get one entry per module."""
    extent = {volume: {} for volume in PITCH}
    for identifier, surface in geometry.geoIdSurfaceMap().items():
        if identifier.sensitive and identifier.volume in PITCH:
            bounds = surface.bounds.values()
            if isinstance(surface.bounds, acts.TrapezoidBounds):    # half widths at either end, half length
                half = (max(bounds[0], bounds[1]), bounds[2])
            else:                                                   # x min, y min, x max, y max
                half = (bounds[2], bounds[3])
            place = (identifier.layer, identifier.sensitive)
            extent[identifier.volume][place] = (round(half[0], 4), round(half[1], 4), round(surface.thickness, 4))
    entries = []
    for volume, modules in extent.items():
        same = len(set(modules.values())) == 1
        for (layer, module), (half0, half1, thickness) in list(modules.items())[:1 if same else None]:
            grid = [{"bins": round(2 * half / pitch), "min": -half, "max": half, "option": "open",
                     "type": "equidistant", "value": name}
                    for half, pitch, name in zip((half0, half1), PITCH[volume], ("binX", "binY"))]
            geometric = {"indices": [0, 1], "segmentation": {"binningdata": grid}, "thickness": thickness,
                         "threshold": 0.0, "digital": False,
                         "charge-smearing": {"type": "Gauss", "mean": 0.0, "stddev": CHARGE_NOISE}}
            where = {"volume": volume} if same else {"volume": volume, "layer": layer, "sensitive": module}
            entries.append({**where, "value": {"geometric": geometric}})
    with open(path, "w") as file:
        json.dump({"acts-geometry-hierarchy-map": {"format-version": 0, "value-identifier":
                                                   "digitization-configuration"}, "entries": entries}, file)


# ---- generation ----------------------------------------------------------------------------------------------------

def make_pythia(settings, max_ctau):
    """A quiet Pythia for proton-proton collisions at 14 TeV; particles with c tau above max_ctau (mm) stay stable.
    Without max_ctau Pythia's own rule holds: all with c tau < 1 m decay, K0S and hyperons where their life ends."""
    import pythia8mc
    pythia = pythia8mc.Pythia("", False)
    lines = ["Print:quiet = on", "Beams:eCM = 14000.", "Random:setSeed = on", "Random:seed = 1"] + settings
    if max_ctau is not None:
        lines += ["ParticleDecays:limitTau0 = on", f"ParticleDecays:tau0Max = {max_ctau}"]
    for line in lines:
        pythia.readString(line)
    if not pythia.init():
        raise RuntimeError("Pythia did not start")
    return pythia


def jets_from(pt_min):
    """Settings for two jets of pt_min (GeV) and more: (pT / pt_min)^4 as often as they are."""
    return ["HardQCD:all = on", f"PhaseSpace:pTHatMin = {pt_min}", "PhaseSpace:bias2Selection = on",
            "PhaseSpace:bias2SelectionPow = 4", f"PhaseSpace:bias2SelectionRef = {pt_min}"]


class Generator(ex.IAlgorithm):
    """Puts the particles of one event into "particles_generated": collisions, or a particle gun (option --gun)."""

    def __init__(self, options):
        ex.IAlgorithm.__init__(self, "Generator", QUIET)
        self.options, self.lock = options, threading.Lock()
        self.output = ex.WriteDataHandle(self, ex.SimParticleContainer, "OutputParticles")
        self.output.initialize("particles_generated")
        if options.gun is None:
            self.hard = make_pythia(TTBAR if options.jets is None else jets_from(options.jets), options.max_ctau)
            self.soft = make_pythia(["SoftQCD:inelastic = on"], options.max_ctau) if options.mu > 0 else None

    def collisions(self, random):
        """Yields (vertex number, vertex, code, charge, mass, position from the vertex, time, momentum)."""
        seeds = random.integers(1, 900_000_000, 2)
        number = random.poisson(self.options.mu)
        for vertex_number in range(1, number + 2):
            pythia = self.hard if vertex_number == 1 else self.soft
            if vertex_number <= 2:
                pythia.rndm.init(int(seeds[vertex_number - 1]))
            vertex = random.normal(0.0, (*BEAM_SPOT, self.options.beam_z))
            while not pythia.next():        # a failed try; Pythia has counted and reported it
                pass
            for p in pythia.event:
                if p.isFinal() and p.pT() > PT_MIN and (p.isCharged() or p.id() == 22) and abs(p.eta()) < ETA_MAX:
                    place = (p.xProd(), p.yProd(), p.zProd())
                    if (np.hypot(vertex[0] + place[0], vertex[1] + place[1]) < R_MAX
                            and abs(vertex[2] + place[2]) < Z_MAX):
                        yield (vertex_number, vertex, p.id(), p.charge(), p.m(), place, p.tProd(),
                               (p.px(), p.py(), p.pz()))

    def gun(self, random):
        """Yields particles of either charge from one vertex, pT log-uniform, eta and phi uniform; with --decay pairs
        of opposite charge from places that something neutral might have reached from there."""
        options, mass = self.options, {11: 0.000511, 13: 0.10565837, 211: 0.13957039, 321: 0.493677, 2212: 0.93827209}
        vertex = random.normal(0.0, (*BEAM_SPOT, self.options.beam_z))
        for _ in range(options.count):
            pt = np.exp(random.uniform(*np.log(options.pt)))
            eta, phi = random.uniform(-options.eta, options.eta), random.uniform(-np.pi, np.pi)
            sign = random.choice((-1, 1))
            place, made = (0.0, 0.0, 0.0), [(sign, pt, eta, phi)]
            if options.decay is not None:
                flight = random.uniform(0, min(options.decay, DECAY_Z / max(abs(np.sinh(eta)), 1e-3)))
                place = tuple(float(flight * c) for c in (np.cos(phi), np.sin(phi), np.sinh(eta)))
                made = [(s, pt * random.uniform(0.5, 1.5), *random.normal((eta, phi), DECAY_ANGLE))
                        for s in (sign, -sign)]
            for sign, pt, eta, phi in made:
                charge = -sign if options.gun in (11, 13) else sign
                yield (1, vertex, int(sign * options.gun), float(charge), mass[options.gun], place, 0.0,
                       (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)))

    def execute(self, context):
        random = np.random.default_rng([self.options.seed, context.eventNumber])
        source = self.collisions if self.options.gun is None else self.gun
        particles, serial, secondary = ex.SimParticleContainer(), {}, {}
        with self.lock:     # ACTS may run this for several events at a time; there is one Pythia
            generated = list(source(random))
        for vertex_number, vertex, code, charge, mass, place, when, momentum in generated:
            #   Barcode: vertex, displaced vertex within it (0: none), number of the particle there
            if place == (0.0, 0.0, 0.0):
                displaced = 0
            else:
                places = secondary.setdefault(vertex_number, {})
                displaced = places.setdefault(place, len(places) + 1)
            serial[vertex_number, displaced] = serial.get((vertex_number, displaced), 0) + 1
            barcode = Barcode()
            barcode.vertexPrimary = vertex_number
            barcode.vertexSecondary = displaced
            barcode.particle = serial[vertex_number, displaced]
            magnitude = float(np.sqrt(momentum[0] ** 2 + momentum[1] ** 2 + momentum[2] ** 2))
            particle = ex.SimParticle(barcode, acts.PdgParticle(code), charge, mass)
            particle.fourPosition = acts.Vector4(*(float(a + b) for a, b in zip(vertex, place)), when)
            particle.direction = acts.Vector3(*(float(c) / magnitude for c in momentum))
            particle.absoluteMomentum = magnitude
            particles.insert(particle)
        self.output(context, particles)     # the handle takes the container: do not touch it afterwards
        return ex.ProcessCode.SUCCESS


# ---- output --------------------------------------------------------------------------------------------------------

class EventWriter(ex.IAlgorithm):
    """Gathers space points, clusters and truth from the event store and writes one .npz.xz file."""
    INPUTS = {"points": (acts.SpacePointContainer, "spacepoints"), "clusters": (ex.ClusterContainer, "clusters"),
              "hits": (ex.SimHitContainer, "simhits"), "particles": (ex.SimParticleContainer, "particles_simulated"),
              "links": (ex.MeasurementSimHitsMap, "measurement_simhits_map")}

    def __init__(self, options, directory):
        ex.IAlgorithm.__init__(self, "EventWriter", QUIET)
        self.options, self.directory, self.last = options, directory, time.time()
        self.handles = {}
        for name, (kind, key) in self.INPUTS.items():
            self.handles[name] = ex.ReadDataHandle(self, kind, name)
            self.handles[name].initialize(key)

    def cell_counts(self, event, number):
        """Cells per measurement: the cluster's channels are not visible from Python, so count them in ACTS's CSV."""
        stem = os.path.join(self.directory, f"event{event:09d}-")
        with open(stem + "cells.csv") as file:
            column = file.readline().strip().split(",").index("measurement_id")
            owner = (np.loadtxt(file, delimiter=",", usecols=column, dtype=np.int64, ndmin=1) if number
                     else np.zeros(0, np.int64))
        for name in ("cells", "measurements", "measurement-simhit-map"):
            os.remove(stem + name + ".csv")
        return np.bincount(owner, minlength=number)

    def execute(self, context):
        event = context.eventNumber
        read = {name: handle(context.eventStore) for name, handle in self.handles.items()}
        #   Space points -> measurements -> clusters (same index) -> hits -> particles
        sources = [ex.IndexSourceLink.fromSourceLink(next(point.sourceLinks)) for point in read["points"]]
        measurement = np.array([source.index() for source in sources], np.int64)
        identifier = np.array([source.geometryId().value for source in sources], np.uint64)
        position = np.stack([np.asarray(getattr(read["points"], axis), float) for axis in "xyz"], axis=1)
        shape = np.array([(c.sizeLoc0, c.sizeLoc1, c.sumActivations()) for c in read["clusters"]]).reshape(-1, 3)
        cells = self.cell_counts(event, len(shape))
        hits = [(hit.particleId, hit.index) for hit in read["hits"]]
        pairs = np.array(list(read["links"]), np.int64).reshape(-1, 2)          # (measurement, hit)
        used = sorted({hits[h][0] for h in pairs[:, 1]}, key=barcode_fields)
        rank = {barcode: number for number, barcode in enumerate(used)}
        particle_of, order_of = np.array([(rank.get(b, -1), i) for b, i in hits], np.int64).reshape(-1, 2).T

        volume = (identifier >> np.uint64(56)).astype(np.uint8)
        layer = ((identifier >> np.uint64(36)) & np.uint64(0xFFF)).astype(np.uint8)
        module = ((identifier >> np.uint64(8)) & np.uint64(0xFFFFF)).astype(np.uint16)
        rows = np.lexsort((measurement, module, layer, volume))
        row_of = np.full(len(shape), -1)
        row_of[measurement[rows]] = np.arange(len(rows))
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        first = np.unique(pairs[:, 0], return_index=True)[1]
        first_hit = np.full(len(shape), -1)
        first_hit[pairs[first, 0]] = pairs[first, 1]
        extra = np.delete(pairs, first, axis=0)
        extra = extra[particle_of[extra[:, 1]] != particle_of[first_hit[extra[:, 0]]]]
        extra = extra[np.argsort(row_of[extra[:, 0]], kind="stable")]

        measurement = measurement[rows]
        micrometre = np.rint(position[rows] * 1000).astype(np.int32)
        index_type = np.int16 if len(used) < 32768 else np.int32
        event_data = {
            "x_um": micrometre[:, 0], "y_um": micrometre[:, 1], "z_um": micrometre[:, 2],
            "volume": volume[rows], "layer": layer[rows], "module": module[rows],
            "n_cells": np.minimum(cells[measurement], 255).astype(np.uint8),
            "size_loc0": np.minimum(shape[measurement, 0], 255).astype(np.uint8),
            "size_loc1": np.minimum(shape[measurement, 1], 255).astype(np.uint8),
            "charge_e3": np.minimum(np.rint(shape[measurement, 2] * 1000), 65535).astype(np.uint16),
            "particle": particle_of[first_hit[measurement]].astype(index_type),
            "order": order_of[first_hit[measurement]].astype(np.uint8),
            "extra_hit": row_of[extra[:, 0]].astype(np.int32),
            "extra_particle": particle_of[extra[:, 1]].astype(np.int32)}
        event_data.update(particle_arrays(read["particles"], rank))
        buffer = io.BytesIO()
        np.savez(buffer, **event_data)
        path = os.path.join(self.options.out, f"event{event:09d}.npz.xz")
        with open(path + ".part", "wb") as file:
            file.write(lzma.compress(buffer.getvalue()))
        os.replace(path + ".part", path)
        now = time.time()
        print(f"event {event}: {len(np.unique(event_data['p_vertex']))} vertices with hits, {len(used)} particles, "
              f"{len(rows)} space points, {os.path.getsize(path) / 1e6:.2f} MB, {now - self.last:.1f} s", flush=True)
        self.last = now
        return ex.ProcessCode.SUCCESS


def barcode_fields(barcode):
    """The five numbers of a particle's identifier, in ACTS's order."""
    return (barcode.vertexPrimary, barcode.vertexSecondary, barcode.particle, barcode.generation, barcode.subParticle)


def particle_arrays(particles, rank):
    """The p_* arrays: the particles that made hits, as they were produced."""
    rows = [None] * len(rank)
    for p in particles:
        number = rank.get(p.particleId)
        if number is not None:
            rows[number] = (int(p.pdg), int(p.process), round(p.charge), *list(p.fourPosition)[:3], *p.momentum,
                            p.particleId.vertexPrimary)
    table = np.array(rows, float).reshape(-1, 10)
    place = np.round(table[:, 3:6], 4).astype(np.float32)
    scale = 10.0 ** (5 - np.floor(np.log10(np.maximum(np.abs(table[:, 6:9]), 1e-12))))  # six digits, as in the CSV
    momentum = (np.rint(table[:, 6:9] * scale) / scale).astype(np.float32)
    integers = {"p_pdg": (0, np.int32), "p_process": (1, np.uint8), "p_q": (2, np.int8)}
    arrays = {name: table[:, column].astype(kind) for name, (column, kind) in integers.items()}
    arrays.update({f"p_v{axis}": place[:, i] for i, axis in enumerate("xyz")})
    arrays.update({f"p_p{axis}": momentum[:, i] for i, axis in enumerate("xyz")})
    arrays["p_vertex"] = table[:, 9].astype(np.uint16)
    return arrays


# ---- chain ---------------------------------------------------------------------------------------------------------

def simulate(options, first, number):
    """Simulate the events first ... first + number - 1 in this process."""
    with tempfile.TemporaryDirectory() as directory:
        detector = build_detector(directory, options.thin_silicon)
        geometry = detector.trackingGeometry()
        digitisation = os.path.join(directory, "digitisation.json")
        write_digitisation(geometry, digitisation)
        random = ex.RandomNumbers(seed=options.seed)
        sequencer = ex.Sequencer(skip=first, events=number, numThreads=options.threads, logLevel=QUIET,
                                 trackFpes=False)
        sequencer.addAlgorithm(Generator(options))
        sequencer.addAlgorithm(ex.FatrasSimulation(
            level=QUIET, inputParticles="particles_generated", outputParticles="particles_simulated",
            outputSimHits="simhits", randomNumbers=random, trackingGeometry=geometry, pMin=PT_MIN,
            magneticField=acts.ConstantBField(acts.Vector3(0, 0, 2 * acts.UnitConstants.T)),
            emScattering=True, emEnergyLossIonisation=True, emEnergyLossRadiation=True, emPhotonConversion=True,
            generateHitsOnSensitive=True))
        sequencer.addAlgorithm(ex.DigitizationAlgorithm(
            level=QUIET, digitizationConfigs=ex_json.readDigiConfigFromJson(digitisation),
            surfaceByIdentifier=geometry.geoIdSurfaceMap(), randomNumbers=random))
        sequencer.addAlgorithm(ex.SpacePointMaker(
            level=QUIET, trackingGeometry=geometry, inputMeasurements="measurement_subset",
            outputSpacePoints="spacepoints", geometrySelection=[acts.GeometryIdentifier(volume=v) for v in PITCH]))
        sequencer.addWriter(ex.CsvMeasurementWriter(
            level=QUIET, inputMeasurements="measurements", inputClusters="clusters",
            inputMeasurementSimHitsMap="measurement_simhits_map", outputDir=directory))
        sequencer.addAlgorithm(EventWriter(options, directory))
        sequencer.run()


def parser_of_options():
    """What the command line knows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, help="folder for the events")
    parser.add_argument("--events", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first event")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mu", type=float, default=200.0, help="mean number of pile-up collisions")
    parser.add_argument("--beam-z", type=float, default=55.0, help="Gaussian width of the vertices in z, mm")
    parser.add_argument("--max-ctau", type=float, help="leave particles above this c tau (mm) undecayed, e.g. 10")
    parser.add_argument("--jets", type=float, metavar="GEV", help="two jets from this pT on instead of ttbar, higher ones "
                        "far more often than in nature")
    parser.add_argument("--gun", type=int, choices=(11, 13, 211, 321, 2212), help="no collisions: this particle")
    parser.add_argument("--count", type=int, default=1, help="particles per event of --gun")
    parser.add_argument("--pt", type=float, nargs=2, default=(0.5, 100.0), help="pT range of --gun")
    parser.add_argument("--eta", type=float, default=3.0, help="|eta| limit of --gun")
    parser.add_argument("--decay", type=float, metavar="MM", help="--gun: pairs, made up to so far from the beam line")
    parser.add_argument("--threads", type=int, default=1, help="threads per process (ACTS's numThreads)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--thin-silicon", action="store_true", help="keep the package's wrong silicon density")
    return parser


def options_of(**changes):
    """Options for who runs parts of the simulation: those of the command line, and its defaults for the others."""
    return argparse.Namespace(**vars(parser_of_options().parse_args(["--out", "."])) | changes)


def main():
    """Command line."""
    options = parser_of_options().parse_args()
    os.makedirs(options.out, exist_ok=True)
    edges = np.linspace(options.first, options.first + options.events, min(options.processes, options.events) + 1)
    parts = [(options, int(a), int(b) - int(a)) for a, b in zip(edges[:-1], edges[1:])]
    start = time.time()
    if len(parts) == 1:
        simulate(*parts[0])
    else:
        with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
            pool.starmap(simulate, parts)
    print(f"{options.events} events in {time.time() - start:.1f} s, start-up included")


if __name__ == "__main__":
    main()
