# SPDX-License-Identifier: Apache-2.0
"""What this client adds to an event, against `trackmill bench`: run by hand, prints a table.

TRACKMILL_BROKER, TRACKMILL_WORKER and TRACKMILL_CLI as for the tests.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from support import DATA, Programs

from trackmill import Client, Tracks, read_event

EVENT = DATA / "event000000041.npz.xz"
SECONDS = 4.0


def overhead(client: Client, in_flight: int) -> tuple[float, float, float]:
    """Events per second; medians of total and of total less the worker's stages, ms; as the C program's."""
    event = read_event(EVENT)
    for _, request in client.as_completed([event] * 20, in_flight=in_flight):
        request.result()
    end = time.monotonic() + SECONDS
    found: list[Tracks] = []
    start = time.monotonic()
    for _, request in client.as_completed(iter(lambda: event, None), in_flight=in_flight):
        found.append(request.result())
        if time.monotonic() > end:
            break
    rate = len(found) / (time.monotonic() - start)
    total = statistics.median(tracks.total_s for tracks in found)
    beyond = statistics.median(tracks.total_s - sum(tracks.stages_s.values()) for tracks in found)
    return rate, 1e3 * total, 1e3 * beyond


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(folder))
        try:
            broker = programs.broker()
            programs.mock(broker.workers, "name=m", "--slots", "2")
            print("client,in_flight,events_per_s,total_ms,overhead_ms")
            for _ in range(2):
                for in_flight in (1, 4):
                    with Client(broker.clients, model="m") as client:
                        figures = overhead(client, in_flight)
                    print("python", in_flight, *(f"{figure:.2f}" for figure in figures), sep=",")
                    out = programs.cli(
                        *("bench", "--json", "--no-reference", "--model", "m", "--broker", broker.clients),
                        *("--in-flight", in_flight, "--seconds", SECONDS, EVENT),
                    )
                    point = json.loads(out)["points"][0]
                    figures = point["events_per_s"], point["p50_ms"], point["overhead_ms"]
                    print("c", in_flight, *(f"{figure:.2f}" for figure in figures), sep=",")
        finally:
            programs.stop()


if __name__ == "__main__":
    main()
