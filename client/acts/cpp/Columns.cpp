// SPDX-License-Identifier: Apache-2.0
#include "Columns.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

namespace trackmill::acts {

namespace {

constexpr float MostCells = std::numeric_limits<std::uint16_t>::max();
/* Sizes are counts divided by their scale and multiplied again: not exactly whole any more. */
constexpr float CountTolerance = 0.01f;

std::uint16_t toCount(float value, const char *what, std::size_t row) {
    float whole = std::round(value);
    if (!(whole >= 0 && whole <= MostCells && std::abs(value - whole) <= CountTolerance)) {
        throw std::domain_error("trackmill: space point " + std::to_string(row) + ": " + what +
                                " is " + std::to_string(value) +
                                ": no number of cells; are scales those of the features?");
    }
    return static_cast<std::uint16_t>(whole);
}

std::uint16_t clampCount(std::size_t count) {
    return static_cast<std::uint16_t>(
        std::min<std::size_t>(count, std::numeric_limits<std::uint16_t>::max()));
}

/* Where the features are that make columns. */
class Finder {
  public:
    Finder(std::span<const float> features, const NodeLayout &layout)
        : m_features(features), m_layout(layout) {
    }
    std::optional<std::size_t> at(Feature feature) const {
        auto found = std::ranges::find(m_layout.features, feature);
        if (found == m_layout.features.end()) {
            return std::nullopt;
        }
        return static_cast<std::size_t>(found - m_layout.features.begin());
    }
    float value(std::size_t row, std::size_t feature) const {
        return m_features[row * m_layout.features.size() + feature] * m_layout.scales[feature];
    }

  private:
    std::span<const float> m_features;
    const NodeLayout &m_layout;
};

} // namespace

EventColumns::EventColumns(std::size_t n, bool withClusters)
    : m_withCells(withClusters), m_withLoc0(withClusters), m_withLoc1(withClusters),
      m_withCharge(withClusters) {
    for (auto *column : {&m_x, &m_y, &m_z}) {
        column->reserve(n);
    }
}

EventColumns::EventColumns(std::span<const float> features, std::size_t n,
                           const NodeLayout &layout) {
    if (layout.features.size() != layout.scales.size() ||
        features.size() != n * layout.features.size()) {
        throw std::invalid_argument("trackmill: " + std::to_string(layout.features.size()) +
                                    " features and " + std::to_string(layout.scales.size()) +
                                    " scales in the layout, " + std::to_string(features.size()) +
                                    " values for " + std::to_string(n) + " space points");
    }
    const Finder find(features, layout);
    const auto x = find.at(Feature::X), y = find.at(Feature::Y), z = find.at(Feature::Z);
    const auto r = find.at(Feature::R), phi = find.at(Feature::Phi);
    if (!z || !((x && y) || (r && phi))) {
        throw std::invalid_argument(
            "trackmill: the node features must contain z, and x and y or r and phi");
    }
    for (std::size_t i = 0; i < n; i++) {
        if (x && y) {
            addPoint(find.value(i, *x), find.value(i, *y), find.value(i, *z));
        } else {
            const float radius = find.value(i, *r), angle = find.value(i, *phi);
            addPoint(radius * std::cos(angle), radius * std::sin(angle), find.value(i, *z));
        }
    }
    struct Count {
        Feature feature;
        const char *name;
        std::vector<std::uint16_t> &column;
        bool &with;
    };
    for (const Count &c :
         std::to_array<Count>({{Feature::CellCount, "cell count", m_nCells, m_withCells},
                               {Feature::ClusterLoc0, "cluster size 0", m_sizeLoc0, m_withLoc0},
                               {Feature::ClusterLoc1, "cluster size 1", m_sizeLoc1, m_withLoc1}})) {
        if (const auto at = find.at(c.feature)) {
            c.with = true;
            for (std::size_t i = 0; i < n; i++) {
                c.column.push_back(toCount(find.value(i, *at), c.name, i));
            }
        }
    }
    if (const auto at = find.at(Feature::ChargeSum)) {
        m_withCharge = true;
        for (std::size_t i = 0; i < n; i++) {
            m_charge.push_back(find.value(i, *at));
        }
    }
}

void EventColumns::addPoint(float xMm, float yMm, float zMm) {
    m_x.push_back(xMm);
    m_y.push_back(yMm);
    m_z.push_back(zMm);
}

void EventColumns::addCluster(std::size_t nCells, std::size_t sizeLoc0, std::size_t sizeLoc1,
                              double charge) {
    m_nCells.push_back(clampCount(nCells));
    m_sizeLoc0.push_back(clampCount(sizeLoc0));
    m_sizeLoc1.push_back(clampCount(sizeLoc1));
    m_charge.push_back(static_cast<float>(charge));
}

Event EventColumns::event() const {
    Event event;
    event.add("x", m_x).value();
    event.add("y", m_y).value();
    event.add("z", m_z).value();
    if (m_withCells) {
        event.add("n_cells", m_nCells).value();
    }
    if (m_withLoc0) {
        event.add("size_loc0", m_sizeLoc0).value();
    }
    if (m_withLoc1) {
        event.add("size_loc1", m_sizeLoc1).value();
    }
    if (m_withCharge) {
        event.add("charge", m_charge).value();
    }
    return event;
}

} // namespace trackmill::acts
