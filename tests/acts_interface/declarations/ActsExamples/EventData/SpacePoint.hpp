// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <span>
#include <vector>

#include "ActsExamples/EventData/IndexSourceLink.hpp"

namespace ActsExamples {

/* There: a view into the container's columns. */
class ConstSpacePointProxy {
  public:
    ConstSpacePointProxy(float x, float y, float z, std::vector<Acts::SourceLink> links)
        : m_x(x), m_y(y), m_z(z), m_links(std::move(links)) {
    }
    float x() const {
        return m_x;
    }
    float y() const {
        return m_y;
    }
    float z() const {
        return m_z;
    }
    std::span<const Acts::SourceLink> sourceLinks() const {
        return m_links;
    }

  private:
    float m_x, m_y, m_z;
    std::vector<Acts::SourceLink> m_links;
};

using SpacePointContainer = std::vector<ConstSpacePointProxy>;

} // namespace ActsExamples
