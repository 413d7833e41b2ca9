// SPDX-License-Identifier: Apache-2.0
#include "wire/schema.h"

#include <string.h>

#define RULE(upper, lower, kind, min, max) \
    [TM_FIELD_INDEX_##upper] = {#lower, TM_KIND_##kind, offsetof(tm_message_t, lower), min, max}

static const tm_field_rule_t fields[TM_FIELD_COUNT] = {
    RULE(SOFTWARE, software, STR, 1, TM_SOFTWARE_MAX),
    RULE(NAME, name, STR, 1, TM_NAME_MAX),
    RULE(CODE, code, UINT, 1, TM_CODE_MAX),
    RULE(TEXT, text, TEXT, 0, TM_TEXT_MAX),
    RULE(RETRY_AFTER_MS, retry_after_ms, UINT, 0, TM_TTL_MAX_MS),
    RULE(PROTOCOL, protocol, UINT, 0, UINT8_MAX),
    RULE(EPOCH, epoch, UINT, 1, UINT64_MAX),
    RULE(HEARTBEAT_MS, heartbeat_ms, UINT, TM_HEARTBEAT_MIN_MS, TM_HEARTBEAT_MAX_MS),
    RULE(LIVENESS, liveness, UINT, 1, TM_LIVENESS_MAX),
    RULE(WINDOW, window, UINT, 1, TM_WINDOW_MAX),
    RULE(MAX_PAYLOAD, max_payload, UINT, 1, TM_PAYLOAD_MAX_BYTES),
    RULE(MODEL, model, REF, 0, TM_MODEL_REF_MAX),
    RULE(HASH, hash, BIN, TM_HASH_BYTES, TM_HASH_BYTES),
    RULE(TTL_MS, ttl_ms, UINT, 1, TM_TTL_MAX_MS),
    RULE(PRIORITY, priority, UINT, 0, TM_PRIORITIES - 1),
    RULE(ATTEMPT, attempt, UINT, 1, UINT32_MAX),
    RULE(COLUMNS, columns, RAW, 1, TM_COLUMNS_FIELD_MAX),
    RULE(TIMES, times, RAW, 1, TM_TIMES_FIELD_MAX),
    RULE(QUEUE_US, queue_us, UINT, 0, TM_COUNT_MAX),
    RULE(SERVICE_US, service_us, UINT, 0, TM_COUNT_MAX),
    RULE(WORKER, worker, STR, 1, TM_NAME_MAX),
    RULE(DEVICE, device, STR, 1, TM_NAME_MAX),
    RULE(BACKEND, backend, STR, 1, TM_NAME_MAX),
    RULE(SLOTS, slots, UINT, 1, TM_SLOTS_MAX),
    RULE(MODELS, models, RAW, 1, TM_MODELS_FIELD_MAX),
    RULE(CREDIT, credit, UINT, 1, TM_CREDIT_MAX),
    RULE(RUNNING, running, UINT, 0, TM_COUNT_MAX),
    RULE(QUEUED, queued, UINT, 0, TM_COUNT_MAX),
    RULE(WORKERS, workers, UINT, 0, TM_COUNT_MAX),
    RULE(CLIENTS, clients, UINT, 0, TM_COUNT_MAX),
    RULE(ANSWERED, answered, UINT, 0, TM_COUNT_MAX),
    RULE(UPTIME_MS, uptime_ms, UINT, 0, TM_COUNT_MAX),
};

#define F(upper) TM_FIELD(upper)

static const tm_command_rule_t commands[] = {
    {TM_CMD_HELLO, "HELLO", TM_ID_ZERO, false, false, F(SOFTWARE), F(NAME)},
    {TM_CMD_WELCOME, "WELCOME", TM_ID_ZERO, false, false,
     F(SOFTWARE) | F(EPOCH) | F(HEARTBEAT_MS) | F(LIVENESS) | F(MAX_PAYLOAD), F(NAME) | F(WINDOW)},
    {TM_CMD_PING, "PING", TM_ID_ZERO, false, false, 0, 0},
    {TM_CMD_PONG, "PONG", TM_ID_ZERO, false, false, 0, 0},
    {TM_CMD_BYE, "BYE", TM_ID_ZERO, false, false, 0, F(TEXT)},
    {TM_CMD_ERROR, "ERROR", TM_ID_EITHER, false, false, F(CODE) | F(TEXT),
     F(RETRY_AFTER_MS) | F(PROTOCOL)},
    {TM_CMD_REQUEST, "REQUEST", TM_ID_SET, true, false, F(COLUMNS),
     F(MODEL) | F(TTL_MS) | F(PRIORITY)},
    {TM_CMD_ANSWER, "ANSWER", TM_ID_SET, true, true,
     F(MODEL) | F(HASH) | F(ATTEMPT) | F(COLUMNS) | F(TIMES) | F(QUEUE_US) | F(SERVICE_US) |
         F(WORKER),
     0},
    {TM_CMD_CANCEL, "CANCEL", TM_ID_SET, false, false, 0, 0},
    {TM_CMD_STATUS, "STATUS", TM_ID_ZERO, false, false, 0, 0},
    {TM_CMD_REPORT, "REPORT", TM_ID_ZERO, false, false,
     F(SOFTWARE) | F(MODELS) | F(RUNNING) | F(QUEUED) | F(WORKERS) | F(CLIENTS) | F(ANSWERED) |
         F(UPTIME_MS),
     F(NAME)},
    {TM_CMD_REGISTER, "REGISTER", TM_ID_ZERO, false, false,
     F(SOFTWARE) | F(NAME) | F(MAX_PAYLOAD) | F(DEVICE) | F(BACKEND) | F(SLOTS) | F(MODELS), 0},
    {TM_CMD_HEARTBEAT, "HEARTBEAT", TM_ID_ZERO, false, false, 0, F(RUNNING)},
    {TM_CMD_CREDIT, "CREDIT", TM_ID_ZERO, false, false, F(CREDIT), 0},
    {TM_CMD_DISPATCH, "DISPATCH", TM_ID_SET, true, true,
     F(MODEL) | F(TTL_MS) | F(ATTEMPT) | F(COLUMNS), 0},
    {TM_CMD_STARTED, "STARTED", TM_ID_SET, false, false, 0, 0},
    {TM_CMD_RESULT, "RESULT", TM_ID_SET, true, false, F(COLUMNS) | F(TIMES), 0},
    {TM_CMD_FAILED, "FAILED", TM_ID_SET, false, false, F(CODE) | F(TEXT), 0},
    {TM_CMD_REVOKE, "REVOKE", TM_ID_SET, false, false, 0, 0},
    {TM_CMD_DRAIN, "DRAIN", TM_ID_ZERO, false, false, 0, F(TEXT)},
};

const tm_field_rule_t *tm_schema_field(unsigned index) {
    return &fields[index];
}

const tm_command_rule_t *tm_schema_command_at(unsigned index) {
    return index < sizeof commands / sizeof commands[0] ? &commands[index] : NULL;
}

const tm_command_rule_t *tm_schema_command(tm_command_t command) {
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (commands[i].command == command) {
            return &commands[i];
        }
    }
    return NULL;
}

bool tm_model_name_valid(const char *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        char c = data[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-')) {
            return false;
        }
    }
    return bytes >= 1 && bytes <= TM_NAME_MAX;
}

bool tm_model_ref_valid(const char *data, size_t bytes, bool resolved) {
    const char *at = bytes > 0 ? memchr(data, '@', bytes) : NULL;
    if (!at) {
        return !resolved && tm_model_name_valid(data, bytes);
    }
    size_t name = (size_t)(at - data);
    return tm_model_name_valid(data, name) && tm_model_name_valid(at + 1, bytes - name - 1);
}
