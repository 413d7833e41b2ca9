// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

struct CUstream_st;
using cudaStream_t = CUstream_st *;

namespace ActsPlugins {

struct Device {
    enum class Type { eCPU, eCUDA };
    Type type = Type::eCPU;
    std::size_t index = 0;

    static Device Cpu() {
        return {Type::eCPU, 0};
    }
    bool isCpu() const {
        return type == Type::eCPU;
    }
};

struct ExecutionContext {
    Device device;
    std::optional<cudaStream_t> stream;
};

/* Row-major, move-only, made by Create alone. */
template <class T> class Tensor {
  public:
    using Shape = std::array<std::size_t, 2>;

    static Tensor Create(Shape shape, const ExecutionContext &context) {
        return Tensor(shape, context.device);
    }
    Tensor(Tensor &&) = default;
    Tensor &operator=(Tensor &&) = default;

    Tensor clone(const ExecutionContext &to) const {
        Tensor copy(m_shape, to.device);
        copy.m_data = m_data;
        return copy;
    }
    T *data() {
        return m_data.data();
    }
    const T *data() const {
        return m_data.data();
    }
    Shape shape() const {
        return m_shape;
    }
    std::size_t size() const {
        return m_data.size();
    }
    Device device() const {
        return m_device;
    }

  private:
    Tensor(Shape shape, Device device)
        : m_shape(shape), m_device(device), m_data(shape[0] * shape[1]) {
    }

    Shape m_shape;
    Device m_device;
    std::vector<T> m_data;
};

} // namespace ActsPlugins
