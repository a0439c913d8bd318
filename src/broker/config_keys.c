/* SPDX-License-Identifier: Apache-2.0 */
/* Order is the order of printing: keys of one section must stand together. */
#include "broker/config_keys.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define OPT           CONFIG_F_OPTIONAL
#define SECRET        CONFIG_F_SECRET
#define IDLE          CONFIG_F_NO_EFFECT
#define FILLED        CONFIG_F_NOT_EMPTY
#define AT(member)    offsetof(struct config, member)

#define ROW(path, type, member, def, min, max, choices, flags, help)           \
    {                                                                          \
        path, CONFIG_T_##type, flags, AT(member), def, min, max, choices, help \
    }
#define BOOL(path, member, def, flags, help) ROW(path, BOOL, member, def, 0, 0, NULL, flags, help)
#define STR(path, member, def, flags, help)  ROW(path, STR, member, def, 0, 0, NULL, flags, help)
#define LIST(path, member, def, flags, help) ROW(path, LIST, member, def, 0, 0, NULL, flags, help)
#define MAP(path, member, def, flags, help)  ROW(path, MAP, member, def, 0, 0, NULL, flags, help)
#define NUM(path, type, member, def, min, max, flags, help) \
    ROW(path, type, member, def, min, max, NULL, flags, help)
#define ENUM(path, member, def, choices, flags, help) \
    ROW(path, ENUM, member, def, 0, 0, choices, flags, help)

static const struct config_key main_keys[] = {
    STR("sentry_dsn", sentry_dsn, NULL, OPT | SECRET | IDLE,
        "error reporting to Sentry; not supported yet"),
    STR("sentry_env", sentry_env, NULL, OPT | IDLE, "environment named in those reports"),
    NUM("traces_sample_rate", F64, traces_sample_rate, "0.0", 0, 0,
        OPT | IDLE | CONFIG_F_NULL_IS_DEF, "share of calls traced"),
    STR("log_filter", log_filter, "info,librdkafka=warn,h2=off", 0,
        "comma list of `level` or `target=level`"),
    ENUM("log_format", log_format, "text", "text|json", 0, "form of the records on stderr"),
    STR("statsd_addr", statsd_addr, "127.0.0.1:8126", FILLED,
        "host:port that statsd metrics go to, by UDP (docs/metrics.md)"),
    MAP("default_metrics_tags", default_metrics_tags, "{}", 0, "tags added to every statsd metric"),
    STR("grpc_addr", grpc_addr, "0.0.0.0", FILLED,
        "address to listen on: an IP literal, not a host name"),
    NUM("grpc_port", U32, grpc_port, "50051", 0, 65535, 0, "port to listen on; 0: no gRPC server"),
    NUM("grpc_threads", U32, grpc_threads, NULL, 1, 64, OPT,
        "threads that serve connections; null: the number of CPUs, but 1 to 4"),
    NUM("grpc_long_poll_ms", U32, grpc_long_poll_ms, "5000", 0, 3600000, 0,
        "how long GetTask waits for a task before NOT_FOUND; 0: answers at once, as the original"),
    LIST("grpc_shared_secret", grpc_shared_secret, "[]", SECRET,
         "HMAC secrets, any of which signs a call; none: no authentication"),
    STR("grpc_tls_certificate_location", grpc_tls_certificate_location, NULL, OPT | FILLED,
        "PEM file with the server's certificate chain: the gRPC port speaks TLS only"),
    STR("grpc_tls_key_location", grpc_tls_key_location, NULL, OPT | FILLED,
        "PEM file with its private key, required with the certificate"),
    STR("grpc_tls_client_ca_location", grpc_tls_client_ca_location, NULL, OPT | FILLED,
        "PEM file with the authorities of clients: every client must show a certificate (mTLS)"),
    NUM("grpc_max_connection_age_ms", U32, grpc_max_connection_age_ms, "0", 0, 0, 0,
        "a connection older than this is told to go away, so that clients spread anew; 0: never"),
    NUM("grpc_max_connection_idle_ms", U32, grpc_max_connection_idle_ms, "0", 0, 0, 0,
        "the same for a connection without calls; 0: never"),
    STR("admin_addr", admin_addr, "127.0.0.1:9464", OPT | FILLED,
        "host:port of /metrics, /healthz, /readyz and /status.json over plain HTTP; when the "
        "default is taken, the next free port up to 9473; null: none"),
    BOOL("embedded", embedded, "false", 0,
         "no Kafka: topics live in the database file, producers call Enqueue"),
    STR("kafka_long_topic", kafka_long_topic, "taskworker-long", FILLED,
        "where tasks of demoted namespaces go, unless the runtime configuration says otherwise"),
    STR("kafka_deadletter_topic", kafka_deadletter_topic, "taskworker-dlq", FILLED,
        "where dead letters go; one of `kafka_topics` (added by itself in the legacy format)"),
    STR("kafka_retry_topic", kafka_retry_topic, NULL, OPT | FILLED,
        "where retries go; null: the only consumed topic"),
    BOOL("create_missing_topics", create_missing_topics, "false", 0,
         "creates the topics of `kafka_topics` at start"),
    NUM("default_topic_partitions", I32, default_topic_partitions, "1", -1, 100000, 0,
        "partitions of created topics; -1: what the cluster is set to"),
    NUM("kafka_session_timeout_ms", MS, kafka_session_timeout_ms, "6000", 1, 3600000, 0,
        "time without heartbeat after which the group gives our partitions away"),
    NUM("kafka_auto_commit_interval_ms", MS, kafka_auto_commit_interval_ms, "5000", 0, 0, IDLE,
        "offsets are committed as soon as their messages are durable"),
    STR("kafka_auto_offset_reset", kafka_auto_offset_reset, "latest", FILLED,
        "where a new group starts: earliest or latest"),
    NUM("kafka_send_timeout_ms", MS, kafka_send_timeout_ms, "500", 0, 0, IDLE,
        "nothing waits for room in the producer's queue; the row stays until it is delivered"),
    NUM("kafka_prefetch_bytes", U64, kafka_prefetch_bytes, "67108864", 1048576, 0, 0,
        "memory for messages read ahead, over all partitions of a consumer"),
    NUM("max_message_size", U64, max_message_size, "5000000", 1000, 1000000000, 0,
        "largest record a producer sends"),
    NUM("grpc_max_message_size", U64, grpc_max_message_size, "54525952", 0, 0, IDLE, "push mode"),
    STR("runtime_config_path", runtime_config_path, NULL, OPT,
        "file with killswitch and demotions, read at start, every 60 s and on SIGHUP"),
    NUM("upkeep_task_interval_ms", MS, upkeep_task_interval_ms, "1000", 1, 0, 0,
        "period of the upkeep.* metrics; timers are exact, nothing waits for a tick"),
    NUM("upkeep_unhealthy_interval_ms", MS, upkeep_unhealthy_interval_ms, "5000", 0, 0, 0,
        "a turn of the engine that lasts longer makes health NOT_SERVING"),
    BOOL("health_check_killswitched", health_check_killswitched, "false", 0,
         "health always says SERVING"),
    NUM("upkeep_deadline_reset_skip_after_startup_sec", SEC,
        upkeep_deadline_reset_skip_after_startup_sec, "60", 0, 0, 0,
        "for so long after the start no deadline of a task claimed before it fires"),
    NUM("maintenance_task_interval_ms", MS, maintenance_task_interval_ms, "6000", 1, 0, IDLE,
        "free pages are given back in slices between turns"),
    NUM("runtime_metrics_interval", DUR, runtime_metrics_interval_ms, "1s", 1, 0, 0,
        "how often metrics are sent to statsd_addr"),
    NUM("max_delayed_task_allowed_sec", SEC, max_delayed_task_allowed_sec, "2592000", 0, 0, 0,
        "longest delay of a task, longer ones are cut and counted (the original's default: 3600)"),
    NUM("at_most_once_memory_sec", SEC, at_most_once_memory_sec, "86400", 0, 0, 0,
        "how long the ids of ended at-most-once tasks are kept, so that a repeated message is "
        "recognised"),
    NUM("shutdown_timeout_ms", MS, shutdown_timeout_ms, "9000", 100, 0, 0,
        "limit of the whole shutdown"),
    BOOL("full_vacuum_on_start", full_vacuum_on_start, "true", 0,
         "set to true: VACUUM at start; by default only when more than half of the file is free"),
    BOOL("full_vacuum_on_upkeep", full_vacuum_on_upkeep, "true", IDLE,
         "the file never stops for a VACUUM under load"),
    NUM("vacuum_interval_ms", MS, vacuum_interval_ms, "30000", 0, 0, IDLE, "as above"),
    NUM("canary_tasks", U32, canary_tasks, "0", 0, 0, 0,
        "tasks `internal:canary_task` stored at start for each application of `worker_map`"),
    BOOL("log_async_backtrace", log_async_backtrace, "false", IDLE, "debug aid of the original"),
    ENUM("delivery_mode", delivery_mode, "pull", "pull|push", 0,
         "who calls whom; push is not supported yet"),
    BOOL("batch_status_updates", batch_status_updates, "false", IDLE,
         "reports share transactions anyway, and are durable when answered"),
    NUM("status_update_batch_size", U64, status_update_batch_size, "1", 1, 0, IDLE, "as above"),
    NUM("status_update_interval_ms", MS, status_update_interval_ms, "100", 1, 0, IDLE, "as above"),
    MAP("worker_map", worker_map, "{sentry=http://127.0.0.1:50052}", 0,
        "application -> URL of its workers: push mode; also the applications a raw topic may name"),
    STR("raw_namespace", raw_namespace, NULL, OPT,
        "with `raw_mode`: namespace of every task of the topic"),
    STR("raw_application", raw_application, NULL, OPT, "the same for the application"),
    STR("raw_taskname", raw_taskname, NULL, OPT, "the same for the task's name"),
    NUM("raw_processing_deadline_duration", SEC, raw_processing_deadline_duration, "30", 0, 65535,
        0, "the same for the processing deadline"),

    ENUM("store.adapter", store.adapter, "sqlite", "sqlite|postgres", 0,
         "postgres is not supported yet"),
    BOOL("store.pg.run_migrations", store.pg.run_migrations, "false", IDLE, "Postgres"),
    STR("store.pg.host", store.pg.host, "sentry-postgres-1", IDLE, "Postgres"),
    NUM("store.pg.port", U32, store.pg.port, "5432", 0, 65535, IDLE, "Postgres"),
    STR("store.pg.username", store.pg.username, "postgres", IDLE, "Postgres"),
    STR("store.pg.password", store.pg.password, "password", SECRET | IDLE, "Postgres"),
    STR("store.pg.ddl_username", store.pg.ddl_username, "postgres", IDLE, "Postgres"),
    STR("store.pg.ddl_password", store.pg.ddl_password, "password", SECRET | IDLE, "Postgres"),
    STR("store.pg.database_name", store.pg.database_name, "default", IDLE, "Postgres"),
    STR("store.pg.default_database_name", store.pg.default_database_name, "postgres", IDLE,
        "Postgres"),
    STR("store.pg.query_params", store.pg.query_params, NULL, OPT | IDLE, "Postgres"),
    STR("store.sqlite.path", store.sqlite.path, "./taskbroker-inflight.sqlite", FILLED,
        "the database file; may carry `sqlite:` in front and `?mode=` behind"),
    BOOL("store.sqlite.enable_status_metrics", store.sqlite.enable_status_metrics, "true", 0,
         "gauges of SQLite's own counters (sqlite.db.*), once a period"),
    NUM("store.sqlite.vacuum_page_count", U64, store.sqlite.vacuum_page_count, NULL, 0, 0,
        OPT | IDLE, "slices of maintenance are limited by time"),
    ENUM("store.sqlite.synchronous", store.sqlite.synchronous, "full", "full|normal", 0,
         "normal spares fsyncs on slow disks, and a power cut may undo what was acknowledged"),
    NUM("store.retry.max_retries", U32, store.retry.max_retries, "3", 0, 0, IDLE, "Postgres"),
    NUM("store.retry.delay", DUR, store.retry.delay_ms, "100ms", 0, 0, IDLE, "Postgres"),
    NUM("store.blob_cache_bytes", U64, store.blob_cache_bytes, "33554432", 0, 0, 0,
        "memory for activations that wait; others are read from the file when claimed"),
    NUM("store.insert_failure_backoff_ms", MS, store.insert_failure_backoff_ms, "4000", 0, 0, IDLE,
        "a failed write ends the process, with the cause"),
    NUM("store.insert_batch_max_length", U64, store.insert_batch_max_length, "256", 0, 0, IDLE,
        "batches grow by themselves under load"),
    NUM("store.insert_batch_max_bytes", U64, store.insert_batch_max_bytes, "16000000", 0, 0, IDLE,
        "as above"),
    NUM("store.insert_batch_max_time_ms", MS, store.insert_batch_max_time_ms, "1000", 0, 0, IDLE,
        "no message waits for a batch to fill"),
    NUM("store.max_size", U64, store.max_size, "3000000000", 0, 0, OPT,
        "bytes of used pages at which intake stops; null: no limit"),
    NUM("store.max_pending_count", U64, store.max_pending_count, "2048", 0, 0, 0,
        "waiting tasks at which intake stops"),
    NUM("store.unserved_application_sec", SEC, store.unserved_application_sec, "60", 0, 0, 0,
        "rows of an application that nobody asked for in this time do not count as waiting; 0: all "
        "count"),
    NUM("store.max_delay_count", U64, store.max_delay_count, "8192", 0, 0, 0,
        "delayed tasks above which there is a warning; `store.max_size` limits them"),
    NUM("store.max_processing_count", U64, store.max_processing_count, "2048", 0, 0, 0,
        "running tasks at which intake stops"),
    NUM("store.max_processing_attempts", U64, store.max_processing_attempts, "5", 0, 0, 0,
        "missed deadlines after which a task fails"),
    NUM("store.processing_deadline_grace_sec", SEC, store.processing_deadline_grace_sec, "3", 0, 0,
        0, "added to each deadline"),
    NUM("store.contention_drain_age_sec", SEC, store.contention_drain_age_sec, "60", 0, 0, IDLE,
        "Postgres"),

    NUM("fetch.threads", U64, fetch.threads, "1", 1, 256, IDLE, "push mode; a power of two"),
    NUM("fetch.backoff", DUR, fetch.backoff_ms, "100ms", 0, 0, IDLE, "push mode"),
    NUM("fetch.batch_length", I32, fetch.batch_length, "1", 1, 0, IDLE, "push mode"),
    NUM("push.threads", U64, push.threads, "1", 1, 0, IDLE, "push mode"),
    NUM("push.timeout", DUR, push.timeout_ms, "30000ms", 1, 0, IDLE, "push mode"),
    NUM("push.queue.size", U64, push.queue.size, "1", 1, 0, IDLE, "push mode"),
    NUM("push.queue.timeout", DUR, push.queue.timeout_ms, "5000ms", 1, 0, IDLE, "push mode"),
    BOOL("push.update.batched", push.update.batched, "false", IDLE, "push mode"),
    NUM("push.update.batch.length", U64, push.update.batch.length, "1", 1, 0, IDLE, "push mode"),
    NUM("push.update.batch.size", U64, push.update.batch.size, "1", 1, 0, IDLE, "push mode"),
    NUM("push.update.batch.interval", DUR, push.update.batch.interval_ms, "100ms", 0, 0, IDLE,
        "push mode"),
};

#undef AT
#define AT(member) offsetof(struct config_cluster, member)
static const struct config_key cluster_keys[] = {
    STR("address", address, NULL, CONFIG_F_REQUIRED | FILLED, "comma list of host:port"),
    STR("security_protocol", security_protocol, NULL, OPT, "`security.protocol` of librdkafka"),
    STR("sasl_mechanism", sasl_mechanism, NULL, OPT, "`sasl.mechanism`"),
    STR("sasl_username", sasl_username, NULL, OPT, "`sasl.username`"),
    STR("sasl_password", sasl_password, NULL, OPT | SECRET, "`sasl.password`"),
    STR("ssl_ca_location", ssl_ca_location, NULL, OPT, "`ssl.ca.location`"),
    STR("ssl_certificate_location", ssl_certificate_location, NULL, OPT,
        "`ssl.certificate.location`"),
    STR("ssl_key_location", ssl_key_location, NULL, OPT, "`ssl.key.location`"),
};

#undef AT
#define AT(member) offsetof(struct config_topic, member)
static const struct config_key topic_keys[] = {
    STR("cluster", cluster_name, NULL, CONFIG_F_REQUIRED,
        "one of `kafka_clusters`; not needed with `embedded`"),
    STR("consumer_group", consumer_group, NULL, CONFIG_F_REQUIRED | FILLED,
        "`group.id`; required for every topic"),
    BOOL("produce_only", produce_only, "false", 0, "never consumed"),
    BOOL("consumer_disabled", consumer_disabled, "false", 0, "checked at start, but not consumed"),
    NUM("session_timeout_ms", MS, session_timeout_ms, NULL, 1, 3600000, OPT,
        "null: `kafka_session_timeout_ms`"),
    NUM("auto_commit_interval_ms", MS, auto_commit_interval_ms, NULL, 0, 0, OPT | IDLE,
        "null: `kafka_auto_commit_interval_ms`"),
    STR("auto_offset_reset", auto_offset_reset, NULL, OPT | FILLED,
        "null: `kafka_auto_offset_reset`"),
    STR("raw.namespace", raw.namespace, NULL, OPT,
        "a `raw` block makes every payload the argument of one task; this is its namespace, "
        "required"),
    STR("raw.application", raw.application, NULL, OPT,
        "its application, required, a key of `worker_map`"),
    STR("raw.taskname", raw.taskname, NULL, OPT, "its name, required"),
    NUM("raw.processing_deadline_duration", SEC, raw.processing_deadline_duration, NULL, 0, 65535,
        OPT, "its processing deadline in seconds, required"),
    NUM("raw.compression_level", I64, raw.compression_level, "3", INT32_MIN, INT32_MAX,
        OPT | CONFIG_F_NULL_IS_DEF, "zstd level of the parameters; -1: not compressed"),
};

#undef AT
#define AT(member) offsetof(struct config_legacy, member)
static const struct config_key legacy_keys[] = {
    STR("kafka_topic", topic, NULL, OPT, "the consumed topic, `taskworker`"),
    STR("kafka_cluster", cluster, NULL, OPT, "`kafka_clusters.default.address`, `127.0.0.1:9092`"),
    STR("kafka_consumer_group", consumer_group, NULL, OPT, "its `consumer_group`, `taskworker`"),
    STR("kafka_security_protocol", main.security_protocol, NULL, OPT,
        "`kafka_clusters.default.security_protocol`"),
    STR("kafka_sasl_mechanism", main.sasl_mechanism, NULL, OPT,
        "`kafka_clusters.default.sasl_mechanism`"),
    STR("kafka_sasl_username", main.sasl_username, NULL, OPT,
        "`kafka_clusters.default.sasl_username`"),
    STR("kafka_sasl_password", main.sasl_password, NULL, OPT | SECRET,
        "`kafka_clusters.default.sasl_password`"),
    STR("kafka_ssl_ca_location", main.ssl_ca_location, NULL, OPT,
        "`kafka_clusters.default.ssl_ca_location`"),
    STR("kafka_ssl_certificate_location", main.ssl_certificate_location, NULL, OPT,
        "`kafka_clusters.default.ssl_certificate_location`"),
    STR("kafka_ssl_key_location", main.ssl_key_location, NULL, OPT,
        "`kafka_clusters.default.ssl_key_location`"),
    STR("kafka_deadletter_cluster", deadletter_cluster, NULL, OPT,
        "`kafka_clusters.deadletter.address`, the main address"),
    STR("kafka_deadletter_security_protocol", deadletter.security_protocol, NULL, OPT,
        "`kafka_clusters.deadletter.security_protocol`"),
    STR("kafka_deadletter_sasl_mechanism", deadletter.sasl_mechanism, NULL, OPT,
        "`kafka_clusters.deadletter.sasl_mechanism`"),
    STR("kafka_deadletter_sasl_username", deadletter.sasl_username, NULL, OPT,
        "`kafka_clusters.deadletter.sasl_username`"),
    STR("kafka_deadletter_sasl_password", deadletter.sasl_password, NULL, OPT | SECRET,
        "`kafka_clusters.deadletter.sasl_password`"),
    STR("kafka_deadletter_ssl_ca_location", deadletter.ssl_ca_location, NULL, OPT,
        "`kafka_clusters.deadletter.ssl_ca_location`"),
    STR("kafka_deadletter_ssl_certificate_location", deadletter.ssl_certificate_location, NULL, OPT,
        "`kafka_clusters.deadletter.ssl_certificate_location`"),
    STR("kafka_deadletter_ssl_key_location", deadletter.ssl_key_location, NULL, OPT,
        "`kafka_clusters.deadletter.ssl_key_location`"),
    BOOL("raw_mode", raw_mode, NULL, OPT, "a `raw` block made of the four `raw_*` keys"),
};

const struct config_alias config_aliases[] = {
    {"database_adapter", "store.adapter", CONFIG_T_ENUM, 0},
    {"run_migrations", "store.pg.run_migrations", CONFIG_T_BOOL, 0},
    {"pg_host", "store.pg.host", CONFIG_T_STR, 0},
    {"pg_port", "store.pg.port", CONFIG_T_U32, 65535},
    {"pg_username", "store.pg.username", CONFIG_T_STR, 0},
    {"pg_password", "store.pg.password", CONFIG_T_STR, 0},
    {"pg_ddl_username", "store.pg.ddl_username", CONFIG_T_STR, 0},
    {"pg_ddl_password", "store.pg.ddl_password", CONFIG_T_STR, 0},
    {"pg_database_name", "store.pg.database_name", CONFIG_T_STR, 0},
    {"pg_default_database_name", "store.pg.default_database_name", CONFIG_T_STR, 0},
    {"pg_extra_query_params", "store.pg.query_params", CONFIG_T_STR, 0},
    {"max_pending_count", "store.max_pending_count", CONFIG_T_U64, 0},
    {"max_delay_count", "store.max_delay_count", CONFIG_T_U64, 0},
    {"max_processing_count", "store.max_processing_count", CONFIG_T_U64, 0},
    {"max_processing_attempts", "store.max_processing_attempts", CONFIG_T_U64, 0},
    {"processing_deadline_grace_sec", "store.processing_deadline_grace_sec", CONFIG_T_SEC, 0},
    {"db_max_size", "store.max_size", CONFIG_T_U64, 0},
    {"db_path", "store.sqlite.path", CONFIG_T_STR, 0},
    {"vacuum_page_count", "store.sqlite.vacuum_page_count", CONFIG_T_U64, 0},
    {"enable_sqlite_status_metrics", "store.sqlite.enable_status_metrics", CONFIG_T_BOOL, 0},
    {"db_write_failure_backoff_ms", "store.insert_failure_backoff_ms", CONFIG_T_MS, 0},
    {"db_query_max_retries", "store.retry.max_retries", CONFIG_T_U32, 0},
    {"db_query_retry_delay_ms", "store.retry.delay", CONFIG_T_MS, 0},
    {"db_insert_batch_max_len", "store.insert_batch_max_length", CONFIG_T_U64, 0},
    {"db_insert_batch_max_size", "store.insert_batch_max_bytes", CONFIG_T_U64, 0},
    {"db_insert_batch_max_time_ms", "store.insert_batch_max_time_ms", CONFIG_T_MS, 0},
    {"push_threads", "push.threads", CONFIG_T_U64, 0},
    {"push_timeout_ms", "push.timeout", CONFIG_T_MS, 0},
    {"push_queue_size", "push.queue.size", CONFIG_T_U64, 0},
    {"push_queue_timeout_ms", "push.queue.timeout", CONFIG_T_MS, 0},
    {"batch_push_updates", "push.update.batched", CONFIG_T_BOOL, 0},
    {"push_update_batch_size", "push.update.batch.length", CONFIG_T_U64, 0},
    {"push_update_interval_ms", "push.update.batch.interval", CONFIG_T_MS, UINT32_MAX},
    {"fetch_threads", "fetch.threads", CONFIG_T_U64, 0},
    {"fetch_wait_ms", "fetch.backoff", CONFIG_T_MS, 0},
    {"fetch_batch_size", "fetch.batch_length", CONFIG_T_I32, 0},
};

const size_t config_alias_count = LENGTH(config_aliases);
const struct config_table config_main_keys = {main_keys, LENGTH(main_keys)};
const struct config_table config_cluster_keys = {cluster_keys, LENGTH(cluster_keys)};
const struct config_table config_topic_keys = {topic_keys, LENGTH(topic_keys)};
const struct config_table config_legacy_keys = {legacy_keys, LENGTH(legacy_keys)};

const struct config_key *config_key_find(const struct config_table *table, const char *path)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->keys[i].path, path) == 0)
            return &table->keys[i];
    return NULL;
}

const struct config_alias *config_alias_of(const char *path)
{
    for (size_t i = 0; i < config_alias_count; i++)
        if (strcmp(config_aliases[i].path, path) == 0)
            return &config_aliases[i];
    return NULL;
}
