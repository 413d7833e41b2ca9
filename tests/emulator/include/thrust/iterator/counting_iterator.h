// SPDX-License-Identifier: Apache-2.0
#ifndef TM_EMULATOR_THRUST_COUNTING_ITERATOR_H
#define TM_EMULATOR_THRUST_COUNTING_ITERATOR_H

namespace thrust {

template <typename T> struct counting_iterator {
    T first;
    T operator[](T i) const {
        return first + i;
    }
};

template <typename T> counting_iterator<T> make_counting_iterator(T first) {
    return {first};
}

} // namespace thrust

#endif
