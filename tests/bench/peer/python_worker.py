# SPDX-License-Identifier: Apache-2.0
"""The pipeline as a worker of trackmill in Python: python_worker.py MODEL MODE BROKER EVENT…

It registers when everything is compiled and each EVENT has been run once.
"""
import sys

import events
import numpy as np
from pipeline import COLUMNS, Pipeline
from trackmill import Worker


def main() -> None:
    model, mode, broker, *warm = sys.argv[1:]
    pipeline = Pipeline(model, mode)

    def find(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return pipeline.candidates(np.stack([columns[name] for name in COLUMNS], axis=1, dtype=np.float32))

    for path in warm:
        pipeline.candidates(events.read(path))
    Worker(broker, find, model="peer", hash=model, requires=COLUMNS, device=pipeline.device, backend="torch").run()


if __name__ == "__main__":
    main()
