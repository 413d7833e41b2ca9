// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <cstdint>
#include <vector>

namespace ActsExamples {

using Index = std::uint32_t;
using ProtoTrack = std::vector<Index>; /* there: a small_vector */
using ProtoTrackContainer = std::vector<ProtoTrack>;

} // namespace ActsExamples
