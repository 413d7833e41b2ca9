// SPDX-License-Identifier: Apache-2.0
/* What waits for a whole grid. */
#ifndef TM_EMULATOR_COOPERATIVE_GROUPS_H
#define TM_EMULATOR_COOPERATIVE_GROUPS_H

#include "emulator.h"

namespace cooperative_groups {

struct grid_group {
    void sync(void) const {
        tm_emulator::wait_for_grid();
    }
};

static inline grid_group this_grid(void) {
    return {};
}

} // namespace cooperative_groups

#endif
