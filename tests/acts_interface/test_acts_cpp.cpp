// SPDX-License-Identifier: Apache-2.0
/* ACTS's stages and algorithm (client/acts/cpp) against a real broker and a mock worker, called as ACTS
 * calls them. The mock's tracks are runs of ten space points, and its score is a checksum of the columns:
 * what was sent is seen in it. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "RemoteStages.hpp"
#include "TrackFindingAlgorithm.hpp"

extern "C" {
#include "tests/protocol/client/service.h"
}

#define CHECK(what) \
    do { \
        if (!(what)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            std::exit(EXIT_FAILURE); \
        } \
    } while (0)

namespace ta = trackmill::acts;
using ta::Feature;

namespace {

constexpr float Scale = 1000.f, Pi = 3.14159265f;

template <class E, class F> bool throws(F function) {
    try {
        function();
    } catch (const E &) {
        return true;
    }
    return false;
}

/* As GnnPipeline::run calls its stages. */
std::vector<std::vector<int>> run(const ta::RemoteTrackBuilding::Config &config,
                                  std::vector<float> features, std::size_t n,
                                  std::vector<int> ids) {
    ta::RemoteGraphConstruction construct;
    ta::RemoteEdgeClassification classify;
    ta::RemoteTrackBuilding build(config);
    try {
        auto tensors = construct(features, n, std::vector<std::uint64_t>(n));
        CHECK(tensors.nodeFeatures.shape()[0] == n && tensors.edgeIndex.shape()[0] == 2);
        std::vector<bool> touched(n);
        for (std::size_t i = 0; i < tensors.edgeIndex.size(); i++) {
            touched.at(static_cast<std::size_t>(tensors.edgeIndex.data()[i])) = true;
        }
        for (bool node : touched) {
            CHECK(node); /* ACTS may drop nodes without edges */
        }
        tensors = classify(std::move(tensors));
        CHECK(tensors.edgeScores && tensors.edgeScores->shape()[0] == tensors.edgeIndex.shape()[1]);
        return build(std::move(tensors), ids);
    } catch (const ActsPlugins::NoEdgesError &) {
        return {};
    }
}

/* ---- columns ---- */

void test_columns() {
    const ta::NodeLayout polar{{Feature::R, Feature::Phi, Feature::Z, Feature::CellCount,
                                Feature::ChargeSum, Feature::Unused},
                               {Scale, Pi, Scale, 10.f, 2.f, 1.f}};
    const std::vector<float> features{0.1f, 0.5f, -0.2f, 0.3f, 0.25f, 7.f,
                                      0.2f, 0.f,  0.4f,  1.2f, 1.5f,  7.f};
    const ta::EventColumns columns(features, 2, polar);
    const trackmill::Event event = columns.event();
    const auto value = [&](const char *name, std::uint64_t row) {
        const tm_column_t *column = tm_columns_find(&event.columns(), name);
        CHECK(column != nullptr);
        return tm_column_get(column, row);
    };
    CHECK(event.size() == 2 && event.check());
    CHECK(std::abs(value("x", 0)) < 1e-3 && std::abs(value("y", 0) - 100) < 1e-3 &&
          std::abs(value("z", 0) + 200) < 1e-3);
    CHECK(std::abs(value("x", 1) - 200) < 1e-3 && std::abs(value("y", 1)) < 1e-3);
    CHECK(value("n_cells", 0) == 3 && value("n_cells", 1) == 12 && value("charge", 1) == 3);
    CHECK(tm_columns_find(&event.columns(), "size_loc0") == nullptr);

    const std::vector<float> few(11);
    CHECK(throws<std::invalid_argument>([&] { ta::EventColumns(few, 2, polar); }));
    CHECK(throws<std::invalid_argument>([&] {
        ta::EventColumns(features, 4, {{Feature::R, Feature::Z, Feature::X}, {1, 1, 1}});
    }));
    CHECK(throws<std::invalid_argument>([&] {
        ta::EventColumns(features, 4, {{Feature::R, Feature::Phi, Feature::Z}, {1, 1}});
    }));
    for (float wrong :
         {0.35f, -0.1f, 1e6f, NAN}) { /* of a scale of ten: no whole number of cells */
        std::vector<float> bad = features;
        bad[3] = wrong;
        CHECK(throws<std::domain_error>([&] { ta::EventColumns(bad, 2, polar); }));
    }
}

/* ---- the three stages ---- */

void test_stages(const std::string &brokers) {
    const ta::RemoteTrackBuilding::Config config{
        {.brokers = brokers, .model = "mock"},
        {{Feature::X, Feature::Y, Feature::Z}, {Scale, Scale, Scale}}};
    std::vector<float> features;
    std::vector<int> ids;
    for (int i = 0; i < 25; i++) {
        features.insert(features.end(), {0.03f * static_cast<float>(i), 0.01f, 0.5f});
        ids.push_back(100 + i);
    }
    const auto tracks = run(config, features, 25, ids);
    CHECK(tracks.size() == 3 && tracks[0].size() == 10 && tracks[2].size() == 5);
    CHECK(tracks[0].front() == 100 && tracks[2].back() == 124); /* ids, not rows */
    CHECK(run(config, {}, 0, {}).empty());
    CHECK(run(config, {0.f, 0.1f, 0.2f}, 1, {7}) == std::vector<std::vector<int>>{{7}});

    std::vector<float> infinite = features;
    infinite[4] = INFINITY;
    CHECK(throws<trackmill::Exception>([&] { run(config, infinite, 25, ids); }));
    CHECK(throws<std::invalid_argument>([&] { run(config, features, 25, {1, 2}); }));
    CHECK(throws<trackmill::Exception>([] {
        ta::RemoteTrackBuilding({{.brokers = "nonsense", .model = ""}, {}});
    }));

    /* one set of stages, several threads: ACTS's sequencer */
    std::vector<std::thread> threads;
    ta::RemoteTrackBuilding build(config);
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            for (int k = 0; k < 10; k++) {
                ta::RemoteGraphConstruction construct;
                std::vector<float> mine = features;
                std::vector<int> its = ids;
                mine[0] = static_cast<float>(t);
                CHECK(build(construct(mine, 25, {}), its).size() == 3);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* ---- the algorithm ---- */

ActsExamples::SpacePointContainer make_points(std::size_t n) {
    ActsExamples::SpacePointContainer points;
    for (std::size_t i = 0; i < n; i++) {
        /* the last one is a strip pair: two measurements */
        std::vector<Acts::SourceLink> links{
            Acts::SourceLink(ActsExamples::IndexSourceLink(static_cast<std::uint32_t>(2 * i)))};
        if (i + 1 == n) {
            links.emplace_back(
                ActsExamples::IndexSourceLink(static_cast<std::uint32_t>(2 * i + 1)));
        }
        points.emplace_back(static_cast<float>(i), 1.f, 2.f, links);
    }
    return points;
}

void test_algorithm(const std::string &brokers) {
    using ActsExamples::ProcessCode, ActsExamples::ProtoTrackContainer;
    ta::TrackFindingAlgorithm::Config config;
    CHECK(throws<std::invalid_argument>([&] { ta::TrackFindingAlgorithm{config}; }));
    config.inputSpacePoints = "points";
    CHECK(throws<std::invalid_argument>([&] { ta::TrackFindingAlgorithm{config}; }));
    config.outputProtoTracks = "prototracks";
    config.service.brokers = brokers;

    ActsExamples::WhiteBoard store{{"points", make_points(12)}};
    const ActsExamples::AlgorithmContext context{5, store};
    ta::TrackFindingAlgorithm algorithm(config);
    CHECK(algorithm.execute(context) == ProcessCode::SUCCESS &&
          algorithm.finalize() == ProcessCode::SUCCESS);
    auto tracks = std::any_cast<ProtoTrackContainer>(store.at("prototracks"));
    /* runs of ten and two space points; the second has three measurements, which is just enough */
    CHECK(tracks.size() == 2 && tracks[0].size() == 10 && tracks[0][9] == 18);
    CHECK((tracks[1] == ActsExamples::ProtoTrack{20, 22, 23}));
    CHECK(throws<std::invalid_argument>(
        [&] { static_cast<void>(algorithm.execute(context)); })); /* the same event again */

    /* with clusters, of which there is one for each measurement; a longer least length */
    config.inputClusters = "clusters";
    config.minMeasurementsPerTrack = 4;
    ActsExamples::ClusterContainer clusters(24, {2, 1, {{0.5}, {0.25}}});
    ActsExamples::WhiteBoard second{{"points", make_points(12)}, {"clusters", clusters}};
    CHECK(ta::TrackFindingAlgorithm(config).execute({6, second}) == ProcessCode::SUCCESS);
    CHECK(std::any_cast<ProtoTrackContainer>(second.at("prototracks")).size() == 1);
    ActsExamples::WhiteBoard too_few{{"points", make_points(12)},
                                     {"clusters", ActsExamples::ClusterContainer(3)}};
    CHECK(throws<std::out_of_range>([&] {
        static_cast<void>(ta::TrackFindingAlgorithm(config).execute({7, too_few}));
    }));

    /* nobody serves that model */
    config.service.model = "nobody-has-this";
    config.service.deadline = std::chrono::milliseconds(200);
    ActsExamples::WhiteBoard third{{"points", make_points(12)}, {"clusters", clusters}};
    CHECK(ta::TrackFindingAlgorithm(config).execute({8, third}) == ProcessCode::ABORT &&
          !third.contains("prototracks"));
    config.skipOnFailure = true;
    CHECK(ta::TrackFindingAlgorithm(config).execute({8, third}) == ProcessCode::SUCCESS);
    CHECK(std::any_cast<ProtoTrackContainer>(third.at("prototracks")).empty());
}

} // namespace

int main() {
    test_columns();
    static service_t service;
    service_start(&service, 1, 1, "time_ms=1");
    test_stages(service.list);
    test_algorithm(service.list);
    service_stop(&service, false);
    std::puts("client/acts/cpp: ok");
}
