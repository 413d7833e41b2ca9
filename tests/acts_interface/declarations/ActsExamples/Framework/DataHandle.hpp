// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <stdexcept>
#include <string_view>

#include "ActsExamples/Framework/IAlgorithm.hpp"

namespace ActsExamples {

class DataHandleBase {
  public:
    void initialize(std::string_view key) {
        m_key = key;
    }
    void maybeInitialize(std::string_view key) {
        m_key = key;
    }
    bool isInitialized() const {
        return !m_key.empty();
    }

  protected:
    std::string m_key;
};

template <class T> class ReadDataHandle : public DataHandleBase {
  public:
    ReadDataHandle(IAlgorithm *, const std::string &) {
    }
    const T &operator()(const AlgorithmContext &context) const {
        return std::any_cast<const T &>(context.eventStore.at(m_key));
    }
};

template <class T> class WriteDataHandle : public DataHandleBase {
  public:
    WriteDataHandle(IAlgorithm *, const std::string &) {
    }
    const T &operator()(const AlgorithmContext &context, T &&value) const {
        auto [at, added] = context.eventStore.emplace(m_key, std::move(value));
        if (!added) {
            throw std::invalid_argument("written twice: " + m_key);
        }
        return std::any_cast<const T &>(at->second);
    }
};

} // namespace ActsExamples
