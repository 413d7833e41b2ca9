# SPDX-License-Identifier: Apache-2.0
"""The PyTorch pipeline as a service, in two ways: in NVIDIA's Triton server, and in Python workers behind a trackmill-broker;
and clients that keep either busy. Both have so many processes, each with the pipeline on the same GPU, and clients in Python:
an event in host memory -> labels in host memory."""
import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CLIENT = os.path.join(HERE, "..", "..", "..", "client", "python", "src")
POLL_S = 0.1
STOP_S = 20
TTL_S = 60  # of a request

Ask = Callable[[], np.ndarray]  # -> labels of the client's event


class NotServed(Exception):
    """The service did not start or gave no answer; why."""


def end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(path: str) -> str:
    with open(path) as log:
        return log.read()[-1500:]


class Triton:
    """A server with so many instances of the pipeline; gone when the `with` block ends."""

    system = "Triton"

    def __init__(self, options: argparse.Namespace, folder: str, model: str, mode: str, loaded: dict[str, np.ndarray]):
        import torch
        self.loaded, instances = loaded, options.instances
        base, repository = os.path.join(options.triton, "pytriton", "tritonserver"), os.path.join(folder, "models")
        os.makedirs(os.path.join(repository, "trackfinding", "1"), exist_ok=True)
        with open(os.path.join(HERE, "config.pbtxt.in")) as file:
            config = file.read().replace("@COUNT@", str(instances)).replace(
                "@KIND@", "KIND_GPU" if torch.cuda.is_available() else "KIND_CPU")
        with open(os.path.join(repository, "trackfinding", "config.pbtxt"), "w") as file:
            file.write(config)
        with open(os.path.join(HERE, "models", "trackfinding", "1", "model.py")) as source, \
                open(os.path.join(repository, "trackfinding", "1", "model.py"), "w") as copy:
            copy.write(source.read())
        libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = dict(os.environ, PEER_PATH=":".join(path for path in sys.path if path), PEER_PYTHON=sys.executable,
                                PEER_MODEL=model, PEER_MODE=mode, PEER_WARM=":".join(loaded),
                                LD_LIBRARY_PATH=":".join(filter(None, libraries)))
        self.port, self.log = options.port, os.path.join(options.logs, f"triton_{mode}_{instances}.log")
        self.command = [os.path.join(base, "bin", "tritonserver"), "--model-repository", repository, "--backend-directory",
                        os.path.join(base, "backends"), "--grpc-port", str(self.port), "--http-port", str(self.port + 1),
                        "--metrics-port", str(self.port + 2)]

    def __enter__(self) -> "Triton":
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        return self

    def __exit__(self, *_) -> None:
        end([self.process])

    def connect(self):
        import tritonclient.grpc
        return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.port}")

    @contextlib.contextmanager
    def client(self, path: str) -> Iterator[Ask]:
        import tritonclient.grpc
        points = self.loaded[path]
        tensor = tritonclient.grpc.InferInput("POINTS", list(points.shape), "FP32")

        def ask() -> np.ndarray:
            tensor.set_data_from_numpy(points)
            return client.infer("trackfinding", [tensor]).as_numpy("LABELS")

        with self.connect() as client:
            yield ask

    def wait_until_ready(self, patience: float) -> float:
        """-> seconds"""
        import tritonclient.utils
        begin = time.monotonic()
        with self.connect() as client:
            while time.monotonic() - begin < patience and self.process.poll() is None:
                try:
                    if client.is_model_ready("trackfinding"):
                        return time.monotonic() - begin
                except tritonclient.utils.InferenceServerException:
                    pass  # it does not listen yet
                time.sleep(POLL_S)
        raise NotServed("is not ready: " + last_words(self.log))


class Workers:
    """A trackmill-broker and so many python_worker.py behind it; gone when the `with` block ends."""

    system = "Python worker"

    def __init__(self, options: argparse.Namespace, model: str, mode: str, loaded: dict[str, np.ndarray]):
        import trackmill
        self.events = {path: trackmill.read_event(path) for path in loaded}
        log = lambda name: os.path.join(options.logs, f"{name}_{mode}.log")
        self.broker_command = [os.path.join(options.bin, "trackmill-broker"), "--client-endpoint", "tcp://127.0.0.1:*",
                               "--worker-endpoint", "tcp://127.0.0.1:*", "--http", "off", "--log-level", "warn"]
        self.broker_log, self.logs = log("broker"), [log(f"worker{i}") for i in range(options.instances)]
        self.worker_command = [sys.executable, os.path.join(HERE, "python_worker.py"), model, mode]
        self.environment = dict(os.environ, PYTHONPATH=":".join(path for path in sys.path if path))

    def __enter__(self) -> "Workers":
        with open(self.broker_log, "w") as log:
            broker = subprocess.Popen(self.broker_command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes = [broker]
        said = broker.stdout.readline().split()  # ready clients=tcp://… workers=tcp://…
        ends = dict(word.split("=", 1) for word in said[1:] if "=" in word)
        if said[:1] != ["ready"]:
            end(self.processes)
            raise NotServed("the broker did not start: " + last_words(self.broker_log))
        self.endpoint = ends["clients"]
        for path in self.logs:
            with open(path, "w") as log:
                self.processes.append(subprocess.Popen([*self.worker_command, ends["workers"], *self.events], env=self.environment,
                                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return self

    def __exit__(self, *_) -> None:
        end(self.processes[1:])  # while there is a broker to say good-bye to
        end(self.processes[:1])
        self.processes[0].stdout.close()

    @contextlib.contextmanager
    def client(self, path: str) -> Iterator[Ask]:
        import trackmill
        event = self.events[path]
        with trackmill.Client(self.endpoint, ttl=TTL_S) as client:
            yield lambda: client.find(event).labels

    def wait_until_ready(self, patience: float) -> float:
        """-> seconds"""
        import trackmill
        begin = time.monotonic()
        while time.monotonic() - begin < patience and all(process.poll() is None for process in self.processes):
            if trackmill.status(self.endpoint).workers == len(self.logs):
                return time.monotonic() - begin
            time.sleep(POLL_S)
        raise NotServed("is not ready: " + "; ".join(map(last_words, self.logs)))


def closed_loop(service: Triton | Workers, path: str, clients: int, seconds: float, busy: Callable[[], float]) -> tuple[
        list[float], float, float]:
    """Each client asks again as soon as it has its answer. -> times of the answers in ms, sorted; seconds; mean of busy()"""
    times, load, faults = [], [], []
    begin = time.perf_counter()

    def work() -> None:
        try:
            with service.client(path) as ask:
                while time.perf_counter() < begin + seconds:
                    start = time.perf_counter()
                    ask()
                    times.append(1e3 * (time.perf_counter() - start))
        except Exception as fault:  # said by the main thread
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.append(busy())
        time.sleep(POLL_S)
    if faults:
        raise NotServed(str(faults[0]))
    return sorted(times), time.perf_counter() - begin, statistics.mean(load)
