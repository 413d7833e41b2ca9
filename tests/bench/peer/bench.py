#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""trackmill beside what one would otherwise take: the same model file, events and machine, in plain PyTorch (eager with
TF32, and compiled with fp16), called directly, through NVIDIA's Triton server, and as trackmill's workers in Python.

    bench.py --model weights/standard.safetensors --bin BUILD_PROGRAMS [--triton FOLDER] --out peer.csv EVENT…

First it is checked that all find the same tracks: the share of space points that are on the very same track, or on none, in
both answers, of a model without the steps behind the track builder, which PyTorch does not have. trackmill is timed with
the full model, too. --triton: what tests/bench/peer/pack_triton made, unpacked; in it are pyzmq and msgpack, too, which
the workers need. docs/benchmarks.md says what came out and what the columns are. Without a GPU everything runs on the
processor, for rehearsals.
"""
import argparse
import csv
import datetime
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import events  # noqa: E402
import numpy as np  # noqa: E402
from serving import CLIENT, NotServed, Triton, Workers, closed_loop  # noqa: E402

LEAST_AGREEMENT = 0.99
STAGES = ("features", "embed", "radius", "filter", "gnn", "tracks")
COLUMNS = """date gpu cores system mode event points radius_edges filter_edges agreement instances clients seconds answers events_per_s
p50_ms p99_ms gpu_busy gpu_mib ready_s""".split() + [stage + "_ms" for stage in STAGES]
ROUNDS = 12  # timed calls of one event


def say(*words: object) -> None:
    print("peer:", *words, flush=True)


class Gpu:
    """Name, memory and load of the first GPU, by NVML where there is one"""

    def __init__(self):
        try:
            import pynvml
            pynvml.nvmlInit()
            self.nvml, self.handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
            self.name = pynvml.nvmlDeviceGetName(self.handle)
        except Exception:  # pynvml's own errors, or no pynvml
            self.nvml, self.name = None, ""

    def busy(self) -> float:
        return self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu if self.nvml else 0.0

    def mib(self) -> str:
        return str(self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used >> 20) if self.nvml else ""


class Table:
    def __init__(self, path: str, gpu: Gpu):
        self.file, self.gpu = open(path, "w", newline=""), gpu
        self.rows = csv.DictWriter(self.file, COLUMNS, lineterminator="\n")
        self.rows.writeheader()

    def add(self, **row: object) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
        self.rows.writerow({"date": now, "gpu": self.gpu.name or "none", "cores": os.cpu_count(), **row})
        self.file.flush()
        say(*(f"{name}={value}" for name, value in row.items() if value not in ("", None) and name != "radius_edges"))


def of_stages(ms: dict[str, float]) -> dict[str, float]:
    return {name + "_ms": value for name, value in ms.items() if name in STAGES}


def found_by_trackmill(options: argparse.Namespace, model: str, folder: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """labels of each event"""
    out = os.path.join(folder, "found")
    subprocess.run([os.path.join(options.bin, "trackmill"), "find", "--quiet", "--model", model, "--out", out, *options.event],
                   check=True, stdin=subprocess.DEVNULL)
    return {path: events.read_tracks(os.path.join(out, events.name(path) + "-tracks.csv"), n) for path, n in sizes.items()}


def time_trackmill(options: argparse.Namespace, table: Table, model: str, mode: str) -> None:
    """The engine alone, event after event, by bench_gpu: median times of its stages"""
    program = os.path.join(options.bin, "bench_gpu")
    if not os.path.exists(program):  # a build without CUDA
        say(f"bench_gpu left out: there is no {program}")
        return
    done = subprocess.run([program, model, *options.event], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        say("bench_gpu left out:", done.stderr.strip())
        return
    rows = {}
    for row in csv.DictReader(done.stdout.splitlines()):
        rows.setdefault(row["event"], {**row, "ms": {}})["ms"][row["stage"]] = float(row["median_ms"])
    for name, row in rows.items():
        table.add(system="trackmill", mode=mode, event=name, points=row["points"], radius_edges=row["radius_edges"],
                  filter_edges=row["filter_edges"], events_per_s=1e3 / row["ms"]["total"], p50_ms=row["ms"]["total"],
                  **of_stages(row["ms"]))


def time_torch(table: Table, model: str, mode: str, loaded: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> bool:
    """Direct calls: event in host memory -> labels in host memory. -> whether all tracks were the same"""
    import torch
    from pipeline import Pipeline
    begin = time.monotonic()
    pipeline = Pipeline(model, mode)
    for points in loaded.values():
        pipeline(points)
    say(f"PyTorch {mode}: first calls done after {time.monotonic() - begin:.1f} s")
    good = True
    for path, points in loaded.items():
        same = events.agreement(pipeline(points), reference[path])
        good &= same >= LEAST_AGREEMENT
        whole, stages = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            pipeline(points)
            whole.append(1e3 * (time.perf_counter() - start))
        for _ in range(ROUNDS):
            pipeline(points, timed=True)
            stages.append(pipeline.ms)
        median = statistics.median(whole)
        table.add(system="PyTorch", mode=mode, event=events.name(path), points=len(points), radius_edges=pipeline.radius_edges,
                  filter_edges=pipeline.filter_edges, agreement=same, events_per_s=1e3 / median, p50_ms=median, p99_ms=max(whole),
                  gpu_mib=table.gpu.mib(), **of_stages({name: statistics.median(s[name] for s in stages) for name in STAGES}))
    del pipeline
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return good


def time_service(options: argparse.Namespace, table: Table, service: Triton | Workers, mode: str, loaded: dict[str, np.ndarray],
                 reference: dict[str, np.ndarray], patience: float) -> bool:
    """Through a service. -> whether all tracks were the same"""
    good = True
    with service:
        ready = service.wait_until_ready(patience)
        for path, points in loaded.items():
            with service.client(path) as ask:
                same = events.agreement(ask(), reference[path])
            good &= same >= LEAST_AGREEMENT
            for clients in options.clients:
                closed_loop(service, path, clients, options.warm_up, table.gpu.busy)
                times, seconds, busy = closed_loop(service, path, clients, options.seconds, table.gpu.busy)
                table.add(system=service.system, mode=mode, event=events.name(path), points=len(points), agreement=same,
                          instances=options.instances, clients=clients, seconds=seconds, answers=len(times),
                          events_per_s=len(times) / seconds, p50_ms=times[len(times) // 2], p99_ms=times[int(0.99 * len(times))],
                          gpu_busy=busy, gpu_mib=table.gpu.mib(), ready_s=ready)
    return good


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peer", description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    numbers = lambda text: [int(word) for word in text.split(",")]
    add = parser.add_argument
    add("--model", required=True, help="model file")
    add("--bin", required=True, help="folder of trackmill, trackmill-broker and, on a GPU, bench_gpu")
    add("--triton", help="folder of Triton; without: no Triton")
    add("--modes", default="tf32,compiled", help="of PyTorch; the last one is served")
    add("--instances", type=int, default=2, help="of the pipeline in Triton; Python workers")
    add("--clients", type=numbers, default=[1, 4], help="of a service, closed loop")
    add("--seconds", type=float, default=3.0, help="of each measurement of a service")
    add("--warm-up", type=float, default=0.7)
    add("--budget", type=float, default=110, help="seconds for all of it: services are left out where too few remain")
    add("--port", type=int, default=18000, help="the first of three on the loopback")
    add("--logs", default=".", help="folder of the services' logs")
    add("--out", default="peer.csv")
    add("event", nargs="+", metavar="EVENT")
    return parser.parse_args()


def main() -> None:
    options, begin = read_options(), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    options.event = [os.path.abspath(path) for path in options.event]
    if options.triton:
        options.triton = os.path.abspath(options.triton)
        sys.path.insert(1, os.path.join(options.triton, "site"))
    sys.path.append(CLIENT)
    from pipeline import plain_model
    table = Table(options.out, Gpu())
    loaded = {path: events.read(path) for path in options.event}
    good, unserved = True, []
    with tempfile.TemporaryDirectory(prefix="trackmill-peer-") as folder:
        plain = os.path.join(folder, "plain.safetensors")
        plain_model(options.model, plain)
        reference = found_by_trackmill(options, plain, folder, {path: len(points) for path, points in loaded.items()})
        time_trackmill(options, table, options.model, "full model")
        time_trackmill(options, table, plain, "without the steps behind the builder")
        modes = options.modes.split(",")
        for mode in modes:
            good &= time_torch(table, plain, mode, loaded, reference)
        mode = modes[-1]
        services = {"Triton": lambda: Triton(options, folder, plain, mode, loaded)} if options.triton else {}
        services["Python worker"] = lambda: Workers(options, plain, mode, loaded)
        wanted = len(loaded) * len(options.clients) * (options.seconds + options.warm_up)
        for name, make in services.items():
            left = options.budget - (time.monotonic() - begin)
            try:
                if left <= wanted:
                    raise NotServed(f"{left:.0f} s left of --budget")
                good &= time_service(options, table, make(), mode, loaded, reference, left - wanted)
            except ImportError as fault:
                say(f"{name} left out: {fault}")
            except Exception as fault:  # of a service or its clients; the other one may do better
                say(f"{name}: {fault}")
                unserved.append(name)
    if not good:
        raise SystemExit(f"peer: tracks differ: an agreement is below {LEAST_AGREEMENT}")
    if unserved:
        raise SystemExit(f"peer: not measured: {', '.join(unserved)}")


if __name__ == "__main__":
    main()
