# SPDX-License-Identifier: Apache-2.0
"""The pipeline as a model of Triton's Python back end: POINTS [N, 6] float32 -> LABELS [N] int64. PEER_PATH: where
Python finds torch and pipeline.py (the back end's interpreter ignores PYTHONPATH); PEER_PYTHON: the
interpreter that torch starts to compile; PEER_MODEL: the model file; PEER_MODE: tf32 or compiled; PEER_WARM: event files to
compile and warm up with."""
import os
import sys

sys.path += [path for path in os.environ["PEER_PATH"].split(":") if path not in sys.path]
sys.executable = os.environ["PEER_PYTHON"]
import events  # noqa: E402
import torch  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from pipeline import Pipeline  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        self.pipeline = Pipeline(os.environ["PEER_MODEL"], os.environ["PEER_MODE"])
        for path in os.environ["PEER_WARM"].split(":"):
            self.pipeline(events.read(path))

    def execute(self, requests):
        answers = []
        for request in requests:
            # by DLPack: this Triton is older than numpy 2, whose arrays it takes for empty
            points = torch.from_dlpack(triton.get_input_tensor_by_name(request, "POINTS").to_dlpack()).numpy()
            labels = torch.from_numpy(self.pipeline(points))
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack("LABELS", labels)]))
        return answers
