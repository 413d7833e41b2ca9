// SPDX-License-Identifier: Apache-2.0
// Compiled with exceptions switched off; not run.
#include "client/trackmill.hpp"

bool find_without_exceptions(const std::string &brokers, const std::vector<float> &x);

bool find_without_exceptions(const std::string &brokers, const std::vector<float> &x) {
    trackmill::Result<trackmill::Client> client = trackmill::Client::open(brokers);
    trackmill::Event event;
    if (!client || !event.add("x", x) || !event.add("y", x) || !event.add("z", x)) {
        return false;
    }
    trackmill::Result<trackmill::Answer> answer = client->find(event);
    return answer && !answer->tracks().empty();
}
