// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include "ActsExamples/EventData/ProtoTrack.hpp"

namespace ActsExamples {

class IndexSourceLink final {
  public:
    explicit IndexSourceLink(Index index) : m_index(index) {
    }
    Index index() const {
        return m_index;
    }

  private:
    Index m_index;
};

} // namespace ActsExamples

namespace Acts {

/* There: holds any kind of source link. */
class SourceLink {
  public:
    explicit SourceLink(ActsExamples::IndexSourceLink link) : m_link(link) {
    }
    template <class T> const T &get() const {
        return m_link;
    }

  private:
    ActsExamples::IndexSourceLink m_link;
};

} // namespace Acts
