// SPDX-License-Identifier: Apache-2.0
// Not ACTS: its interface as far as client/acts/cpp needs it (README.md).
#pragma once

#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace Acts {

/* Keeps its lines, for tests. */
class Logger {
  public:
    void log(const std::string &line) const {
        m_lines.push_back(line);
    }
    const std::vector<std::string> &lines() const {
        return m_lines;
    }

  private:
    mutable std::vector<std::string> m_lines;
};

} // namespace Acts

#define ACTS_DECLARED_LOG(level, text) \
    do { \
        std::ostringstream line; \
        line << level << ": " << text; \
        logger().log(line.str()); \
    } while (0)
#define ACTS_DEBUG(text) ACTS_DECLARED_LOG("DEBUG", text)
#define ACTS_INFO(text) ACTS_DECLARED_LOG("INFO", text)
#define ACTS_WARNING(text) ACTS_DECLARED_LOG("WARNING", text)
#define ACTS_ERROR(text) ACTS_DECLARED_LOG("ERROR", text)
