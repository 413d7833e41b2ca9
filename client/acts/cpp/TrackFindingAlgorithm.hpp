// SPDX-License-Identifier: Apache-2.0
/*
 * An algorithm of ACTS's examples framework that finds tracks with the service: space points (and
 * clusters) in, proto tracks over measurement indices out, as TrackFindingAlgorithmGnn does it, with the
 * same names in its Config, and without the GNN plugin.
 *
 * ACTS runs one event in each thread of its sequencer: as many events are under way at the service.
 */
#ifndef TRACKMILL_ACTS_TRACK_FINDING_ALGORITHM_HPP
#define TRACKMILL_ACTS_TRACK_FINDING_ALGORITHM_HPP

#include <atomic>
#include <memory>
#include <string>

#include "ActsExamples/EventData/Cluster.hpp"
#include "ActsExamples/EventData/ProtoTrack.hpp"
#include "ActsExamples/EventData/SpacePoint.hpp"
#include "ActsExamples/Framework/DataHandle.hpp"
#include "ActsExamples/Framework/IAlgorithm.hpp"
#include "Service.hpp"

namespace trackmill::acts {

class TrackFindingAlgorithm final : public ActsExamples::IAlgorithm {
  public:
    struct Config {
        std::string inputSpacePoints;
        std::string inputClusters; /* optional; models that use cluster columns need it */
        std::string outputProtoTracks;
        ServiceConfig service;
        std::size_t minMeasurementsPerTrack = 3;
        /* An event that the service cannot answer: an empty collection and a warning, instead of the
         * end of the run. */
        bool skipOnFailure = false;
    };

    /* std::invalid_argument: a name is missing; trackmill::Exception: the list of brokers is wrong. */
    explicit TrackFindingAlgorithm(const Config &config,
                                   std::unique_ptr<const Acts::Logger> logger = nullptr);

    ActsExamples::ProcessCode execute(const ActsExamples::AlgorithmContext &context) const override;
    ActsExamples::ProcessCode finalize() override;

    const Config &config() const {
        return m_cfg;
    }

  private:
    Config m_cfg;
    Service m_service;
    mutable std::atomic<std::size_t> m_found{0}, m_failed{0};
    ActsExamples::ReadDataHandle<ActsExamples::SpacePointContainer> m_inputSpacePoints{
        this, "InputSpacePoints"};
    ActsExamples::ReadDataHandle<ActsExamples::ClusterContainer> m_inputClusters{this,
                                                                                 "InputClusters"};
    ActsExamples::WriteDataHandle<ActsExamples::ProtoTrackContainer> m_outputProtoTracks{
        this, "OutputProtoTracks"};
};

} // namespace trackmill::acts
#endif
