// SPDX-License-Identifier: Apache-2.0
/*
 * The three stages of ACTS's GNN plugin (ActsPlugins/Gnn/Stages.hpp) that find tracks with the service:
 * a job keeps TrackFindingAlgorithmGnn and the rest of its script, and gives it these stages.
 *
 * The graph is made and classified in the service. Here the graph constructor passes the features on
 * with a chain of edges through all nodes (so that none is dropped where `shrinkNodes` is set), the
 * classifier gives each edge the score 1, and the track builder asks the service. What hooks and
 * `outputGraph` see is that chain.
 *
 * Tensors lie in the memory of the host: set `device` of TrackFindingAlgorithmGnn to Device::Cpu().
 * Threads: each stage may be used from several at once. Errors: trackmill::Exception, std::invalid_argument
 * and std::domain_error, which end ACTS's run; an event without space points gives NoEdgesError, which the
 * pipeline takes for no tracks.
 */
#ifndef TRACKMILL_ACTS_REMOTE_STAGES_HPP
#define TRACKMILL_ACTS_REMOTE_STAGES_HPP

#include "ActsPlugins/Gnn/Stages.hpp"
#include "Service.hpp"

namespace trackmill::acts {

class RemoteGraphConstruction final : public ActsPlugins::GraphConstructionBase {
  public:
    ActsPlugins::PipelineTensors
    operator()(std::vector<float> &inputValues, std::size_t numNodes,
               const std::vector<std::uint64_t> &moduleIds,
               const ActsPlugins::ExecutionContext &execContext = {}) override;
};

class RemoteEdgeClassification final : public ActsPlugins::EdgeClassificationBase {
  public:
    ActsPlugins::PipelineTensors
    operator()(ActsPlugins::PipelineTensors tensors,
               const ActsPlugins::ExecutionContext &execContext = {}) override;
};

class RemoteTrackBuilding final : public ActsPlugins::TrackBuildingBase {
  public:
    struct Config {
        ServiceConfig service;
        NodeLayout layout; /* as nodeFeatures and featureScales of TrackFindingAlgorithmGnn */
    };

    explicit RemoteTrackBuilding(const Config &config);

    std::vector<std::vector<int>>
    operator()(ActsPlugins::PipelineTensors tensors, std::vector<int> &spacePointIDs,
               const ActsPlugins::ExecutionContext &execContext = {}) override;

  private:
    Config m_cfg;
    Service m_service;
};

} // namespace trackmill::acts
#endif
