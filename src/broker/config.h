/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's configuration: built-in defaults, then a YAML file, then the environment, checked
 * and with all derived values filled in. Keys, spelling and merge rules are those of spec/broker.md
 * 2, plus a few of our own; docs/configuration.md lists every key. The members of struct config are
 * named like the keys (`store.sqlite.path` is cfg->store.sqlite.path); a key whose value is a
 * duration text such as `100ms` has `_ms` added to its member.
 *
 * A loaded configuration never changes and may be read by any thread.
 *
 * Absent optional values: strings are NULL, lists and maps empty, numbers CONFIG_NONE. Times are
 * cut to CONFIG_TIME_MAX_MS (100 years), so that adding one to a clock reading cannot overflow.
 */
#ifndef TASKMILL_BROKER_CONFIG_H
#define TASKMILL_BROKER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "topic/kafka.h"

#define CONFIG_NONE        UINT64_MAX
#define CONFIG_TIME_MAX_MS INT64_C(3153600000000)

enum config_adapter { CONFIG_ADAPTER_SQLITE, CONFIG_ADAPTER_POSTGRES };
enum config_delivery { CONFIG_DELIVERY_PULL, CONFIG_DELIVERY_PUSH };
enum config_synchronous { CONFIG_SYNCHRONOUS_FULL, CONFIG_SYNCHRONOUS_NORMAL };

struct config_list {
    char **items;
    size_t count;
};

struct config_pair {
    char *key, *value;
};

struct config_map {
    struct config_pair *pairs; /* sorted by key */
    size_t count;
};

struct config_cluster {
    char *name;
    char *address; /* comma list of host:port; "" with embedded */
    char *security_protocol, *sasl_mechanism, *sasl_username, *sasl_password;
    char *ssl_ca_location, *ssl_certificate_location, *ssl_key_location;
};

struct config_topic {
    char *name;
    char *cluster_name;
    size_t cluster; /* index into cfg->clusters */
    char *consumer_group;
    bool produce_only;      /* never consumed */
    bool consumer_disabled; /* checked, but not consumed */
    /* The topic's own value or else the global key: always present. */
    uint64_t session_timeout_ms, auto_commit_interval_ms;
    char *auto_offset_reset;
    struct {
        bool set; /* the topic is in raw mode: everything below is present */
        char *namespace, *application, *taskname;
        uint64_t processing_deadline_duration; /* seconds */
        int64_t compression_level;             /* zstd; -1: not compressed */
    } raw;
};

struct config {
    char *sentry_dsn, *sentry_env;
    double traces_sample_rate;
    char *log_filter;
    enum log_format log_format;
    char *statsd_addr; /* host:port */
    struct config_map default_metrics_tags;

    char *grpc_addr;    /* IP literal without brackets */
    uint32_t grpc_port; /* 0: no gRPC server */
    uint32_t grpc_threads;
    uint32_t grpc_long_poll_ms; /* 0: GetTask is answered at once */
    uint64_t grpc_max_message_size;
    struct config_list grpc_shared_secret; /* none: no authentication */
    /* PEM files. Certificate and key: both or neither; the client CA only with them. */
    char *grpc_tls_certificate_location, *grpc_tls_key_location, *grpc_tls_client_ca_location;
    uint32_t grpc_max_connection_age_ms, grpc_max_connection_idle_ms; /* 0: never */
    char *admin_addr;         /* host:port; NULL: no admin port */
    bool admin_addr_explicit; /* set by file or environment, not by default */

    /* No Kafka: topics live in the database file. There is one cluster, "embedded", without
     * address. */
    bool embedded;
    struct config_cluster *clusters; /* kafka_clusters, sorted by name; legacy keys included */
    size_t cluster_count;
    struct config_topic *topics; /* kafka_topics, sorted by name; legacy keys included */
    size_t topic_count;
    char *kafka_long_topic;
    char *kafka_deadletter_topic; /* always one of cfg->topics */
    char *kafka_retry_topic;      /* always present after load, and one of cfg->topics */
    bool create_missing_topics;
    int32_t default_topic_partitions;
    uint64_t kafka_session_timeout_ms, kafka_auto_commit_interval_ms;
    char *kafka_auto_offset_reset;
    uint64_t kafka_send_timeout_ms;
    uint64_t kafka_prefetch_bytes;
    uint64_t max_message_size;

    char *runtime_config_path;
    uint64_t upkeep_task_interval_ms, upkeep_unhealthy_interval_ms;
    bool health_check_killswitched;
    uint64_t upkeep_deadline_reset_skip_after_startup_sec;
    uint64_t maintenance_task_interval_ms;
    uint64_t runtime_metrics_interval_ms;
    uint64_t max_delayed_task_allowed_sec;
    uint64_t at_most_once_memory_sec;
    uint64_t shutdown_timeout_ms;
    bool full_vacuum_on_start, full_vacuum_on_upkeep;
    bool full_vacuum_on_start_explicit; /* set by file or environment, not by default */
    uint64_t vacuum_interval_ms;
    uint32_t canary_tasks;
    bool log_async_backtrace;
    enum config_delivery delivery_mode;
    bool batch_status_updates;
    uint64_t status_update_batch_size, status_update_interval_ms;
    struct config_map worker_map; /* application -> URL */
    char *raw_namespace, *raw_application, *raw_taskname;
    uint64_t raw_processing_deadline_duration; /* seconds */

    struct {
        enum config_adapter adapter;
        struct {
            bool run_migrations;
            char *host;
            uint32_t port;
            char *username, *password, *ddl_username, *ddl_password;
            char *database_name, *default_database_name, *query_params;
        } pg;
        struct {
            char *
                path; /* as written: may carry "sqlite:" and "?mode=..." (store_open strips them) */
            bool enable_status_metrics;
            uint64_t vacuum_page_count; /* CONFIG_NONE: all */
            enum config_synchronous synchronous;
        } sqlite;
        struct {
            uint32_t max_retries;
            uint64_t delay_ms;
        } retry;
        uint64_t blob_cache_bytes;
        uint64_t insert_failure_backoff_ms;
        uint64_t insert_batch_max_length, insert_batch_max_bytes, insert_batch_max_time_ms;
        uint64_t max_size; /* bytes; CONFIG_NONE: no limit */
        uint64_t max_pending_count, max_delay_count, max_processing_count;
        uint64_t max_processing_attempts;
        uint64_t processing_deadline_grace_sec;
        uint64_t unserved_application_sec; /* 0: rows of every application count */
        uint64_t contention_drain_age_sec;
    } store;
    struct {
        uint64_t threads;
        uint64_t backoff_ms;
        int32_t batch_length;
    } fetch;
    struct {
        uint64_t threads;
        uint64_t timeout_ms;
        struct {
            uint64_t size;
            uint64_t timeout_ms;
        } queue;
        struct {
            bool batched;
            struct {
                uint64_t length, size;
                uint64_t interval_ms;
            } batch;
        } update;
    } push;

    struct config_origins *origins; /* where each value came from; see config_origin() */
};

/* Lines for the caller to log at WARN once logging is up: unknown keys (with the nearest known
 * one), deprecated keys in use, keys that are set but have no effect here, legal but doubtful
 * values. Start with a zeroed one. At most CONFIG_WARNINGS_MAX lines are kept; the last one then
 * counts the rest. */
#define CONFIG_WARNINGS_MAX 100
struct config_warnings {
    char **lines;
    size_t count;
    size_t dropped;
};
void config_warnings_free(struct config_warnings *warnings);

/*
 * Loads, merges and checks. `path` may be NULL (defaults and environment only); a relative one is
 * searched in the working directory and then in its parents. `environ_` is a NULL-ended list of
 * NAME=value; only names that start with TASKBROKER_ (in any case) are looked at.
 *
 * Errors leave one line in `why` (file, line or variable; key; what is wrong; what is allowed):
 *   ERR_NOT_FOUND    the file does not exist
 *   ERR_IO           it cannot be read
 *   ERR_MALFORMED    it is not YAML, or not a map
 *   ERR_TOO_LARGE    it is larger than 1 MiB or nested too deeply
 *   ERR_INVALID      a value of the wrong type or out of range, or values that do not fit together
 *   ERR_UNSUPPORTED  valid, but not supported yet: delivery_mode push, store.adapter postgres
 * The caller prints it and exits 1.
 */
int config_load(struct config **out, const char *path, char *const *environ_,
                struct config_warnings *warnings, struct err_text *why);
/* Accepts NULL. */
void config_free(struct config *cfg);

/* The same for text that is in memory already; `name` stands for the file in messages. */
int config_load_text(struct config **out, const char *name, struct bytes text,
                     char *const *environ_, struct config_warnings *warnings, struct err_text *why);

/* Appends the whole effective configuration as one YAML document, secrets replaced by ******.
 * Deprecated keys have been moved to their successors and are not printed. Apart from the secrets,
 * loading the document gives the same configuration. */
void config_print(const struct config *cfg, struct buf *out);
/* The same, with a comment on each line that says where the value came from. */
void config_print_origins(const struct config *cfg, struct buf *out);

enum config_source {
    CONFIG_FROM_DEFAULT,
    CONFIG_FROM_FILE,
    CONFIG_FROM_ENV,
    CONFIG_FROM_DERIVED /* filled in from other keys, e.g. kafka_retry_topic */
};

struct config_origin {
    enum config_source source;
    const char *name;       /* file or variable; NULL for defaults */
    uint32_t line;          /* file only, from 1 */
    const char *deprecated; /* the deprecated key that was used instead; or NULL */
};

/* Where the value of a key came from, e.g. "store.sqlite.path" or
 * "kafka_topics.taskworker.cluster"; for a list or map, where it was set last. Default for anything
 * never set. */
struct config_origin config_origin(const struct config *cfg, const char *key);

/* --- Kafka ----------------------------------------------------------------------------------- */

/* NULL when there is none of that name. */
const struct config_topic *config_topic_find(const struct config *cfg, const char *name);
/* Consumed by this broker: neither produce_only nor consumer_disabled. */
bool config_topic_is_consumed(const struct config_topic *topic);

#define CONFIG_KAFKA_PROPERTIES_MAX 7
/* The cluster's security settings as librdkafka properties; pointers into cfg. Returns the count.
 */
size_t config_kafka_properties(const struct config_cluster *cluster,
                               struct kafka_property out[CONFIG_KAFKA_PROPERTIES_MAX]);

/* --- command line ---------------------------------------------------------------------------- */

/* `taskmill config check [FILE]`, `taskmill config print [FILE]`, `taskmill config keys`. argv
 * starts after "config". Appends what belongs on stdout and stderr; returns the exit code: 0, 1 bad
 * configuration, 2 usage. */
int config_command(int argc, char *const *argv, char *const *environ_, struct buf *out,
                   struct buf *err);

/* The table of docs/configuration.md. */
void config_print_keys(struct buf *out);

#endif
