// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <string.h>

#include "broker/core/state.h"

/* ---- models ---- */

tm_model_t *tm_models_find(tm_sched_t *s, const char *name, const char *version) {
    TM_LIST_EACH(&s->models, it, after) {
        tm_model_t *model = TM_LIST_ITEM(it, tm_model_t, all);
        if (!strcmp(model->id.name, name) && !strcmp(model->id.version, version))
            return model;
    }
    return NULL;
}

tm_model_t *tm_models_get(tm_sched_t *s, const tm_model_id_t *id) {
    tm_model_t *model = tm_models_find(s, id->name, id->version);
    if (!model && s->models_slab.used >= TM_SCHED_MODELS_MAX) {
        // make room: the statistics of a model that nobody serves any more
        TM_LIST_EACH(&s->models, it, after) {
            tm_model_t *old = TM_LIST_ITEM(it, tm_model_t, all);
            if (!old->living) {
                tm_list_remove(&old->all);
                tm_slab_put(&s->models_slab, old->slot);
                break;
            }
        }
    }
    if (!model) {
        if (s->models_slab.used >= TM_SCHED_MODELS_MAX || tm_slab_reserve(&s->models_slab))
            return NULL;
        uint32_t slot;
        model = tm_slab_take(&s->models_slab, &slot);
        model->slot = slot;
        model->uid = ++s->next_uid;
        model->id = *id;
        tm_list_push_back(&s->models, &model->all);
    } else if (!model->living && memcmp(model->id.hash, id->hash, TM_HASH_BYTES)) {
        // the same name came back with other weights: late results of the old ones do not count
        model->uid = ++s->next_uid;
        model->id = *id;
    }
    return model;
}

tm_model_t *tm_models_resolve(tm_sched_t *s, const char *name, const char *version,
                              bool *ambiguous) {
    tm_model_t *best = NULL;
    *ambiguous = false;
    TM_LIST_EACH(&s->models, it, after) {
        tm_model_t *model = TM_LIST_ITEM(it, tm_model_t, all);
        if (!model->usable || (name[0] && strcmp(model->id.name, name)) ||
            (version[0] && strcmp(model->id.version, version)))
            continue;
        if (best && strcmp(best->id.name, model->id.name)) {
            *ambiguous = true;
            return NULL;
        }
        if (!best || strverscmp(model->id.version, best->id.version) > 0)
            best = model;
    }
    return best;
}

/* ---- lanes ---- */

tm_lane_t *tm_lanes_get(tm_sched_t *s, const char *name, const char *version) {
    uint64_t hash = tm_index_hash_bytes(s->config.epoch, name, strlen(name));
    hash = tm_index_hash_bytes(hash, version, strlen(version));
    // two names with one hash get consecutive second keys
    uint64_t nth = 0;
    for (tm_lane_t *lane; (lane = tm_index_find(&s->lanes, hash, nth)); nth++)
        if (!strcmp(lane->name, name) && !strcmp(lane->version, version))
            return lane;

    if (tm_slab_reserve(&s->lanes_slab) || tm_index_reserve(&s->lanes, s->lanes.count + 1))
        return NULL;
    uint32_t slot;
    tm_lane_t *lane = tm_slab_take(&s->lanes_slab, &slot);
    lane->slot = slot;
    lane->key[0] = hash;
    lane->key[1] = nth;
    strcpy(lane->name, name); // both were checked against TM_NAME_MAX
    strcpy(lane->version, version);
    for (int i = 0; i < TM_PRIORITIES; i++)
        tm_list_init(&lane->queue[i]);
    tm_list_init(&lane->in_servable);
    tm_list_push_back(&s->all_lanes, &lane->all);
    tm_index_insert(&s->lanes, hash, nth, lane);
    bool ambiguous;
    lane->model = tm_models_resolve(s, name, version, &ambiguous);
    return lane;
}

void tm_lanes_leave(tm_sched_t *s, tm_lane_t *lane) {
    assert(lane->members > 0);
    if (--lane->members)
        return;
    tm_list_remove(&lane->in_servable);
    tm_list_remove(&lane->all);
    tm_index_remove(&s->lanes, lane->key[0], lane->key[1]);
    tm_slab_put(&s->lanes_slab, lane->slot);
}

void tm_lanes_update(tm_sched_t *s, tm_lane_t *lane) {
    bool servable = lane->queued && lane->model;
    bool is = !tm_list_empty(&lane->in_servable);
    if (servable && !is)
        tm_list_push_back(&s->servable, &lane->in_servable);
    else if (!servable && is)
        tm_list_remove(&lane->in_servable);
}

void tm_lanes_resolve(tm_sched_t *s) {
    TM_LIST_EACH(&s->all_lanes, it, after) {
        tm_lane_t *lane = TM_LIST_ITEM(it, tm_lane_t, all);
        bool ambiguous;
        tm_model_t *model = tm_models_resolve(s, lane->name, lane->version, &ambiguous);
        if (lane->model && !model)
            lane->lost_seq = s->next_seq;
        lane->model = model;
        tm_lanes_update(s, lane);
    }
}
