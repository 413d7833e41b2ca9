// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <exception>

#include "ActsPlugins/Gnn/Tensor.hpp"

namespace ActsPlugins {

struct NoEdgesError : std::exception {};

struct PipelineTensors {
    Tensor<float> nodeFeatures;
    Tensor<std::int64_t> edgeIndex;
    std::optional<Tensor<float>> edgeFeatures;
    std::optional<Tensor<float>> edgeScores;
};

class GraphConstructionBase {
  public:
    virtual ~GraphConstructionBase() = default;
    virtual PipelineTensors operator()(std::vector<float> &inputValues, std::size_t numNodes,
                                       const std::vector<std::uint64_t> &moduleIds,
                                       const ExecutionContext &execContext = {}) = 0;
};

class EdgeClassificationBase {
  public:
    virtual ~EdgeClassificationBase() = default;
    virtual PipelineTensors operator()(PipelineTensors tensors,
                                       const ExecutionContext &execContext = {}) = 0;
};

class TrackBuildingBase {
  public:
    virtual ~TrackBuildingBase() = default;
    virtual std::vector<std::vector<int>> operator()(PipelineTensors tensors,
                                                     std::vector<int> &spacePointIDs,
                                                     const ExecutionContext &execContext = {}) = 0;
};

} // namespace ActsPlugins
