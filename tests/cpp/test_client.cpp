// SPDX-License-Identifier: Apache-2.0
/* trackmill.hpp against a real broker and a mock worker. */
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <set>

#include "client/trackmill.hpp"

extern "C" {
#include "tests/protocol/client/service.h"
}

#define CHECK(what) \
    do { \
        if (!(what)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            std::exit(EXIT_FAILURE); /* the children die with us */ \
        } \
    } while (0)

using namespace std::chrono_literals;

static_assert(trackmill::element_type<float>() == TM_F32 &&
              trackmill::element_type<double>() == TM_F64);
static_assert(trackmill::element_type<std::uint8_t>() == TM_U8 &&
              trackmill::element_type<signed char>() == TM_I8);
static_assert(trackmill::element_type<unsigned long>() == (sizeof(long) == 8 ? TM_U64 : TM_U32));
static_assert(trackmill::element_type<long long>() == TM_I64 &&
              trackmill::element_type<std::int16_t>() == TM_I16);
static_assert(!std::is_copy_constructible_v<trackmill::Client> &&
              std::is_nothrow_move_constructible_v<trackmill::Client>);
static_assert(!std::is_copy_constructible_v<trackmill::Answer> &&
              std::is_nothrow_move_constructible_v<trackmill::Answer>);
static_assert(std::forward_iterator<trackmill::Tracks::iterator>);

namespace {

/* Columns and the event that borrows them. */
struct Points {
    std::vector<float> x, y, z;
    std::vector<std::uint8_t> n_cells;
    trackmill::Event event;

    explicit Points(std::size_t n, float shift = 0) : n_cells(n, 2) {
        for (std::size_t i = 0; i < n; i++) {
            x.push_back(static_cast<float>(i) + shift);
            y.push_back(static_cast<float>(i) / 2);
            z.push_back(-static_cast<float>(i));
        }
        event.add("x", x).value();
        event.add("y", std::span<const float>(y)).value();
        event.add("z", z).value();
        event.add("n_cells", n_cells).value();
    }
    Points(const Points &) = delete;
    Points &operator=(const Points &) = delete;
};

template <class F> trackmill::Status thrown_by(F function) {
    try {
        function();
    } catch (const trackmill::Exception &e) {
        CHECK(e.what()[0] != '\0');
        return e.status();
    }
    return TM_OK;
}

void test_without_service() {
    auto refused = trackmill::Client::open("nonsense");
    CHECK(!refused && refused.error().status == TM_E_ARGUMENT);
    CHECK(refused.error().text.find("nonsense") != std::string::npos);
    CHECK(refused.error().name() == "argument" && !refused.error().retryable());
    CHECK(thrown_by([&] { refused.value(); }) == TM_E_ARGUMENT);
    CHECK(thrown_by([] { trackmill::Client::open("").value(); }) == TM_E_ARGUMENT);

    Points points(5);
    CHECK(points.event.size() == 5 && points.event.check());
    auto twice = points.event.add("x", points.x);
    CHECK(!twice && twice.error().status == TM_E_ARGUMENT);
    std::vector<std::uint16_t> half(5, 0x3c00);
    CHECK(points.event.add_f16("charge", half));
    CHECK(points.event.columns().column[4].type == TM_F16);
    std::vector<std::uint64_t> shorter(4);
    CHECK(points.event.add("module_id", shorter));
    CHECK(!points.event.check());
    CHECK(thrown_by([&] { points.event.check().value(); }) == points.event.check().error().status);

    auto client = trackmill::Client::open("tcp://127.0.0.1:1",
                                          {.name = "test", .hello = 50ms, .max_bytes = 0});
    auto nobody = client->find(Points(3).event, {.model = "", .ttl = 100ms});
    CHECK(!nobody && nobody.error().status == TM_E_NO_BROKER && nobody.error().retryable());
}

/* Start values are views of the C arrays; a charge of 0 says that a candidate has none. */
void test_starts() {
    std::uint32_t offsets[] = {0, 2, 3}, indices[] = {0, 1, 2};
    float scores[] = {0.5f, 0.75f}, value[] = {1, 2}, d0[] = {0.1f, 0.2f};
    std::int8_t charge[] = {0, -1};
    tm_tracks_t c{};
    c.n_points = 3;
    c.n_tracks = 2;
    c.offsets = offsets;
    c.indices = indices;
    c.scores = scores;
    trackmill::Tracks tracks(c);
    CHECK(!tracks[1].start);
    c.starts.pt = c.starts.phi = c.starts.eta = c.starts.z0 = value;
    c.starts.d0 = d0;
    c.starts.charge = charge;
    CHECK(!tracks[0].start && tracks[1].start && tracks[1].start->charge == -1);
    CHECK(tracks[1].start->pt > 1.5f && tracks[1].start->d0 > 0.15f && tracks[1].start->d0 < 0.25f);
}

void test_tracks(const std::string &brokers) {
    trackmill::Client client = trackmill::Client::open(brokers).value();
    Points points(25);
    trackmill::Answer answer = client.find(points.event, {.model = "mock", .ttl = 20s}).value();
    CHECK(answer.ok() && answer.model() == "mock@1" && answer.worker() == "worker-0" &&
          answer.attempt() == 1);
    CHECK(answer.hash().size() == TM_HASH_BYTES && answer.total_time() > 0us &&
          answer.service_time() >= 0us);
    trackmill::Tracks tracks = answer.tracks();
    CHECK(tracks.size() == 3 && tracks.n_points() == 25 &&
          !tracks.empty()); /* runs of ten: the mock's way */
    std::uint32_t next = 0;
    for (trackmill::Track track : tracks) {
        CHECK(track.score >= 0 && track.score <= 1);
        for (std::uint32_t point : track.points) {
            CHECK(point == next++);
        }
    }
    CHECK(next == 25 && tracks[2].points.size() == 5 &&
          std::distance(tracks.begin(), tracks.end()) == 3);
    std::vector<std::int32_t> labels = tracks.labels();
    CHECK(labels.size() == 25 && labels[0] == 0 && labels[9] == 0 && labels[10] == 1 &&
          labels[24] == 2);
    for (const trackmill::Stage &stage : answer.stages()) {
        CHECK(!stage.name.empty() && stage.time >= 0us);
    }

    trackmill::Answer moved = std::move(answer);
    CHECK(moved.tracks().size() == 3);
    trackmill::Client other = std::move(client);
    CHECK(other.in_flight() == 0);
    CHECK(other.find(Points(0).event)->tracks().empty()); /* no points, no tracks: a result */

    auto missing = other.find(trackmill::Event());
    CHECK(!missing && missing.error().status == TM_E_MISSING_COLUMN);
    auto nothing = other.poll(0ms);
    CHECK(!nothing && nothing.error().status == TM_E_NOT_FOUND);
    auto unknown = other.wait(12345, 0ms);
    CHECK(!unknown && unknown.error().status == TM_E_NOT_FOUND);
}

void test_many(const std::string &brokers) {
    trackmill::Client client = trackmill::Client::open(brokers).value();
    std::set<std::uint64_t> open;
    for (int i = 0; i < 40; i++) {
        Points points(static_cast<std::size_t>(10 + i),
                      static_cast<float>(i)); /* gone before it is sent */
        open.insert(client.submit(points.event).value());
    }
    CHECK(open.size() == 40 && client.in_flight() == 40 && client.fd() >= 0);
    while (!open.empty()) {
        std::optional<trackmill::Answer> answer = client.poll().value();
        CHECK(answer && answer->ok() && open.erase(answer->id()) == 1);
    }
    CHECK(client.in_flight() == 0);
}

void test_cancel(const std::string &brokers) {
    trackmill::Client client = trackmill::Client::open(brokers).value();
    Points points(10);
    std::uint64_t id =
        client.submit(points.event, {.model = "nobody-has-this", .ttl = 60s}).value();
    auto waiting = client.wait(id, 10ms);
    CHECK(waiting && !*waiting); /* the time ran out, the request goes on */
    CHECK(client.cancel(id));
    std::optional<trackmill::Answer> answer = client.wait(id).value();
    CHECK(answer && !answer->ok() && answer->error().status == TM_E_CANCELLED &&
          answer->tracks().empty());
    auto gone = client.cancel(id);
    CHECK(!gone && gone.error().status == TM_E_NOT_FOUND);
}

void test_status(const std::string &broker) {
    auto report = trackmill::broker_status(broker, 5s);
    CHECK(report && report->workers == 1 && report->n_models == 1 && report->answered >= 40);
    auto nobody = trackmill::broker_status("tcp://127.0.0.1:1", 200ms);
    CHECK(!nobody && nobody.error().status == TM_E_NO_BROKER);
}

} // namespace

int main() {
    test_without_service();
    test_starts();
    static service_t service;
    service_start(&service, 1, 1, "time_ms=1");
    test_tracks(service.list);
    test_many(service.list);
    test_cancel(service.list);
    test_status(service.clients[0]);
    service_stop(&service, false);
    std::puts("trackmill.hpp: ok");
}
