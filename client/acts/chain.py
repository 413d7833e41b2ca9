# SPDX-License-Identifier: Apache-2.0
"""The parts of the full chain: simulation, trackmill, ACTS's own finding, scores; each adds itself to a Sequencer.

Simulation is weights/train/simulate.py's: Pythia 8 or a particle gun, Fatras in the Generic detector with corrected
silicon, geometric digitisation. Lengths in mm, momenta in GeV. pyacts 48.1.0, pythia8mc 8.317.2.
"""
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "weights" / "train"))     # simulate.py
with warnings.catch_warnings():
    warnings.simplefilter("ignore")     # of components that the package was built without
    import acts
    import acts.examples as ex
    import acts.examples.json as ex_json
    import acts.examples.reconstruction as reco
    import simulate as sim
from figures import CUTS, FIELD_T, WANTED, perigee, score

from trackmill.acts import addTrackmill, addTrackmillFit

unit, QUIET = acts.UnitConstants, acts.logging.FATAL
PIXELS, STRIPS = (7, 8, 9), (12, 13, 14, 16, 17, 18)
#   ACTS's own finding, tuned for the Generic detector and this simulation on PU200: 3.3 % more efficient there than the
#   settings of ACTS's full chain example. cotThetaMax 27.3 is |eta| < 4. The cuts on pT, of seeds and tracks, bound its time;
#   trackmill's tracks are not cut in pT. (Its seeds' pT, with 10 %, enters the CKF's fit, which therefore hardly falls
#   below the cut where the fit alone knows pT to 25 %, at |eta| > 3.5.)
CKF = {"delta_r": (1.0, 80.0), "region": 200.0, "impact": 10.0, "seed_pt": 0.8, "scattering": 3.0, "rad_length": 0.05,
       "seeds_per_point": 1, "middle": (30.0, 180.0), "cot_theta": 27.3, "chi2": 30.0, "branches": 1,
       "shared_hits": 3, "track_pt": 0.8}
TRACKS = {"trackmill": "trackmill_tracks", "ckf": "ambi_tracks"}        # finder -> where its tracks are
POINTS = "all_spacepoints"          # "spacepoints" are ACTS's seeding's, pixels alone


# ---- algorithms ----------------------------------------------------------------------------------------------------

class GeneratedOnly(ex.IAlgorithm):
    """Particles of the generator: products of displaced decays stay, those of Fatras do not."""

    def __init__(self):
        ex.IAlgorithm.__init__(self, "GeneratedOnly", QUIET)
        self.all = ex.ReadDataHandle(self, ex.SimParticleContainer, "InputParticles")
        self.all.initialize("particles_simulated")
        self.output = ex.WriteDataHandle(self, ex.SimParticleContainer, "OutputParticles")
        self.output.initialize("particles_generated_only")

    def execute(self, context):
        chosen = ex.SimParticleContainer()
        for particle in self.all(context.eventStore):
            if int(particle.process) == 0:
                chosen.insert(particle)
        self.output(context, chosen)
        return ex.ProcessCode.SUCCESS


class Clock(ex.IAlgorithm):
    """Stands between two others: notes wall clock and processor time (of all the process's threads), in seconds. With
    one thread of the sequencer, what passed between two clocks is due to the algorithms between them."""

    def __init__(self, s, name):
        ex.IAlgorithm.__init__(self, f"Clock_{name}", QUIET)
        self.times = []
        s.addAlgorithm(self)

    def execute(self, context):
        self.times.append((time.perf_counter(), time.process_time()))
        return ex.ProcessCode.SUCCESS

    def until(self, other):
        """Median over the events, so that the first one, which warms up, does not count: (wall, CPU)."""
        return np.median(np.array(other.times) - np.array(self.times), axis=0).tolist()


class Keep(ex.IAlgorithm):
    """Keeps the first event for a picture: points [N, 3] (mm), tracks (lists of rows, one measurement per point)."""

    def __init__(self):
        ex.IAlgorithm.__init__(self, "Keep", QUIET)
        self.positions, self.lists = None, None
        self.points = ex.ReadDataHandle(self, acts.SpacePointContainer, "Points")
        self.points.initialize(POINTS)
        self.tracks = ex.ReadDataHandle(self, ex.ProtoTrackContainer, "Tracks")
        self.tracks.initialize("trackmill_prototracks")

    def execute(self, context):
        if self.positions is None:
            points = self.points(context.eventStore)
            self.positions = np.stack([points.x, points.y, points.z], axis=1)       # a copy
            self.lists = [list(track) for track in self.tracks(context.eventStore)]
        return ex.ProcessCode.SUCCESS


class Scorer(ex.IAlgorithm):
    """Scores the tracks of some finders against the truth: scores[finder] has one dict of figures.score per event."""
    INPUTS = {"hits": (ex.SimHitContainer, "simhits"), "particles": (ex.SimParticleContainer, "particles_simulated"),
              "links": (ex.MeasurementSimHitsMap, "measurement_simhits_map")}

    def __init__(self, finders):
        ex.IAlgorithm.__init__(self, "Scorer", QUIET)
        self.scores, self.handles = {name: [] for name in finders}, {}
        inputs = {**self.INPUTS, **{finder: (ex.ConstTrackContainer, TRACKS[finder]) for finder in finders}}
        for name, (kind, key) in inputs.items():
            self.handles[name] = ex.ReadDataHandle(self, kind, name)
            self.handles[name].initialize(key)

    @staticmethod
    def truth(read):
        """Particles and the owners of measurements, as figures.score wants them."""
        rank, rows = {}, []
        for p in read["particles"]:
            rank[p.particleId] = len(rows)
            rows.append((*list(p.fourPosition)[:3], *list(p.momentum), p.charge, int(p.process) == 0))
        names = ("x", "y", "z", "px", "py", "pz", "q", "generated")
        particles = dict(zip(names, np.array(rows, float).reshape(-1, len(names)).T))
        particles["generated"] = particles["generated"] > 0
        with np.errstate(divide="ignore", invalid="ignore"):     # neutral ones
            particles |= perigee(particles)
        particles["eta"] = np.arcsinh(particles["pz"] / np.maximum(particles["pt"], 1e-9))
        particles["rho"] = np.hypot(particles["x"], particles["y"])
        of_hit = [rank.get(hit.particleId, -1) for hit in read["hits"]]
        pairs = [(measurement, of_hit[hit]) for measurement, hit in read["links"] if of_hit[hit] >= 0]
        pairs = np.unique(np.array(pairs, int).reshape(-1, 2), axis=0)      # sorted by measurement
        return {"owners": (pairs[:, 0], pairs[:, 1]), "particles": particles}

    def execute(self, context):
        read = {name: handle(context.eventStore) for name, handle in self.handles.items()}
        truth = self.truth(read)
        for name in self.scores:
            lists, fitted = [], []
            for track in read[name]:
                lists.append([ex.IndexSourceLink.fromSourceLink(state.uncalibratedSourceLink).index()
                              for state in track.trackStatesReversed if state.typeFlags.isMeasurement])
                fitted.append((track.transverseMomentum, track.loc0, track.loc1))
            columns = np.array(fitted, float).reshape(-1, 3).T
            self.scores[name].append(score(truth, {"lists": lists, **dict(zip(("pt", "d0", "z0"), columns))}))
        return ex.ProcessCode.SUCCESS


# ---- the chain -----------------------------------------------------------------------------------------------------

def build(directory):
    """(detector, geometry, field); keep the detector. `directory` takes the files that ACTS reads."""
    detector = sim.build_detector(directory)
    sim.write_digitisation(detector.trackingGeometry(), os.path.join(directory, "digitisation.json"))
    with open(os.path.join(directory, "pixels.json"), "w") as file:
        json.dump([{"volume": volume} for volume in PIXELS], file)
    return detector, detector.trackingGeometry(), acts.ConstantBField(acts.Vector3(0, 0, FIELD_T * unit.T))


def event_options(**changes):
    """What simulate.Generator wants to know: by default 50 muons, pT 1 to 100, |eta| < 2.5."""
    return sim.options_of(**{"seed": 71, "mu": 0.0, "gun": 13, "count": 50, "pt": (1.0, 100.0), "eta": 2.5} | changes)


def add_simulation(s, options, directory, geometry, field):
    """Events as far as measurements and space points; particles to be found as "wanted"."""
    random = ex.RandomNumbers(seed=options.seed)
    s.addAlgorithm(sim.Generator(options))
    s.addAlgorithm(ex.FatrasSimulation(
        level=QUIET, inputParticles="particles_generated", outputParticles="particles_simulated",
        outputSimHits="simhits", randomNumbers=random, trackingGeometry=geometry, pMin=sim.PT_MIN, magneticField=field,
        emScattering=True, emEnergyLossIonisation=True, emEnergyLossRadiation=True, emPhotonConversion=True,
        generateHitsOnSensitive=True))
    s.addAlgorithm(ex.DigitizationAlgorithm(
        level=QUIET, digitizationConfigs=ex_json.readDigiConfigFromJson(os.path.join(directory, "digitisation.json")),
        surfaceByIdentifier=geometry.geoIdSurfaceMap(), randomNumbers=random))
    s.addAlgorithm(GeneratedOnly())
    s.addAlgorithm(ex.ParticleSelector(
        level=QUIET, inputParticles="particles_generated_only", ptMin=WANTED["pt"] * unit.GeV, absEtaMax=WANTED["eta"],
        measurementsMin=WANTED["measurements"], removeNeutral=True,
        inputParticleMeasurementsMap="particle_measurements_map", outputParticles="wanted"))
    s.addWhiteboardAlias("particles", "particles_simulated")             # names that ACTS's helpers expect
    s.addWhiteboardAlias("particles_selected", "wanted")
    s.addAlgorithm(ex.SpacePointMaker(
        level=QUIET, trackingGeometry=geometry, inputMeasurements="measurement_subset", outputSpacePoints=POINTS,
        geometrySelection=[acts.GeometryIdentifier(volume=volume) for volume in sim.PITCH]))


def add_trackmill(s, geometry, field, brokers, model, **options):
    """trackmill and the fit; returns (algorithm, clocks: begin, found, fitted)."""
    selector = acts.TrackSelector.Config()
    selector.absEtaMax, selector.minMeasurements = CUTS["eta"], CUTS["measurements"]
    selector.maxHoles, selector.maxOutliers = CUTS["holes"], CUTS["outliers"]
    begin = Clock(s, "begin")
    finder = addTrackmill(s, brokers, model, trackingGeometry=geometry, field=field, inputSpacePoints=POINTS,
                          outputParameters="trackmill_parameters", **{"minMeasurements": CUTS["measurements"]} | options)
    found = Clock(s, "found")
    addTrackmillFit(s, geometry, field, inputParameters="trackmill_parameters", trackSelectorConfig=selector, logLevel=QUIET)
    return finder, (begin, found, Clock(s, "fitted"))


def add_ckf(s, directory, geometry, field):
    """ACTS's seeding, CKF and ambiguity resolution; returns clocks: begin, end."""
    begin = Clock(s, "ckf_begin")
    reco.addSeeding(
        s, geometry, field, geoSelectionConfigFile=os.path.join(directory, "pixels.json"), logLevel=QUIET,
        seedFinderConfigArg=reco.SeedFinderConfigArg(
            r=(25 * unit.mm, 200 * unit.mm), deltaR=CKF["delta_r"], collisionRegion=(-CKF["region"], CKF["region"]),
            z=(-2000 * unit.mm, 2000 * unit.mm), maxSeedsPerSpM=CKF["seeds_per_point"],
            sigmaScattering=CKF["scattering"], radLengthPerSeed=CKF["rad_length"], minPt=CKF["seed_pt"] * unit.GeV,
            impactMax=CKF["impact"], cotThetaMax=CKF["cot_theta"], rMinMiddle=CKF["middle"][0],
            rMaxMiddle=CKF["middle"][1]),
        seedFinderOptionsArg=reco.SeedFinderOptionsArg(bFieldInZ=FIELD_T * unit.T, beamPos=(0.0, 0.0)),
        initialSigmas=[1 * unit.mm, 1 * unit.mm, 1 * unit.degree, 1 * unit.degree, 0 * unit.e / unit.GeV, 1 * unit.ns],
        initialSigmaQoverPt=0.1 * unit.e / unit.GeV, initialSigmaPtRel=0.1, initialVarInflation=[1.0] * 6)
    silent = {"logLevel": QUIET, "writeTrackSummary": False, "writeTrackStates": False, "writePerformance": False}
    reco.addCKFTracks(
        s, geometry, field, **silent,
        trackSelectorConfig=reco.TrackSelectorConfig(
            pt=(CKF["track_pt"] * unit.GeV, None), absEta=(None, CUTS["eta"]), nMeasurementsMin=CUTS["measurements"],
            maxHoles=CUTS["holes"], maxOutliers=CUTS["outliers"]),
        ckfConfig=reco.CkfConfig(
            chi2CutOffMeasurement=CKF["chi2"], chi2CutOffOutlier=CKF["chi2"], seedDeduplication=True, stayOnSeed=True,
            numMeasurementsCutOff=CKF["branches"], pixelVolumes=list(PIXELS), stripVolumes=list(STRIPS),
            maxPixelHoles=CUTS["holes"], maxStripHoles=CUTS["holes"]))
    reco.addAmbiguityResolution(
        s, reco.AmbiguityResolutionConfig(maximumSharedHits=CKF["shared_hits"], maximumIterations=1_000_000,
                                          nMeasurementsMin=CUTS["measurements"]), **silent)
    return begin, Clock(s, "ckf_end")


def add_acts_score(s, name, tracks=None):
    """ACTS's matcher and performance writer for the tracks of one finder; after s.run(): writer.stats()."""
    tracks = tracks or TRACKS[name]
    s.addAlgorithm(ex.TrackTruthMatcher(
        level=QUIET, inputTracks=tracks, inputParticles="wanted", matchingRatio=0.5, doubleMatching=True,
        inputMeasurementParticlesMap="measurement_particles_map", outputTrackParticleMatching=f"{name}_tp",
        outputParticleTrackMatching=f"{name}_pt"))
    writer = ex.PythonPatternRecognitionPerformanceWriter(
        level=QUIET, inputTracks=tracks, inputParticles="wanted", inputTrackParticleMatching=f"{name}_tp",
        inputParticleTrackMatching=f"{name}_pt", inputParticleMeasurementsMap="particle_measurements_map")
    s.addWriter(writer)
    return writer
