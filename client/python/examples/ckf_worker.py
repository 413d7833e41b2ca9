# SPDX-License-Identifier: Apache-2.0
"""ACTS's own track finding as a worker on CPUs: seeding, combinatorial Kalman filter, ambiguity resolution.

    python ckf_worker.py tcp://127.0.0.1:5571
    trackmill find --broker tcp://127.0.0.1:5570 --model ckf --with-module-id event000000001.npz.xz

The other kind of algorithm behind the same broker. Besides x y z it wants `module_id`, the ACTS geometry
identifier of each point's module, for space points of one measurement each in the Generic detector, 2 T. It
makes measurements of them (pitch / sqrt(12) in both directions) and runs the chain of client/acts/chain.py
with the settings there. Needs pyacts 48.1.0, and this checkout beside it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trackmill import BadEventError, Worker

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "acts"))
import chain
from chain import QUIET, TRACKS, acts, ex, sim

ON_MODULE_MM = 0.1  # a point further from its module's plane than this belongs to another detector
Columns = dict[str, npt.NDArray[Any]]


class Feed(ex.IAlgorithm):  # type: ignore[misc]
    """Puts the measurements of one event into ACTS's event store, and an empty truth for the chain."""

    OUTPUTS: ClassVar[dict[str, Any]] = {
        "measurements": ex.MeasurementContainer, "particles": ex.SimParticleContainer,
        "measurement_particles_map": ex.MeasurementParticlesMap,
    }  # fmt: skip

    def __init__(self, modules: list[Any], local: npt.NDArray[Any], variance: npt.NDArray[Any]) -> None:
        ex.IAlgorithm.__init__(self, "Feed", QUIET)
        self.modules, self.local, self.variance = modules, local, variance
        self.handles = {}
        for key, kind in self.OUTPUTS.items():
            self.handles[key] = ex.WriteDataHandle(self, kind, key)
            self.handles[key].initialize(key)

    def execute(self, context: Any) -> Any:
        container = ex.MeasurementContainer()
        container.reserve(len(self.modules))
        for module, *values in zip(self.modules, self.local.tolist(), self.variance.tolist(), strict=True):
            container.emplaceMeasurement(module, [0, 1], *values)
        self.handles["measurements"](context, container)
        for key in ("particles", "measurement_particles_map"):
            self.handles[key](context, self.OUTPUTS[key]())
        return ex.ProcessCode.SUCCESS


class All(ex.IAlgorithm):  # type: ignore[misc]
    """All measurements as the subset that space points and CKF read. It refers to the container in the event
    store, so it cannot be made before that is there."""

    def __init__(self) -> None:
        ex.IAlgorithm.__init__(self, "All", QUIET)
        self.measurements = ex.ReadDataHandle(self, ex.MeasurementContainer, "InputMeasurements")
        self.measurements.initialize("measurements")
        self.subset = ex.WriteDataHandle(self, ex.MeasurementSubset, "OutputSubset")
        self.subset.initialize("measurement_subset")

    def execute(self, context: Any) -> Any:
        measurements = self.measurements(context.eventStore)
        self.subset(context, ex.MeasurementSubset(measurements, list(range(len(measurements)))))
        return ex.ProcessCode.SUCCESS


class Collect(ex.IAlgorithm):  # type: ignore[misc]
    """The measurements of each track."""

    def __init__(self) -> None:
        ex.IAlgorithm.__init__(self, "Collect", QUIET)
        self.lists: list[list[int]] = []
        self.tracks = ex.ReadDataHandle(self, ex.ConstTrackContainer, "Tracks")
        self.tracks.initialize(TRACKS["ckf"])

    def execute(self, context: Any) -> Any:
        for track in self.tracks(context.eventStore):
            states = [state for state in track.trackStatesReversed if state.typeFlags.isMeasurement]
            links = (ex.IndexSourceLink.fromSourceLink(state.uncalibratedSourceLink) for state in states)
            self.lists.append([link.index() for link in links][::-1])
        return ex.ProcessCode.SUCCESS


class Finder:
    """find(columns) for trackmill.Worker."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.detector, self.geometry, self.field = chain.build(folder)
        context = acts.GeometryContext.dangerouslyDefaultConstruct()
        direction = acts.Vector3(0, 0, 1)  # asked for, but of no use to a plane
        surfaces = {
            identifier.value: (identifier, surface)
            for identifier, surface in self.geometry.geoIdSurfaceMap().items()
            if identifier.sensitive and identifier.volume in sim.PITCH
        }
        self.ids = np.array(sorted(surfaces), np.uint64)
        self.names = [surfaces[int(i)][0] for i in self.ids]
        corners = [
            [list(surfaces[int(i)][1].localToGlobal(context, acts.Vector2(*at), direction)) for at in
             ((0, 0), (1, 0), (0, 1))]
            for i in self.ids
        ]  # fmt: skip
        frames = np.array(corners)
        self.centre, self.axes = frames[:, 0], frames[:, 1:] - frames[:, :1]  # [M, 3], [M, 2, 3]
        pitch = np.array([sim.PITCH[name.volume] for name in self.names])
        self.variance = pitch**2 / 12

    def find(self, columns: Columns) -> list[list[int]]:
        """Rows of each candidate, outward, each row once: of tracks that share one, the first has it."""
        if len(columns["x"]) == 0:
            return []
        position = np.stack([columns[axis].astype(float) for axis in "xyz"], axis=1)
        wanted = columns["module_id"].astype(np.uint64)
        module = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        unknown = self.ids[module] != wanted
        if unknown.any():
            row = int(unknown.argmax())
            raise BadEventError(
                f"column module_id, row {row}: the Generic detector has no module {wanted[row]}"
            )
        offset = position - self.centre[module]
        normal = np.cross(self.axes[module, 0], self.axes[module, 1])
        far = np.abs((offset * normal).sum(axis=1)) > ON_MODULE_MM
        if far.any():
            row = int(far.argmax())
            raise BadEventError(
                f"row {row}: the point is not on module {wanted[row]}; is this another detector?"
            )
        local = np.einsum("ni,nji->nj", offset, self.axes[module])
        feed = Feed([self.names[m] for m in module], local, self.variance[module])
        collect = Collect()
        s = ex.Sequencer(events=1, numThreads=1, logLevel=QUIET, trackFpes=False, outputDir=self.folder)
        s.addAlgorithm(feed)
        s.addAlgorithm(All())
        s.addWhiteboardAlias("particles_selected", "particles")
        chain.add_ckf(s, self.folder, self.geometry, self.field)
        s.addAlgorithm(collect)
        s.run()
        taken: set[int] = set()
        out = []
        for track in collect.lists:
            rows = [row for row in track if row not in taken]
            taken.update(rows)
            out.append(rows)
        return out


def main() -> None:
    """Command line."""
    with tempfile.TemporaryDirectory() as folder:
        finder = Finder(folder)
        Worker(
            sys.argv[1:] or "tcp://127.0.0.1:5571", finder.find, model="ckf", version="1",
            requires=["module_id"], hash=chain.__file__, backend="acts",
        ).run()  # fmt: skip


if __name__ == "__main__":
    main()
