// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <string.h>

#include "nn/cuda/fused/gnn_phases.cuh"

static void add_net(tm_gnn_network_t *a, int number, const tm_fused_node_mlp_t *net) {
    a->mlp[number] = net->mlp;
    a->node[number].n_parts = net->n_parts;
    memcpy(a->node[number].part, net->part, sizeof net->part);
    a->node[number].tables = net->tables;
}

static tm_gnn_phase_t *add_phase(tm_gnn_network_t *a, uint32_t *n) {
    assert(*n < TM_GNN_PHASES_MAX);
    tm_gnn_phase_t *p = &a->phase[(*n)++];
    *p = (tm_gnn_phase_t){};
    p->nodes.net = p->edges.net = p->output.net = TM_GNN_NONE;
    for (int k = 0; k < TM_GNN_EXTRA_TABLES_MAX; k++) {
        p->extra[k].net = TM_GNN_NONE;
    }
    return p;
}

static void add_nodes(const tm_gnn_network_t *a, tm_gnn_phase_t *p, int net, uint32_t slot) {
    p->nodes.net = net;
    p->node_slot = slot;
    for (uint32_t k = 0; k < a->node[net].n_parts; k++) {
        const tm_fused_node_part_t *part = &a->node[net].part[k];
        if (part->kind != TM_FUSED_X && part->kind != TM_FUSED_X0) {
            p->lists[part->at_src] = true;
        }
    }
}

static void add_edges(tm_gnn_phase_t *p, int net, uint32_t slot) {
    p->edges.net = net;
    p->edge_slot = slot;
    p->update_edges = true;
}

/* Slots of even steps: edges read the tables at 0, nodes write those at 2. */
static void add_step(const tm_fused_model_t *model, size_t roomy, bool last, tm_gnn_network_t *a,
                     uint32_t *n) {
    const int net = last ? TM_GNN_LAST_NODE_MLP : TM_GNN_NODE_MLP;
    tm_gnn_phase_t *edges = NULL;
    if (model->edge_first) {
        edges = add_phase(a, n);
    }
    tm_gnn_phase_t *nodes = add_phase(a, n);
    add_nodes(a, nodes, net, 2);
    if (!model->edge_first && !last && tm_fused_gnn_generations(model) == 2 &&
        a->mlp[net].bytes + a->mlp[TM_GNN_EDGE_MLP].bytes <= roomy) {
        edges = nodes; /* side by side */
        edges->e_to = 1;
        a->two_generations = true;
    }
    if (model->tables_apart) {
        add_nodes(a, add_phase(a, n), last ? TM_GNN_OUTPUT_TABLES : TM_GNN_EDGE_TABLES, 2);
    }
    if (!edges) {
        edges = add_phase(a, n);
    }
    add_edges(edges, TM_GNN_EDGE_MLP, 0);
    if (last) {
        /* edges that go first are scored at the end: the output wants the nodes' last states */
        tm_gnn_phase_t *scored = model->edge_first ? add_phase(a, n) : edges;
        scored->edges.net = TM_GNN_EDGE_MLP;
        scored->output.net = TM_GNN_OUTPUT;
        scored->output_slot = 2;
    }
}

static void add_encoders(size_t roomy, tm_gnn_network_t *a, uint32_t *n) {
    static const int tables[TM_GNN_EXTRA_TABLES_MAX] = {TM_GNN_ENCODER_TABLES, TM_GNN_EDGE_TABLES};
    static const uint32_t slot[TM_GNN_EXTRA_TABLES_MAX] = {2, 0};
    const size_t together = (size_t)a->mlp[TM_GNN_NODE_ENCODER].bytes +
                            a->mlp[TM_GNN_ENCODER_TABLES].bytes + a->mlp[TM_GNN_EDGE_TABLES].bytes;
    tm_gnn_phase_t *p = add_phase(a, n);
    add_nodes(a, p, TM_GNN_NODE_ENCODER, 0);
    p->encode = true;
    for (int k = 0; k < TM_GNN_EXTRA_TABLES_MAX; k++) {
        if (together <= roomy) {
            p->extra[k].net = tables[k];
            p->extra_slot[k] = slot[k];
        } else {
            add_nodes(a, add_phase(a, n), tables[k], slot[k]);
        }
    }
    p = add_phase(a, n);
    add_edges(p, TM_GNN_EDGE_ENCODER, 2);
    p->encode = true;
}

/* The phase, then one image behind the other; returns their end. */
static uint32_t place_images(const tm_gnn_network_t *a, tm_gnn_phase_t *p) {
    tm_gnn_image_t *images[] = {&p->nodes, &p->edges, &p->output, &p->extra[0], &p->extra[1]};
    uint32_t used = TM_GNN_PHASE_BYTES;
    for (tm_gnn_image_t *image : images) {
        if (image->net != TM_GNN_NONE) {
            image->at = used;
            used += a->mlp[image->net].bytes;
        }
    }
    return used;
}

void tm_gnn_add_phases(const tm_fused_model_t *model, size_t roomy, tm_gnn_network_t *a) {
    add_net(a, TM_GNN_NODE_ENCODER, &model->node_encoder);
    add_net(a, TM_GNN_NODE_MLP, &model->node_mlp);
    add_net(a, TM_GNN_LAST_NODE_MLP, &model->last_node_mlp);
    add_net(a, TM_GNN_ENCODER_TABLES, &model->encoder_tables);
    add_net(a, TM_GNN_EDGE_TABLES, &model->edge_tables);
    add_net(a, TM_GNN_OUTPUT_TABLES, &model->output_tables);
    a->mlp[TM_GNN_EDGE_ENCODER] = model->edge_encoder;
    a->mlp[TM_GNN_EDGE_MLP] = model->edge_mlp;
    a->mlp[TM_GNN_OUTPUT] = model->output;
    a->with_e0 = model->with_e0;
    uint32_t n = 0;
    add_encoders(roomy, a, &n);
    a->n_first = n;
    add_step(model, roomy, false, a, &n);
    a->n_repeated = n - a->n_first;
    add_step(model, roomy, true, a, &n);
    a->n_last = n - a->n_first - a->n_repeated;
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t end = place_images(a, &a->phase[k]);
        a->stage_at = end > a->stage_at ? end : a->stage_at;
    }
}
