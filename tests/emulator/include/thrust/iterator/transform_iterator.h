// SPDX-License-Identifier: Apache-2.0
#ifndef TM_EMULATOR_THRUST_TRANSFORM_ITERATOR_H
#define TM_EMULATOR_THRUST_TRANSFORM_ITERATOR_H

#include <stdint.h>

namespace thrust {

template <typename In, typename F> struct transform_iterator {
    In in;
    F f;
    auto operator[](uint32_t i) const {
        return f(in[i]);
    }
};

template <typename In, typename F> transform_iterator<In, F> make_transform_iterator(In in, F f) {
    return {in, f};
}

} // namespace thrust

#endif
