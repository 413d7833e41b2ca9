// SPDX-License-Identifier: Apache-2.0
#include "Service.hpp"

namespace trackmill::acts {

Service::Service(const ServiceConfig &config)
    : m_options{config.model, config.deadline, config.priority},
      m_client(Client::open(config.brokers).value()) {
}

Result<std::vector<std::vector<int>>> Service::find(const EventColumns &columns) const {
    Result<Answer> answer = m_client.find(columns.event(), m_options);
    if (!answer) {
        return answer.error();
    }
    std::vector<std::vector<int>> out;
    out.reserve(answer->tracks().size());
    for (const Track track : answer->tracks()) {
        out.emplace_back(track.points.begin(), track.points.end());
    }
    return out;
}

} // namespace trackmill::acts
