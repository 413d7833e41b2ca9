// SPDX-License-Identifier: Apache-2.0
/*
 * The service as the adapters of ACTS use it: brokers, model and deadline in one place.
 *
 * Threads: may be used from all threads of ACTS's sequencer at once; each has an event under way.
 */
#ifndef TRACKMILL_ACTS_SERVICE_HPP
#define TRACKMILL_ACTS_SERVICE_HPP

#include <chrono>
#include <string>
#include <vector>

#include "Columns.hpp"

namespace trackmill::acts {

struct ServiceConfig {
    std::string brokers = "tcp://127.0.0.1:5570"; /* separated by commas */
    std::string model; /* "name", "name@version"; "": the only one there is */
    std::chrono::milliseconds deadline{60000};    /* of each event */
    std::uint32_t priority = TM_PRIORITY_DEFAULT; /* 0 … 2, lower first */
};

class Service {
  public:
    /* trackmill::Exception: the list of brokers is wrong. Does not wait for a connection. */
    explicit Service(const ServiceConfig &config);

    /* The track candidates: rows of the event. Waits for the answer. */
    Result<std::vector<std::vector<int>>> find(const EventColumns &columns) const;

  private:
    RequestOptions m_options;
    mutable Client m_client; /* which is safe to share */
};

} // namespace trackmill::acts
#endif
