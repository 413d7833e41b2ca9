# SPDX-License-Identifier: Apache-2.0
"""The constants of wire/SPEC.md, "Limits and timing", under its names without TM_."""

PROTOCOL_VERSION = 1
HEADER_BYTES = 24
MAP_MAX_BYTES = 4096
MAP_MAX_DEPTH = 4
PAYLOAD_MAX_BYTES = 268435456
PAYLOAD_ALIGN = 8
NAME_MAX = 63
SOFTWARE_MAX = 63
CODE_MAX = 99
HASH_BYTES = 32
TEXT_MAX = 480
COLUMN_NAME_MAX = 31
STAGE_NAME_MAX = 15
MODEL_REF_MAX = 127
COLUMNS_FIELD_MAX = 2048
TIMES_FIELD_MAX = 1024
MODELS_FIELD_MAX = 3072
COLUMNS_MAX = 32
STAGES_MAX = 16
MODELS_MAX = 16
SLOTS_MAX = 64
CREDIT_MAX = 256
WINDOW_MAX = 65536
COUNT_MAX = 9223372036854775807
POINTS_MAX = 4000000
POSITION_MAX_MM = 100000
HEARTBEAT_MIN_MS = 10
HEARTBEAT_MAX_MS = 60000
LIVENESS_MAX = 100
HELLO_TIMEOUT_MS = 3000
RECONNECT_MIN_MS = 200
RECONNECT_MAX_MS = 5000
TTL_DEFAULT_MS = 60000
TTL_MAX_MS = 86400000
ATTEMPT_TIMEOUT_MS = 120000
RETRY_AFTER_MS = 500
PRIORITIES = 3
PRIORITY_DEFAULT = 1

# what encryption adds to a frame ("Roles and transport")
FRAME_EXTRA_BYTES = 64
# beyond ttl_ms a client waits so long for the broker's word, in case it has died ("Reliability")
DEADLINE_GRACE_MS = 3000
# a payload on its way out excuses a broker's silence for so long
UPLOAD_MAX_MS = 60000
# a broker that says unknown_peer so often without an answer between is not a broker
UNKNOWNS_MAX = 3
# how long BYE may take to leave
LINGER_MS = 500
