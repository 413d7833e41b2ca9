// SPDX-License-Identifier: Apache-2.0
/*
 * The space points of one event as trackmill's columns, from what ACTS has.
 *
 * Bytes per space point on the wire: 12 for x, y, z (f32, mm), 2 for each of n_cells, size_loc0 and
 * size_loc1 (u16), 4 for charge (f32).
 */
#ifndef TRACKMILL_ACTS_COLUMNS_HPP
#define TRACKMILL_ACTS_COLUMNS_HPP

#include <cstdint>
#include <span>
#include <vector>

#include "trackmill.hpp"

namespace trackmill::acts {

/* What a node feature of ACTS's GNN plugin is, of those that a trackmill model can use. */
enum class Feature { X, Y, Z, R, Phi, CellCount, ClusterLoc0, ClusterLoc1, ChargeSum, Unused };

/* The node features as TrackFindingAlgorithmGnn makes them: nodeFeatures and featureScales of its
 * Config, in the same order. A feature times its scale is the value in mm, radians, cells. */
struct NodeLayout {
    std::vector<Feature> features = {Feature::R, Feature::Phi, Feature::Z};
    std::vector<float> scales = {1.f, 1.f, 1.f};
};

/* Columns with their memory. */
class EventColumns {
  public:
    EventColumns() = default;
    /* With room for n points; cluster columns if wanted. */
    EventColumns(std::size_t n, bool withClusters);
    /* From features, row-major [n, layout.features.size()]. std::invalid_argument: the layout has no
     * position, or the sizes do not fit; std::domain_error: a cluster column that is not a number of
     * cells (the text names feature and row). */
    EventColumns(std::span<const float> features, std::size_t n, const NodeLayout &layout);

    void addPoint(float xMm, float yMm, float zMm);
    /* After addPoint, for each point or for none. */
    void addCluster(std::size_t nCells, std::size_t sizeLoc0, std::size_t sizeLoc1, double charge);

    std::size_t size() const {
        return m_x.size();
    }
    /* Borrows the columns: not beyond the life of this object, and not beyond its next change. */
    Event event() const;

  private:
    std::vector<float> m_x, m_y, m_z, m_charge;
    std::vector<std::uint16_t> m_nCells, m_sizeLoc0, m_sizeLoc1;
    bool m_withCells = false, m_withLoc0 = false, m_withLoc1 = false, m_withCharge = false;
};

} // namespace trackmill::acts
#endif
