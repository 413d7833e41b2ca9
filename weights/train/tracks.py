# SPDX-License-Identifier: Apache-2.0
"""The tracks section of the model files (docs/model-file.md): the builder and the steps behind it, for the
Generic detector in its 2 T field.

    python3 tracks.py MODEL VERSION     # gives a model file its section and that version, in place

The model named `pixels` has values of its own; all others have TRACKS.

Errors are those of the pitch, with room for the cluster; sigma_r on discs, sigma_z in the barrel. The weights
of the joints are a logistic regression (join.py): the model cards say on what.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "convert"))
import safetensors_io  # noqa: E402

ZONES = [{"r_max": 200, "z_max": 550, "sigma_phi": 0.015, "sigma_z": 0.03},  # pixels
         {"r_max": 200, "sigma_phi": 0.015, "sigma_r": 0.03},
         {"r_max": 725, "z_max": 1150, "sigma_phi": 0.025, "sigma_z": 0.35},  # short strips
         {"r_max": 725, "sigma_phi": 0.025, "sigma_r": 0.35},
         {"z_max": 1150, "sigma_phi": 0.035, "sigma_z": 3.1},  # long strips
         {"sigma_phi": 0.035, "sigma_r": 3.1}]

TRACKS = {"cut": 0.4, "builder": "best_edges", "min_points": 3,
          "fit": {"field_tesla": 2.0, "scattering": 0.08, "kink": 0.0025, "ends": 5, "zones": ZONES},
          "split": {"score": 0.95, "chi2": 8},
          "join": {"dphi": 0.2, "dcot": 0.1, "chi2": 200,
                   "weights": [1.478, -0.957, -0.909, 2.564, -0.921, -0.773, -0.747]},
          "select": {"points": 4, "score": 0.85}}

PIXELS = {**TRACKS, "cut": 0.3, "split": {"score": 0.5, "chi2": 8},
          "join": {**TRACKS["join"], "weights": [-3.242, -1.128, -0.808, 2.112, -0.679, -0.867, -0.157]},
          "select": {"points": 3, "score": 0.45}}


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: tracks.py MODEL VERSION")
    tensors, pipeline = safetensors_io.read(sys.argv[1])
    pipeline["tracks"] = PIXELS if pipeline["name"] == "pixels" else TRACKS
    pipeline["version"] = sys.argv[2]
    safetensors_io.write(sys.argv[1], tensors, pipeline)


if __name__ == "__main__":
    main()
