// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <cstddef>
#include <vector>

namespace ActsExamples {

struct Cluster {
    struct Cell {
        double activation = 0;
    };
    std::size_t sizeLoc0 = 0, sizeLoc1 = 0;
    std::vector<Cell> channels;

    double sumActivations() const {
        double sum = 0;
        for (const Cell &cell : channels) {
            sum += cell.activation;
        }
        return sum;
    }
};

/* One for each measurement. */
using ClusterContainer = std::vector<Cluster>;

} // namespace ActsExamples
