// SPDX-License-Identifier: Apache-2.0
#include "TrackFindingAlgorithm.hpp"

#include <stdexcept>

#include "ActsExamples/EventData/IndexSourceLink.hpp"

namespace trackmill::acts {

using ActsExamples::IndexSourceLink;
using ActsExamples::ProcessCode;

TrackFindingAlgorithm::TrackFindingAlgorithm(const Config &config,
                                             std::unique_ptr<const Acts::Logger> logger)
    : IAlgorithm("TrackmillTrackFinding", std::move(logger)), m_cfg(config),
      m_service(config.service) {
    if (m_cfg.inputSpacePoints.empty()) {
        throw std::invalid_argument("Missing space point input collection");
    }
    if (m_cfg.outputProtoTracks.empty()) {
        throw std::invalid_argument("Missing proto track output collection");
    }
    m_inputSpacePoints.initialize(m_cfg.inputSpacePoints);
    m_inputClusters.maybeInitialize(m_cfg.inputClusters);
    m_outputProtoTracks.initialize(m_cfg.outputProtoTracks);
}

ProcessCode TrackFindingAlgorithm::execute(const ActsExamples::AlgorithmContext &context) const {
    const auto &points = m_inputSpacePoints(context);
    const ActsExamples::ClusterContainer *clusters =
        m_inputClusters.isInitialized() ? &m_inputClusters(context) : nullptr;

    EventColumns columns(points.size(), clusters != nullptr);
    std::vector<ActsExamples::ProtoTrack>
        measurements; /* of each space point: one, or two of a strip pair */
    measurements.reserve(points.size());
    for (const auto &point : points) {
        auto &its = measurements.emplace_back();
        for (const auto &link : point.sourceLinks()) {
            its.push_back(link.template get<IndexSourceLink>().index());
        }
        columns.addPoint(point.x(), point.y(), point.z());
        if (clusters != nullptr) {
            /* the first one's, as TrackFindingAlgorithmGnn does it */
            const auto &cluster = clusters->at(its.at(0));
            columns.addCluster(cluster.channels.size(), cluster.sizeLoc0, cluster.sizeLoc1,
                               cluster.sumActivations());
        }
    }

    ActsExamples::ProtoTrackContainer protoTracks;
    const auto tracks = m_service.find(columns);
    if (!tracks) {
        m_failed++;
        if (!m_cfg.skipOnFailure) {
            ACTS_ERROR("event " << context.eventNumber << ": " << tracks.error().text);
            return ProcessCode::ABORT;
        }
        ACTS_WARNING("event " << context.eventNumber << " has no tracks: " << tracks.error().text);
        m_outputProtoTracks(context, std::move(protoTracks));
        return ProcessCode::SUCCESS;
    }
    m_found++;
    for (const std::vector<int> &track : *tracks) {
        ActsExamples::ProtoTrack proto;
        for (int row : track) {
            const auto &its = measurements[static_cast<std::size_t>(row)];
            proto.insert(proto.end(), its.begin(), its.end());
        }
        if (proto.size() >= m_cfg.minMeasurementsPerTrack) {
            protoTracks.push_back(std::move(proto));
        }
    }
    ACTS_DEBUG("event " << context.eventNumber << ": " << protoTracks.size() << " proto tracks");
    m_outputProtoTracks(context, std::move(protoTracks));
    return ProcessCode::SUCCESS;
}

ProcessCode TrackFindingAlgorithm::finalize() {
    ACTS_INFO("trackmill: " << m_found << " events answered, " << m_failed << " failed");
    return ProcessCode::SUCCESS;
}

} // namespace trackmill::acts
