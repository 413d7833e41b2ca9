# SPDX-License-Identifier: Apache-2.0
"""trackmill.acts in jobs of ACTS: physics by ACTS's own writer, and every kind of trouble."""

import itertools
import threading

import acts
import acts.examples as ex
import chain
import figures
import numpy as np
import pytest
from support import PATIENCE

import trackmill.acts as ta
from trackmill import Worker
from trackmill.acts import addTrackmill

QUIET, INFO = acts.logging.FATAL, acts.logging.INFO
MUONS = 50
POINT = acts.SpacePointColumns


# ---- parts of jobs ----


def sequencer(events, threads=1):
    return ex.Sequencer(events=events, numThreads=threads, logLevel=QUIET, trackFpes=False)


class Feed(ex.IAlgorithm):
    """Events by hand. events[i]: (positions [N, 3], the measurements of each point, number of clusters)."""

    def __init__(self, events):
        ex.IAlgorithm.__init__(self, "Feed", QUIET)
        self.events = events
        self.points = ex.WriteDataHandle(self, acts.SpacePointContainer, "Points")
        self.points.initialize("spacepoints")
        self.clusters = ex.WriteDataHandle(self, ex.ClusterContainer, "Clusters")
        self.clusters.initialize("clusters")

    def execute(self, context):
        positions, links, n_clusters = self.events[context.eventNumber % len(self.events)]
        points = acts.SpacePointContainer(POINT.SourceLinks | POINT.X | POINT.Y | POINT.Z)
        for position, indices in zip(positions, links, strict=True):
            point = points.createSpacePoint()
            point.x, point.y, point.z = map(float, position)
            point.assignSourceLinks([ex.IndexSourceLink(acts.GeometryIdentifier(volume=8), int(i)).toSourceLink()
                                     for i in indices])
        clusters = ex.ClusterContainer()
        for i in range(n_clusters):
            cluster = ex.Cluster()
            cluster.sizeLoc0, cluster.sizeLoc1 = 1 + i % 3, 2
            clusters.append(cluster)
        self.points(context, points)
        self.clusters(context, clusters)
        return ex.ProcessCode.SUCCESS


class Collect(ex.IAlgorithm):
    """The proto tracks of each event; `hook` runs behind each, with the number of events so far."""

    def __init__(self, key="trackmill_prototracks", hook=None):
        ex.IAlgorithm.__init__(self, "Collect", QUIET)
        self.tracks, self.hook, self.lock = {}, hook, threading.Lock()
        self.handle = ex.ReadDataHandle(self, ex.ProtoTrackContainer, "Tracks")
        self.handle.initialize(key)

    def execute(self, context):
        found = [list(track) for track in self.handle(context.eventStore)]
        with self.lock:
            self.tracks.setdefault(context.eventNumber, []).append(found)
            if self.hook:
                self.hook(len(self.tracks))
        return ex.ProcessCode.SUCCESS


def line(n, links=None, n_clusters=None):
    """An event of n points on a line; point i is measurement i unless `links` says otherwise."""
    r = np.linspace(30, 1000, n)
    positions = np.stack([r, 0.1 * r, 0.2 * r], axis=1)
    return positions, links or [[i] for i in range(n)], n if n_clusters is None else n_clusters


def thirds(columns):
    """Every third row is of one candidate."""
    n = len(columns["x"])
    return [np.arange(start, n, 3) for start in range(min(n, 3))]


def job(events, brokers, threads=1, n=None, **options):
    """Feed, addTrackmill, Collect; returns (tracks by event, summary) after the run."""
    s = sequencer(len(events) if n is None else n, threads)
    s.addAlgorithm(Feed(events))
    finder = addTrackmill(s, brokers, **{"logLevel": INFO} | options)
    collect = Collect()
    s.addAlgorithm(collect)
    s.run()
    return collect.tracks, finder.summary


@pytest.fixture
def mine(programs):
    """A broker and a worker in this process that finds `thirds`."""
    broker = programs.broker()
    with Worker(broker.workers, thirds, model="thirds"):
        yield broker.clients


# ---- physics ----


def simulated(world, brokers, events, threads=1, model=None, least=3, **options):
    """Simulation, trackmill, fit; (ACTS's statistics, our figures, summary)."""
    folder, geometry, field = world
    s = sequencer(events, threads)
    chain.add_simulation(s, chain.event_options(**options), folder, geometry, field)
    finder, _ = chain.add_trackmill(s, geometry, field, brokers, model, minMeasurements=least, ttl=4 * PATIENCE)
    scorer = chain.Scorer(["trackmill"])
    s.addAlgorithm(scorer)
    s.addAlgorithm(ex.ProtoTracksToTracks(
        level=QUIET, inputMeasurements="measurement_subset", inputProtoTracks="trackmill_prototracks_found",
        outputTracks="unfitted"))
    writer = chain.add_acts_score(s, "unfitted", "unfitted")
    s.run()
    return writer.stats(), figures.total(scorer.scores["trackmill"]), finder.summary


def test_muons(world, service):
    stats, ours, summary = simulated(world, service.clients, 20, threads=2, count=MUONS)
    assert stats["nTotalParticles"] == 20 * MUONS and summary.events == 20 and not summary.failed
    assert stats["efficiencyParticles"] >= 0.99
    assert ours["efficiency"] >= 98  # fitted, seven measurements or more
    assert ours["resolution"]["pt"] < 0.03 and ours["resolution"]["d0"] < 0.05 and ours["resolution"]["z0"] < 0.1


def test_pileup(world, service):
    stats, ours, _ = simulated(world, service.clients, 1, gun=None, mu=40.0, seed=91)
    assert stats["nTotalParticles"] > 200
    assert stats["efficiencyParticles"] >= 0.97
    assert ours["efficiency"] >= 90 and ours["purity"] > 99


def test_the_engine_in_the_process_finds_the_same(world, service, engine):
    folder, geometry, field = world
    found = []
    for brokers in (service.clients, None):
        s = sequencer(3)
        chain.add_simulation(s, chain.event_options(count=20, seed=5), folder, geometry, field)
        addTrackmill(s, brokers, inputSpacePoints=chain.POINTS, logLevel=INFO)
        collect = Collect()
        s.addAlgorithm(collect)
        s.run()
        found.append(collect.tracks)
    assert found[0] == found[1] and sorted(found[0]) == [0, 1, 2] and all(len(t[0]) >= 15 for t in found[0].values())


def test_acts_own_kalman_helper_takes_the_tracks(world, service):
    """The three lines of docs/acts.md, in a job as ACTS's examples have it."""
    import acts.examples.reconstruction as reco
    folder, geometry, field = world
    s = sequencer(2)
    chain.add_simulation(s, chain.event_options(count=20), folder, geometry, field)
    addTrackmill(s, service.clients, trackingGeometry=geometry, field=field, inputSpacePoints=chain.POINTS)
    reco.addKalmanTracks(s, geometry, field, inputProtoTracks="trackmill_prototracks", logLevel=QUIET)
    writer = chain.add_acts_score(s, "kalman", "kf_tracks")
    s.run()
    assert writer.stats()["efficiencyParticles"] > 0.9


# ---- events ----


def test_empty_events(mine):
    tracks, summary = job([line(0), line(9), line(0)], mine)
    assert tracks == {0: [[]], 1: [[[0, 3, 6], [1, 4, 7], [2, 5, 8]]], 2: [[]]}
    assert summary.events == 3 and summary.tracks == 3 and summary.failed == 0


def test_short_tracks_are_left_out(mine):
    tracks, _ = job([line(10)], mine, minMeasurements=4)
    assert tracks == {0: [[[0, 3, 6, 9]]]}


def test_strip_pairs(mine):
    """Points of two measurements each: both go onto the track, the clusters of the first go to the worker."""
    event = line(9, [[2 * i, 2 * i + 1] for i in range(9)], 18)
    tracks, _ = job([event], mine)
    assert tracks[0][0][0] == [0, 1, 6, 7, 12, 13]
    mixed = line(9, [[i] if i < 5 else [i, i + 20] for i in range(9)], 40)
    assert job([mixed], mine)[0][0][0][2] == [2, 5, 25, 8, 28]


def test_measurements_that_repeat(mine):
    """Points 0, 3 and 6 share measurements: each is on the track once; a track that gets too short is left out."""
    links = [[0], [1], [2], [0], [4], [5], [0, 7], [1], [8]]
    tracks, _ = job([line(9, links)], mine, minMeasurements=2)
    assert tracks[0][0] == [[0, 7], [1, 4], [2, 5, 8]]
    assert job([line(9, links)], mine, minMeasurements=3)[0][0][0] == [[2, 5, 8]]


def test_order_of_measurements_may_change_later(mine):
    """The first event shows point i = measurement i; the second does not."""
    n = 1200
    events = [line(n), line(n, [[n - 1 - i] for i in range(n)]), line(n)]
    tracks, _ = job(events, mine)
    assert tracks[0] == tracks[2] and tracks[0][0][0][:2] == [0, 3]
    assert tracks[1][0][0][:2] == [n - 1, n - 4]
    assert job(events, mine, sourceLinks="all")[0] == tracks
    pairs = line(n, [[i, n + i] for i in range(n)], 2 * n)         # the first measurement is as before
    tracks, _ = job([line(n), pairs], mine)
    assert tracks[1][0][0][:4] == [0, n, 3, n + 3]


def test_a_point_without_measurement(mine, capfd):
    for n in (9, 1200):
        links = [[i] for i in range(n)]
        links[7] = []
        with pytest.raises(RuntimeError):
            job([line(n, links)], mine)
        assert "event 0: bad_event: space point 7 has no source link" in capfd.readouterr().out


def test_a_position_that_is_none(mine, capfd):
    positions, links, clusters = line(9)
    positions[4, 2] = np.nan
    with pytest.raises(RuntimeError):
        job([(positions, links, clusters)], mine)
    assert "event 0: bad_event: column z, row 4" in capfd.readouterr().out


def test_clusters_that_are_missing(programs, capfd):
    broker = programs.broker()
    with Worker(broker.workers, thirds, model="thirds", requires=["charge"]):
        with pytest.raises(RuntimeError):
            job([line(9)], broker.clients, inputClusters=None)
        assert "event 0: missing_column: the event lacks the column charge" in capfd.readouterr().out
        with pytest.raises(RuntimeError):
            job([line(9, n_clusters=5)], broker.clients)
        assert "event 0: missing_column: measurement 8 has no cluster, there are 5" in capfd.readouterr().out
        _, summary = job([line(9, n_clusters=5), line(9)], broker.clients, onFailure="skip")
        assert (summary.events, summary.failed, summary.tracks) == (2, 1, 3)


# ---- brokers ----


def test_no_broker(capfd, engine):
    nowhere = "tcp://127.0.0.1:9"
    with pytest.raises(RuntimeError):
        job([line(9)], nowhere, ttl=0.5)
    assert "event 0: no_broker: no broker within 0.5 s: tcp://127.0.0.1:9" in capfd.readouterr().out
    tracks, summary = job([line(9), line(9)], nowhere, ttl=0.5, onFailure="skip")
    assert tracks == {} and summary.failed == 2
    tracks, summary = job([line(9)] * 3, nowhere, ttl=0.5, onFailure="embedded", model="standard")
    assert sorted(tracks) == [0, 1, 2] and (summary.failed, summary.embedded) == (0, 3)
    assert "the embedded engine takes it" in capfd.readouterr().out


def test_a_late_answer(programs, capfd):
    """No worker: the event waits until its time is over."""
    broker = programs.broker()
    with pytest.raises(RuntimeError):
        job([line(9)], broker.clients, ttl=1.0)
    out = capfd.readouterr().out
    assert "event 0: no_model" in out or "event 0: deadline" in out


def test_several_events_are_in_flight(programs):
    """The first two events meet in the worker, which answers neither before both are there."""
    meeting, calls = threading.Barrier(2), itertools.count()

    def find(columns):
        if next(calls) < 2:
            meeting.wait(PATIENCE)
        return thirds(columns)

    broker = programs.broker()
    with Worker(broker.workers, find, model="thirds", slots=2):
        tracks, _ = job([line(30)], broker.clients, threads=2, n=8)
    assert sorted(tracks) == list(range(8))


@pytest.mark.parametrize("rescue", ["second broker", "embedded engine"])
def test_broker_killed_in_the_middle(programs, rescue, engine):
    """A job of 50 events has 50 events in the end, each found once, and the same ones as without the trouble."""
    first, events = programs.broker(), [line(30 + i) for i in range(50)]
    second = programs.broker() if rescue == "second broker" else None

    def trouble(done):
        if done == 10:
            first.kill()

    s = sequencer(50, threads=3)
    s.addAlgorithm(Feed(events))
    if second:
        workers, options = f"{first.workers},{second.workers}", {"brokers": f"{first.clients},{second.clients}"}
    else:
        workers, options = first.workers, {"brokers": first.clients, "onFailure": "embedded", "ttl": 5.0}
    with Worker(workers, thirds, model="standard") as worker:
        assert worker
        finder = addTrackmill(s, model="standard", logLevel=INFO, **options)
        collect = Collect(hook=trouble)
        s.addAlgorithm(collect)
        s.run()
    assert sorted(collect.tracks) == list(range(50))
    assert all(len(found) == 1 for found in collect.tracks.values())
    assert finder.summary.events == 50 and finder.summary.failed == 0
    if second:
        assert all(len(collect.tracks[i][0]) == 3 for i in range(50)) and finder.summary.embedded == 0
    else:
        assert finder.summary.embedded >= 50 - 10 - 3 - 3


# ---- arguments, and the figures ----


def test_soft_tracks(world, service, engine):
    """minPt leaves out what the model's start values put below it, with broker and without, and nothing else."""
    folder, geometry, field = world
    found = {}
    for brokers in (service.clients, None):
        for least in (0.0, 5.0):
            s = sequencer(2)
            chain.add_simulation(s, chain.event_options(count=MUONS, pt=(1.0, 25.0), seed=7), folder, geometry, field)
            addTrackmill(s, brokers, minPt=least, inputSpacePoints=chain.POINTS, logLevel=INFO)
            collect = Collect()
            s.addAlgorithm(collect)
            s.run()
            found[brokers is None, least] = collect.tracks
    for embedded in (False, True):
        every, hard = found[embedded, 0.0], found[embedded, 5.0]
        for event in (0, 1):
            assert 0.2 < len(hard[event][0]) / len(every[event][0]) < 0.8  # half of them, log-uniform
            assert all(track in every[event][0] for track in hard[event][0])
    assert found[False, 5.0] == found[True, 5.0]


def test_arguments(engine):
    s = sequencer(1)
    for options, text in (({"onFailure": "retry"}, "onFailure"), ({"sourceLinks": "some"}, "sourceLinks"),
                          ({"trackingGeometry": object()}, "both"), ({"onFailure": "embedded"}, "brokers"),
                          ({"model": "none-such"}, "no model none-such")):
        with pytest.raises((ValueError, ta.TrackmillError), match=text):
            addTrackmill(s, **options)


def test_perigee():
    """A helix from the origin; one from beside it; and turned by its own path."""
    row = {name: np.array([float(value)]) for name, value in
           {"x": 0, "y": 0, "z": 5, "px": 1, "py": 0, "pz": 2, "q": 1}.items()}
    at = figures.perigee(row)
    assert np.allclose([at["pt"], at["d0"], at["z0"]], [[1], [0], [5]], atol=1e-9)
    at = figures.perigee(row | {"y": np.array([0.3])})          # the beam line is to the right of the track
    assert np.allclose([at["d0"], at["z0"]], [[0.3], [5]], atol=1e-9)
    radius = figures.MM_PER_GEV
    along = {"x": radius * np.sin([0.1]), "y": radius * (np.cos([0.1]) - 1), "px": np.cos([0.1]), "py": -np.sin([0.1]),
             "z": np.array([5 + 0.1 * radius * 2])}
    at = figures.perigee(row | along)                           # a tenth of a radian further on the first helix
    assert np.allclose([at["d0"], at["z0"]], [[0], [5]], atol=1e-6)


def test_score():
    """Particles of 4, 4 and 2 measurements: found, broken into halves, too short to be wanted."""
    owner = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    particles = {name: np.full(3, float(value)) for name, value in
                 {"pt": 2, "eta": 0.1, "q": 1, "rho": 0, "d0": 0.01, "z0": 1}.items()}
    particles["generated"] = np.full(3, True)
    lists = [[0, 1, 2, 8], [4, 5], [6, 7]]
    tracks = {"lists": lists, **{name: np.full(3, 2.0) for name in ("pt", "d0", "z0")}}
    one = figures.score({"owners": (np.arange(10), owner), "particles": particles}, tracks)
    assert (one["tracks"], one["wanted"], one["found"], one["fakes"], one["duplicates"]) == (3, 2, 1, 2, 0)
    total = figures.total([one, one])
    assert total["efficiency"] == 50 and total["purity"] == 75 and total["completeness"] == 75
    assert total["events"] == 2 and total["pt"] == [[0, 0], [0, 0], [2, 4], [0, 0]]
    empty = figures.score({"owners": (np.arange(10), owner), "particles": particles},
                          {"lists": [], "pt": np.empty(0), "d0": np.empty(0), "z0": np.empty(0)})
    assert (empty["tracks"], empty["found"], empty["wanted"]) == (0, 0, 2)


def test_errors_of_a_difference():
    """Particles that one event loses together are one loss, not many."""
    theirs = [{"eta": [[5, 5], [5, 5]], "pt": [[10, 10]]} for _ in range(4)]
    ours = [{"eta": [[5, 5], [5, 5]], "pt": [[10, 10]]} for _ in range(3)] + [{"eta": [[1, 5], [4, 5]], "pt": [[5, 10]]}]
    assert figures.paired_errors(ours, theirs) == {"eta": [4.0, 1.0], "pt": [5.0]}
    edges = len(figures.ETA_EDGES) - 1, len(figures.PT_EDGES) - 1
    result = {"figures": {name: {"eta": [[found, 20]] + [[20, 20]] * (edges[0] - 1), "pt": [[20, 20]] * edges[1]}
                          for name, found in (("trackmill", 14), ("ckf", 18))},
              "paired_errors": {"eta": [4.0] + [0.0] * (edges[0] - 1), "pt": [0.0] * edges[1]}}
    assert figures.worse_bins(result) == ["eta 0–0.5: 70.00 against 90.00 % (1.0 σ)"]
    del result["paired_errors"]
    assert figures.worse_bins(result) == ["eta 0–0.5: 70.00 against 90.00 % (3.0 σ)"]
