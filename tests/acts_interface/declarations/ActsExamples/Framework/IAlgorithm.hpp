// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <any>
#include <map>
#include <memory>
#include <string>

#include "Acts/Utilities/Logger.hpp"

namespace ActsExamples {

enum class ProcessCode { SUCCESS, SKIP, ABORT, END };

using WhiteBoard = std::map<std::string, std::any>; /* there: a class */

struct AlgorithmContext {
    std::size_t eventNumber;
    WhiteBoard &eventStore;
};

class IAlgorithm {
  public:
    explicit IAlgorithm(const std::string &name,
                        std::unique_ptr<const Acts::Logger> logger = nullptr)
        : m_name(name),
          m_logger(logger ? std::move(logger) : std::make_unique<const Acts::Logger>()) {
    }
    virtual ~IAlgorithm() = default;
    std::string name() const {
        return m_name;
    }
    virtual ProcessCode execute(const AlgorithmContext &context) const = 0;
    virtual ProcessCode finalize() {
        return ProcessCode::SUCCESS;
    }

  protected:
    const Acts::Logger &logger() const {
        return *m_logger;
    }

  private:
    std::string m_name;
    std::unique_ptr<const Acts::Logger> m_logger;
};

} // namespace ActsExamples
