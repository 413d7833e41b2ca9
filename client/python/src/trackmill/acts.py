# SPDX-License-Identifier: Apache-2.0
"""Track finding for jobs of ACTS (pyacts 48, `pip install pyacts`): one line in a reconstruction script.

    from trackmill.acts import addTrackmill
    addTrackmill(s, "tcp://broker:5570")  # or addTrackmill(s): the engine in this process

reads space points (and clusters, where the model wants their columns) and writes proto tracks over
measurement indices, for ProtoTracksToTracks, ProtoTracksToParameters and the fits. With the geometry and the
field it also estimates start parameters, and addTrackmillFit fits. docs/acts.md says more.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import limits
from .client import Client
from .columns import Array, Tracks
from .engine import Engine
from .errors import BadEventError, MissingColumnError, NoBrokerError, TrackmillError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of components that the package was built without
        import acts
        import acts.examples as ex
except ImportError as error:
    raise ImportError(f"trackmill.acts needs ACTS's Python package: pip install pyacts ({error})") from error

CLUSTER_COLUMNS = ("size_loc0", "size_loc1", "charge")
ON_FAILURE = ("abort", "skip", "embedded")

_SAMPLE = 512  # space points whose first source link is compared with what the first event showed
_SAMPLE_WHOLE = 64  # … and of which all are: reading to their end takes five times as long
_DECIDE = 1000  # space points that an event needs to show anything
_REFIT_INFLATION = 100.0  # of the variances that the second fit starts from: it shall forget the first
_SEED_DISTANCE_MM = 1.0  # in the plane across the beam, between points that start parameters are made of
_BROKER_PAUSE_S = 30.0  # after NoBrokerError, so long the embedded engine takes events at once

Rows = npt.NDArray[np.int64]


# ---- what ACTS has, as arrays ----


@dataclass(frozen=True)
class Links:
    """The measurements of each space point as compressed sparse rows: of space point i
    `measurements[offsets[i]:offsets[i + 1]]`, one or (strip pairs) two."""

    offsets: Rows  # N + 1
    measurements: Rows

    @property
    def one_each(self) -> bool:
        return len(self.measurements) == len(self.offsets) - 1  # none has none


def _indices(point: Any) -> list[int]:
    """The measurements of one space point."""
    return [ex.IndexSourceLink.fromSourceLink(link).index() for link in point.sourceLinks]


def read_links(points: Any) -> Links:
    """The source links of an acts.SpacePointContainer. BadEventError: a space point without any."""
    lists = [_indices(point) for point in points]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    if len(lists) and lengths.min() == 0:
        raise BadEventError(f"space point {int(lengths.argmin())} has no source link, so no measurement")
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Links(offsets, np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(offsets[-1])))


def _first_is(points: Any, i: int) -> bool:
    """Whether the first measurement of space point i is measurement i."""
    link = next(points[i].sourceLinks, None)
    return link is not None and ex.IndexSourceLink.fromSourceLink(link).index() == i


def _spread(n: int, number: int) -> Iterable[int]:
    """Some `number` rows of n, the last one among them."""
    return (*range(0, n, max(1, n // number)), n - 1)


def _sample_are_rows(points: Any) -> bool:
    """Whether space point i is made of measurement i alone, for a sample of them."""
    n = len(points)
    return all(_indices(points[i]) == [i] for i in _spread(n, _SAMPLE_WHOLE)) and all(
        _first_is(points, i) for i in _spread(n, _SAMPLE)
    )


def _first_are_rows(points: Any) -> bool:
    """Whether the first measurement of each space point i is measurement i. (Reading all links of each point
    to their end takes six times as long.)"""
    for i, point in enumerate(points):
        link = next(point.sourceLinks, None)
        if link is None or ex.IndexSourceLink.fromSourceLink(link).index() != i:
            return False
    return True


def read_clusters(clusters: Any, names: Sequence[str]) -> dict[str, Array]:
    """The columns `names` (of CLUSTER_COLUMNS) of an acts.examples.ClusterContainer, one row per measurement,
    in the smallest types: u8 sizes (cells, 255 and more are 255), f16 charge."""
    every = list(clusters)
    n = len(every)
    out: dict[str, Array] = {}
    for name in names:
        if name == "charge":
            charge = np.fromiter(map(ex.Cluster.sumActivations, every), np.float32, n)
            out[name] = np.minimum(charge, np.finfo(np.float16).max).astype(np.float16)
        else:
            read = getattr(ex.Cluster, "sizeLoc0" if name == "size_loc0" else "sizeLoc1").fget
            out[name] = np.minimum(np.fromiter(map(read, every), np.int64, n), 255).astype(np.uint8)
    return out


def as_proto_tracks(tracks: Tracks, links: Links | None, least: int, min_pt: float = 0.0) -> Any:
    """Tracks over space points -> acts.examples.ProtoTrackContainer over measurements, in the same order,
    each measurement once per track (two space points may share one). Tracks of fewer than `least`
    measurements are left out, and those whose start value of pT is below min_pt (GeV). links: None where
    space point i is measurement i."""
    flat: Rows = tracks.indices.astype(np.int64)
    ends = tracks.offsets.astype(np.int64)
    repeated = False
    if links is not None:
        if links.one_each:
            flat = links.measurements[flat]
        else:
            count = (links.offsets[1:] - links.offsets[:-1])[flat]
            ends = np.concatenate([[0], np.cumsum(count)])[ends]
            within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            flat = links.measurements[np.repeat(links.offsets[flat], count) + within]
        repeated = len(np.unique(flat)) != len(flat)
    chosen = np.diff(ends) >= least
    if min_pt > 0 and tracks.starts is not None:
        chosen &= (tracks.starts.pt >= min_pt) | (tracks.starts.charge == 0)  # 0: it has none
    enough = np.flatnonzero(chosen)
    numbers = flat.tolist()
    lists = [numbers[a:b] for a, b in zip(ends[enough].tolist(), ends[enough + 1].tolist(), strict=True)]
    if repeated:
        lists = [once for once in (list(dict.fromkeys(track)) for track in lists) if len(once) >= least]
    return ex.ProtoTrackContainer(map(ex.ProtoTrack, lists))


# ---- the algorithm ----


@dataclass
class Summary:
    """What a job's track finding came to. Seconds are sums over the events."""

    events: int = 0
    tracks: int = 0
    failed: int = 0  # events that ended with an error
    embedded: int = 0  # events that the engine in this process took
    busy_s: float = 0.0  # processor time of the job's threads that run the algorithm
    waited_s: float = 0.0  # from submit to answer
    attempts: dict[int, int] = field(default_factory=dict)  # number of attempts -> events


class TrackmillAlgorithm(ex.IAlgorithm):  # type: ignore[misc]
    """Finds tracks with the workers behind `brokers`, or with the engine in this process (brokers None).

    Reads inputSpacePoints (acts.SpacePointContainer) and, unless it is None, inputClusters
    (acts.examples.ClusterContainer, in the order of the measurements); writes outputProtoTracks
    (acts.examples.ProtoTrackContainer). addTrackmill says what the arguments mean.

    `execute` may run in several threads of the sequencer; while it waits the interpreter is free.
    """

    def __init__(
        self,
        brokers: str | Iterable[str] | None = None,
        model: str | os.PathLike[str] | None = None,
        *,
        inputSpacePoints: str = "spacepoints",
        inputClusters: str | None = "clusters",
        outputProtoTracks: str = "trackmill_prototracks",
        minMeasurements: int = 3,
        minPt: float = 0.0,
        ttl: float = limits.TTL_DEFAULT_MS / 1000,
        onFailure: str = "abort",
        embeddedModel: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threads: int = 0,
        sourceLinks: str = "auto",
        level: Any = None,
    ) -> None:
        if onFailure not in ON_FAILURE:
            raise ValueError(f"onFailure={onFailure!r}; one of {', '.join(ON_FAILURE)}")
        if sourceLinks not in ("auto", "all"):
            raise ValueError(f"sourceLinks={sourceLinks!r}; auto or all")
        if onFailure == "embedded" and not brokers:
            raise ValueError('onFailure="embedded" is for jobs that name brokers; without, use abort or skip')
        ex.IAlgorithm.__init__(self, "Trackmill", acts.logging.INFO if level is None else level)
        self._least, self._min_pt, self._on_failure = minMeasurements, minPt, onFailure
        self._client: Client | None = None
        self._engine: Engine | None = None
        if brokers:
            self._client = Client(brokers, model=None if model is None else os.fspath(model), ttl=ttl)
            weakref.finalize(self, self._client.close)  # at the latest when the job ends: a good-bye
        if not brokers or onFailure == "embedded":  # now, not in the middle of the job
            self._engine = Engine(embeddedModel or model or "standard", device=device, threads=threads)
        self._columns: Sequence[str] = ()
        self._clusters: Any = None
        if inputClusters:
            wanted = CLUSTER_COLUMNS if self._client or not self._engine else self._engine.columns
            self._columns = [name for name in CLUSTER_COLUMNS if name in wanted]
        self._points = ex.ReadDataHandle(self, acts.SpacePointContainer, "InputSpacePoints")
        self._points.initialize(inputSpacePoints)
        if self._columns:
            self._clusters = ex.ReadDataHandle(self, ex.ClusterContainer, "InputClusters")
            self._clusters.initialize(inputClusters)
        self._output = ex.WriteDataHandle(self, ex.ProtoTrackContainer, "OutputProtoTracks")
        self._output.initialize(outputProtoTracks)
        #   Whether space point i is measurement i: None as long as no event has shown it
        self._are_rows: bool | None = None if sourceLinks == "auto" else False
        self._no_broker_until = 0.0
        self._lock = threading.Lock()
        self.summary = Summary()

    def execute(self, context: Any) -> Any:
        """One event, for the sequencer."""
        start = time.thread_time()
        waited = 0.0
        tracks = None
        code = ex.ProcessCode.SUCCESS
        points = self._points(context.eventStore)
        try:
            if len(points) == 0:
                found = ex.ProtoTrackContainer()
            else:
                links = self._read_links(points)
                event = self._read_event(context, points, links)
                began = time.monotonic()
                tracks = self._find(context.eventNumber, event)
                waited = time.monotonic() - began
                found = as_proto_tracks(tracks, links, self._least, self._min_pt)
            number = len(found)
            self._output(context, found)  # the handle takes the container
        except TrackmillError as error:
            number = 0
            skip = self._on_failure == "skip"
            self.logger.error(
                f"event {context.eventNumber}: {error}; {'the event is skipped' if skip else 'the job ends'}"
            )
            code = ex.ProcessCode.SKIP if skip else ex.ProcessCode.ABORT
        with self._lock:
            summary = self.summary
            summary.events += 1
            summary.tracks += number
            summary.failed += code != ex.ProcessCode.SUCCESS
            summary.busy_s += time.thread_time() - start
            summary.waited_s += waited
            if tracks is not None:
                summary.embedded += not tracks.worker
                summary.attempts[tracks.attempt] = summary.attempts.get(tracks.attempt, 0) + 1
        return code

    def _read_links(self, points: Any) -> Links | None:
        """The measurements of the space points; None: space point i is measurement i.

        Reading all source links from Python takes longer than all the rest, and their order is a property
        of the job, not of the event: of the first event each point is looked at, of later ones a sample.
        """
        if self._are_rows is None and len(points) >= _DECIDE:
            self._are_rows = _sample_are_rows(points) and _first_are_rows(points)
            if self._are_rows:
                return None
        elif self._are_rows:
            self._are_rows = _sample_are_rows(points)  # once it does not hold: never again
            if self._are_rows:
                return None
        return read_links(points)

    def _read_event(self, context: Any, points: Any, links: Links | None) -> dict[str, Array]:
        event: dict[str, Array] = {"x": points.x, "y": points.y, "z": points.z}
        if self._columns:
            clusters = read_clusters(self._clusters(context.eventStore), self._columns)
            most = len(next(iter(clusters.values())))
            if links is None:
                rows: Any = slice(len(points))
                last = len(points) - 1
            else:
                rows = links.measurements[links.offsets[:-1]]  # of a strip pair, the first
                last = int(rows.max())
            if last >= most:
                raise MissingColumnError(
                    f"measurement {last} has no cluster, there are {most}: give the clusters of these "
                    "measurements as inputClusters, or None for a model that needs no cluster columns"
                )
            event |= {name: column[rows] for name, column in clusters.items()}
        return event

    def _find(self, number: int, event: dict[str, Array]) -> Tracks:
        if self._client is None or (self._engine and time.monotonic() < self._no_broker_until):
            assert self._engine is not None
            return self._engine.find(event)
        try:
            return self._client.find(event)
        except (BadEventError, MissingColumnError):
            raise  # the engine would say the same
        except TrackmillError as error:
            if self._engine is None:
                raise
            if isinstance(error, NoBrokerError):
                self._no_broker_until = time.monotonic() + _BROKER_PAUSE_S
            self.logger.warning(f"event {number}: {error}; the embedded engine takes it")
        return self._engine.find(event)


def addTrackmill(
    s: Any,
    brokers: str | Iterable[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    *,
    trackingGeometry: Any = None,
    field: Any = None,
    inputSpacePoints: str = "spacepoints",
    inputClusters: str | None = "clusters",
    outputProtoTracks: str = "trackmill_prototracks",
    outputParameters: str = "estimatedparameters",
    minMeasurements: int = 3,
    minPt: float = 0.0,
    ttl: float = limits.TTL_DEFAULT_MS / 1000,
    onFailure: str = "abort",
    embeddedModel: str | os.PathLike[str] | None = None,
    device: str | None = None,
    threads: int = 0,
    sourceLinks: str = "auto",
    logLevel: Any = None,
) -> TrackmillAlgorithm:
    """Adds track finding to an acts.examples.Sequencer; returns the algorithm, whose `summary` counts events.

    brokers: "tcp://a:5570,tcp://b:5570" or a list, tried in this order; None: the engine in this process.
    model: "name" or "name@version"; None: the broker's only one. None in this process:
        "standard"; there it may be a weight file.
    trackingGeometry, field: with both, start parameters for a fit are estimated, too: outputProtoTracks then
        holds the tracks that have them, outputParameters one for each ("estimatedparameters" is what
        addKalmanTracks reads).
    inputClusters: None for models that need no cluster columns; nothing of the clusters is sent then.
    minMeasurements: shorter tracks are left out. minPt (GeV): softer ones, by the start values that the model
        gives (standard does; of models without, all stay). A fit's time goes mostly into soft tracks.
    ttl: seconds that an event may take, waiting in queues included.
    onFailure: what becomes of an event that got no tracks: "abort" ends the job (ProcessCode.ABORT), "skip"
        the event (ProcessCode.SKIP), "embedded" has the engine in this process take it. An event that is
        itself wrong ends the job with "abort" and "embedded", itself with "skip".
    embeddedModel, device, threads: of the engine in this process (see trackmill.Engine); embeddedModel None:
        model.
    sourceLinks: "auto": of the first event with 1000 space points or more all source links are read; if there
        space point i is measurement i, as SpacePointMaker makes them of one measurement each, later events
        are only sampled. "all": all links of all events.
    """
    level = ex.defaultLogging(s, logLevel)()
    estimate = trackingGeometry is not None and field is not None
    if estimate != (trackingGeometry is not None or field is not None):
        raise ValueError("give both trackingGeometry and field, or neither")
    found = f"{outputProtoTracks}_found" if estimate else outputProtoTracks
    algorithm = TrackmillAlgorithm(
        brokers, model, inputSpacePoints=inputSpacePoints, inputClusters=inputClusters,
        outputProtoTracks=found, minMeasurements=minMeasurements, minPt=minPt, ttl=ttl, onFailure=onFailure,
        embeddedModel=embeddedModel, device=device, threads=threads, sourceLinks=sourceLinks, level=level,
    )  # fmt: skip
    s.addAlgorithm(algorithm)
    if estimate:
        s.addAlgorithm(
            ex.ProtoTracksToParameters(
                level=level,
                inputProtoTracks=found,
                inputSpacePoints=inputSpacePoints,
                geometry=trackingGeometry,
                magneticField=field,
                minTransverseDistance=_SEED_DISTANCE_MM,
                outputSeeds=f"{outputProtoTracks}_seeds",
                outputParameters=outputParameters,
                outputProtoTracks=outputProtoTracks,
            )
        )
    return algorithm


def addTrackmillFit(
    s: Any,
    trackingGeometry: Any,
    field: Any,
    *,
    inputProtoTracks: str = "trackmill_prototracks",
    inputParameters: str = "estimatedparameters",
    inputMeasurements: str = "measurements",
    outputTracks: str = "trackmill_tracks",
    outlierChi2: float = float("inf"),
    trackSelectorConfig: Any = None,
    logLevel: Any = None,
) -> Any:
    """Adds a Kalman fit of what addTrackmill found, at the beam line, and a refit; returns the sequencer.

    The second pass starts from the first one's result: start parameters from three space points lie so far
    off that one pass alone triples the width of z0. It makes measurements with a larger chi2 than outlierChi2
    outliers; 30 trims the tails of pT and costs up to 6 % of the tracks above 5 GeV in jets, whose merged
    clusters are off by many of their errors. trackSelectorConfig: an acts.TrackSelector.Config; tracks that
    it does not take are left out.
    """
    level = ex.defaultLogging(s, logLevel)()
    first, second = (
        ex.makeKalmanFitterFunction(
            trackingGeometry,
            field,
            multipleScattering=True,
            energyLoss=True,
            reverseFilteringMomThreshold=0.0,
            reverseFilteringCovarianceScaling=100.0,
            freeToBoundCorrection=ex.FreeToBoundCorrection(False),
            chi2Cut=cut,
            useJosephFormulation=False,
            level=level,
        )
        for cut in (float("inf"), outlierChi2)
    )
    refitted = outputTracks if trackSelectorConfig is None else f"{outputTracks}_all"
    s.addAlgorithm(
        ex.TrackFittingAlgorithm(
            level=level,
            inputMeasurements=inputMeasurements,
            inputProtoTracks=inputProtoTracks,
            inputInitialTrackParameters=inputParameters,
            inputClusters="",
            outputTracks=f"{outputTracks}_first",
            pickTrack=-1,
            fit=first,
            calibrator=ex.makePassThroughCalibrator(),
            linkForward=False,
            referenceSurface=acts.Surface.createPerigee(acts.Vector3(0, 0, 0)),
        )
    )
    s.addAlgorithm(
        ex.RefittingAlgorithm(
            level=level,
            inputTracks=f"{outputTracks}_first",
            outputTracks=refitted,
            fit=second,
            pickTrack=-1,
            initialVarInflation=[_REFIT_INFLATION] * 6,
        )
    )
    if trackSelectorConfig is not None:
        s.addAlgorithm(
            ex.TrackSelectorAlgorithm(
                level=level,
                inputTracks=refitted,
                outputTracks=outputTracks,
                selectorConfig=trackSelectorConfig,
            )
        )
    s.addWhiteboardAlias("tracks", outputTracks)  # as ACTS's own functions call the last ones
    return s
