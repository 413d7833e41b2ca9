// SPDX-License-Identifier: Apache-2.0
#include "RemoteStages.hpp"

#include <algorithm>

namespace trackmill::acts {

using ActsPlugins::Device;
using ActsPlugins::ExecutionContext;
using ActsPlugins::PipelineTensors;
using ActsPlugins::Tensor;

namespace {

ExecutionContext onHost() {
    return {Device::Cpu(), std::nullopt};
}

} // namespace

PipelineTensors
RemoteGraphConstruction::operator()(std::vector<float> &inputValues, std::size_t numNodes,
                                    const std::vector<std::uint64_t> & /*moduleIds*/,
                                    const ExecutionContext & /*execContext*/) {
    if (numNodes == 0) {
        throw ActsPlugins::NoEdgesError{};
    }
    auto features = Tensor<float>::Create({numNodes, inputValues.size() / numNodes}, onHost());
    std::ranges::copy(inputValues, features.data());
    const std::size_t edges =
        std::max<std::size_t>(numNodes - 1, 1); /* one node: an edge to itself */
    auto edgeIndex = Tensor<std::int64_t>::Create({2, edges}, onHost());
    for (std::size_t e = 0; e < edges; e++) {
        edgeIndex.data()[e] = static_cast<std::int64_t>(e);
        edgeIndex.data()[edges + e] = static_cast<std::int64_t>(std::min(e + 1, numNodes - 1));
    }
    return {std::move(features), std::move(edgeIndex), std::nullopt, std::nullopt};
}

PipelineTensors RemoteEdgeClassification::operator()(PipelineTensors tensors,
                                                     const ExecutionContext & /*execContext*/) {
    const std::size_t edges = tensors.edgeIndex.shape()[1];
    tensors.edgeScores = Tensor<float>::Create({edges, 1}, onHost());
    std::fill_n(tensors.edgeScores->data(), edges, 1.f);
    return tensors;
}

RemoteTrackBuilding::RemoteTrackBuilding(const Config &config)
    : m_cfg(config), m_service(config.service) {
}

std::vector<std::vector<int>> RemoteTrackBuilding::operator()(PipelineTensors tensors,
                                                              std::vector<int> &spacePointIDs,
                                                              const ExecutionContext &execContext) {
    /* another graph constructor's features may lie on a GPU */
    const bool here = tensors.nodeFeatures.device().isCpu();
    const auto features = here ? std::move(tensors.nodeFeatures)
                               : tensors.nodeFeatures.clone({Device::Cpu(), execContext.stream});
    const std::size_t n = features.shape()[0];
    if (spacePointIDs.size() != n) {
        throw std::invalid_argument("trackmill: " + std::to_string(spacePointIDs.size()) +
                                    " space point ids for " + std::to_string(n) + " nodes");
    }
    auto tracks =
        m_service.find(EventColumns({features.data(), features.size()}, n, m_cfg.layout)).value();
    for (std::vector<int> &track : tracks) {
        for (int &point : track) {
            point = spacePointIDs[static_cast<std::size_t>(point)];
        }
    }
    return tracks;
}

} // namespace trackmill::acts
