# SPDX-License-Identifier: Apache-2.0
"""What a training learns from: events that are simulated beside it, loaded as they come, and the graphs of them."""
import fcntl
import glob
import math
import multiprocessing
import os
import subprocess
import sys
import time
import zlib

import choose
import events as ev
import graph

HERE = os.path.dirname(os.path.abspath(__file__))
VALIDATION = 4                      # events never learned from
BARREL = 2.0                        # |eta| from where on --barrel gives edges no further weight
START = time.time()


def say(*words):
    print(f"[{time.time() - START:6.1f} s]", *words, flush=True)


class Simulation:
    """The simulation into DATA, by this or another process: whoever simulates holds a lock on DATA/lock."""

    def __init__(self, options, commands):
        self.path = os.path.join(options.data, "lock")
        with open(self.path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("another process simulates into", options.data)
                return
            say("simulating into", options.data)
            with open(options.out + "/simulate.log", "a") as log:   # the shell inherits the lock
                subprocess.Popen(["sh", "-c", " & ".join(commands) + " & wait"], stdout=log, stderr=log,
                                 pass_fds=[lock.fileno()])

    def runs(self):
        with open(self.path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except OSError:
                return True

    def wait(self):
        while self.runs():
            time.sleep(0.5)


def share(number):
    """Of so many collision events: {folder: how many of them}. Vertices far out in z are rare in collisions, so a third
    come from a beam spot twice as long."""
    near = max(1, round(number * 2 / 3))
    return {"collisions": near, "collisions_wide": number - near}


def gun_events(options):
    """Events of each particle gun: stiff particles, and those made far from the beam line, are rare too."""
    return max(1, int(options.events * 0.3))


def simulate_commands(options):
    """One command for each kind of events that is not complete: collisions, guns to lay over them, validation."""
    gun = ["--eta", "4", "--beam-z", "120", "--events", str(gun_events(options)), "--seed"]
    pile_up = ["--mu", str(options.mu), "--events"]
    jets = ["--mu", "0", "--jets", "100", "--beam-z", "80", "--events", str(2 * gun_events(options)), "--seed",
            str(options.seed + 6)]
    number = share(options.events)
    wanted = {"validation": [*pile_up, str(VALIDATION), "--seed", str(options.seed + 1)],
              "muons": ["--gun", "13", "--count", "40", *gun, str(options.seed + 2)],
              "pions": ["--gun", "211", "--count", "40", *gun, str(options.seed + 3)],
              "decays": ["--gun", "211", "--count", "30", "--pt", "0.5", "10", "--decay", "400", *gun,
                         str(options.seed + 5)],
              "collisions": [*pile_up, str(number["collisions"]), "--seed", str(options.seed)],
              "collisions_wide": [*pile_up, str(number["collisions_wide"]), "--beam-z", "110", "--seed",
                                  str(options.seed + 4)]}
    if options.jets:
        wanted["jets"] = jets
    #   Of the cores; what all wait for comes first
    shares, commands = {"collisions": 0.57, "collisions_wide": 0.32, "validation": 0.25, "jets": 0.25}, []
    for folder, arguments in wanted.items():
        target = os.path.join(options.data, folder)
        if len(glob.glob(target + "/*.npz.xz")) < int(arguments[arguments.index("--events") + 1]):
            workers = max(1, int((os.cpu_count() or 2) * shares.get(folder, 0)))
            commands.append(" ".join(["nice", "-n", "10", sys.executable, os.path.join(HERE, "simulate.py"), *arguments,
                                      "--out", target, "--processes", str(workers)]))
    return commands


def simulate(options):
    """Starts the simulation of whatever is missing; None if nothing is."""
    commands = simulate_commands(options)
    return Simulation(options, commands) if commands else None


def files(options, *folders):
    return sorted(path for folder in folders for path in glob.glob(f"{options.data}/{folder}/*.npz.xz"))


class Loader:
    """Loads events (guns laid over them, varied) in worker processes; `known` has those that are there. `train_on`: how
    many of them the training gets; None: all."""

    def __init__(self, pool, options, teacher):
        self.pool, self.options, self.teacher, self.train_on = pool, options, teacher, options.train_on
        self.known, self.pending, self.looked = {}, {}, 0.0

    def chosen(self):
        """Files of the events that are there and that the training gets: the same ones in every call."""
        if self.train_on is None:
            return sorted(self.known)
        first = share(self.train_on)
        number = lambda path: int(os.path.basename(path).removeprefix("event").split(".")[0])
        return [path for path in sorted(self.known) if number(path) < first[os.path.basename(os.path.dirname(path))]]

    def on_device(self, packed):
        """The event with the weight of each point: what edges from there count (of the embedding's loss: true edges)."""
        event = ev.to_device(packed, self.options.device)
        event["weight"] = 1 + (self.options.barrel - 1) * (1 - event["eta"].abs() / BARREL).clamp(min=0)
        event["turn"] = self.options.turn
        return event

    def as_simulated(self, paths):
        """Events without guns over them, nothing lost or moved."""
        return [self.on_device(packed)
                for packed in self.pool.imap(ev.load, [([path], None, self.options.pixels) for path in paths])]

    def validation(self, simulation):
        """The events that are never learned from."""
        while len(paths := files(self.options, "validation")) < VALIDATION and simulation and simulation.runs():
            time.sleep(0.2)
        if not paths:
            raise SystemExit(f"{self.options.data}/validation: no events: see simulate.log")
        return self.as_simulated(paths)

    def seen(self):
        """Some of the events that are learned from, for figures beside the validation's."""
        near = [path for path in self.chosen() if os.path.basename(os.path.dirname(path)) == "collisions"]
        return self.as_simulated((near or self.chosen())[:VALIDATION])

    def look(self):
        """Asks for files that are new, takes what has been loaded."""
        number = gun_events(self.options)
        over, wanted = [files(self.options, "muons", "pions"), files(self.options, "decays")], [2 * number, number]
        if self.options.jets:       # two of them, never the same
            jets = files(self.options, "jets")
            over, wanted = [*over, jets[:number], jets[number:]], [*wanted, number, number]
        ready = all(len(here) >= needed for here, needed in zip(over, wanted))  # else guns depended on the moment
        new = [p for p in files(self.options, "collisions", "collisions_wide")
               if p not in self.known and p not in self.pending]
        for path in new if ready else []:
            number = zlib.crc32(os.sep.join(path.split(os.sep)[-2:]).encode())      # the same in every call
            guns = [folder[number % len(folder)] for folder in over]
            seed = None if self.options.as_simulated else [self.options.seed, number]
            self.pending[path] = self.pool.apply_async(ev.load, [([path, *guns], seed, self.options.pixels)])
        for path in [path for path, result in self.pending.items() if result.ready()]:
            event = self.on_device(self.pending.pop(path).get())
            if self.teacher and event["plain"]:
                event["taught"] = graph.embed(event, self.teacher["embed"])
            self.known[path] = event
        self.looked = time.time()
        return [self.known[path] for path in self.chosen()]

    def due(self):
        """Whether it is time to look again."""
        return time.time() - self.looked > 1

    def refresh(self, samples):
        """For the training loop: looks once a second or so."""
        return self.look() if self.due() else samples

    def wait(self, at_least, simulation):
        """Waits for so many events, or for all that the simulation makes."""
        while True:
            over = simulation is None or not simulation.runs()      # asked first: what it made is seen below
            events = self.look()
            if len(events) >= at_least or (over and not self.pending):
                break
            time.sleep(0.2)
        if len(events) < max(1, at_least if at_least < math.inf else 1):
            raise SystemExit(f"{self.options.data}: {len(events)} events of {at_least} wanted: see simulate.log")
        return events


class Graphs:
    """What filter and interaction network learn from: (event, edges, which are true) of the events that are there, of
    more as they come. `cut`: the filter's, on the logit; None: all edges of the radius graph."""

    def __init__(self, loader, nets, radius):
        self.loader, self.nets, self.radius, self.cut = loader, nets, radius, None
        self.samples, self.built = [], set()

    def of(self, event):
        edges = graph.radius_graph(event, self.nets["embed"], self.radius)
        return self.kept((event, edges, ev.is_true(event, edges)))

    def kept(self, sample):
        if self.cut is None:
            return sample
        event, edges, true = sample
        kept = choose.score_edges(self.nets["filter"], event, edges) > self.cut
        return event, edges[:, kept], true[kept]

    def refresh(self, samples=None):
        """All samples, with those of events that have come since."""
        if samples is None or self.loader.due():
            self.loader.look()
            for path in self.loader.chosen():
                if path not in self.built:
                    self.built.add(path)
                    self.samples.append(self.of(self.loader.known[path]))
        return self.samples


def workers():
    """Processes that load events."""
    return multiprocessing.get_context("spawn").Pool(max(1, min(8, (os.cpu_count() or 2) // 2)))
