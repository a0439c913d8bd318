/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/broker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/admin.h"
#include "broker/canary.h"
#include "broker/clusters.h"
#include "broker/engine_thread.h"
#include "broker/forward_sinks.h"
#include "broker/reload.h"
#include "broker/service.h"
#include "broker/stops.h"
#include "broker/topic_ports.h"

#define TARGET                 "taskmill::broker"
#define DRAIN_MS               5000
#define STREAM_POLL_MS         10
#define PUBLISH_BACKOFF_MS     100
#define PUBLISH_BACKOFF_MAX_MS 30000
#define PARKED_RETRY_MS        300000
#define BUSY_BACKOFF_MAX_MS    1000

struct broker {
    const struct config *cfg;
    struct meters *meters;
    struct admin *admin;
    struct store *store;
    struct inbox inbox;
    bool inbox_ready;
    struct engine *engine;
    struct engine_thread *thread;
    struct service *service;
    struct embedded_log *log;
    struct topic_source **sources;
    struct source_port *ports;
    const struct config_topic **topics; /* of the sources, same order */
    size_t source_count;
    struct intake_raw *raws;   /* likewise; unused where the topic is not raw */
    struct clusters *clusters; /* Kafka mode */
    struct topic_sink *sink;   /* of retries and dead letters; one of the clusters' */
    struct forward_sinks *forward_sinks;
    struct reload *reload;
    bool started, stopping, serving, abandoned;
    _Atomic(const char *) phase; /* of the stop */
    int64_t next_health_ms;      /* when it is counted next */
    int event_fd;
    pthread_mutex_t failure_lock;
    char failure[sizeof(struct err_text)];
    _Atomic bool failed;
    _Atomic int64_t wait_until_ms; /* for the store's lock; CLOCK_NEVER: as long as it takes */
};

/* --- failures, from any thread --------------------------------------------------------------- */

static void fail(struct broker *broker, const char *why)
{
    pthread_mutex_lock(&broker->failure_lock);
    if (!atomic_load(&broker->failed)) {
        snprintf(broker->failure, sizeof broker->failure, "%s", why);
        atomic_store(&broker->failed, true);
    }
    pthread_mutex_unlock(&broker->failure_lock);
    eventfd_write(broker->event_fd, 1);
}

static void engine_failed(void *ctx, int code, const char *why)
{
    struct broker *broker = ctx;
    struct err_text text;
    if (code == ERR_BUSY) /* on_store_busy gave up: the broker stops */
        err_set(&text, code,
                "database %s is still locked by another process: the broker ends without its last "
                "write; what was acknowledged is durable",
                store_path(broker->store));
    fail(broker, code == ERR_BUSY ? text.s : why);
}

static void on_source_failed(void *ctx, uint32_t source, int code, const char *why)
{
    (void)source;
    (void)code;
    fail(ctx, why);
}

/* Another process locks the file (a backup, a shell): nothing is acknowledged meanwhile. A broker
 * that stops does not wait for it. */
static bool on_store_busy(void *ctx, unsigned attempt)
{
    struct broker *broker = ctx;
    int64_t wait_ms = attempt < 10 ? 1 << attempt : BUSY_BACKOFF_MAX_MS;
    if (attempt == 1 || attempt % 10 == 0)
        log_warn(TARGET, LOG_FIELDS(log_int("attempt", attempt)),
                 "%s is locked by another process; waiting, nothing is acknowledged meanwhile",
                 store_path(broker->store));
    poll(NULL, 0, (int)(wait_ms < BUSY_BACKOFF_MAX_MS ? wait_ms : BUSY_BACKOFF_MAX_MS));
    return clock_boot_ms() < atomic_load(&broker->wait_until_ms);
}

/* --- ports ----------------------------------------------------------------------------------- */

static void on_reply(void *ctx, struct engine_call *call, const struct rpc_reply *reply)
{
    struct broker *broker = ctx;
    service_reply(broker->service, call, reply);
}

static void on_release(void *ctx, struct engine_call *call)
{
    struct broker *broker = ctx;
    service_release(broker->service, call);
}

static void on_flush(void *ctx)
{
    struct broker *broker = ctx;
    if (broker->service)
        service_flush(broker->service);
}

static struct topic_sink *on_forward_sink(void *ctx, const char *cluster)
{
    struct broker *broker = ctx;
    return forward_sinks_get(broker->forward_sinks, cluster);
}

/* --- building -------------------------------------------------------------------------------- */

static uint32_t clamp_u32(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static struct intake_limits intake_limits(const struct config *cfg)
{
    return (struct intake_limits){.payload_max = cfg->max_message_size,
                                  .delay_max_s = cfg->max_delayed_task_allowed_sec};
}

static int open_store(struct broker *broker, struct err_text *why)
{
    const struct config *cfg = broker->cfg;
    struct store_options options = {
        .path = cfg->store.sqlite.path,
        .synchronous_normal = cfg->store.sqlite.synchronous == CONFIG_SYNCHRONOUS_NORMAL,
        .full_vacuum = cfg->full_vacuum_on_start && cfg->full_vacuum_on_start_explicit,
        .clock_us = clock_boot_us,
    };
    int rc = store_open(&broker->store, &options, why);
    if (rc == 0 && options.synchronous_normal)
        log_warn(
            TARGET, NULL,
            "store.sqlite.synchronous is normal: a power cut may lose what was acknowledged in the "
            "last moments before it, and run at-most-once tasks twice");
    return rc;
}

static int kafka_source(struct broker *broker, const struct config_topic *topic,
                        struct topic_source **out, struct err_text *why)
{
    struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
    struct kafka_source_options options = {
        .cluster = clusters_connection(broker->cfg, topic->cluster, properties),
        .topic = topic->name,
        .group = topic->consumer_group,
        .auto_offset_reset = topic->auto_offset_reset,
        .session_timeout_ms = (uint32_t)topic->session_timeout_ms,
        .prefetch_bytes = broker->cfg->kafka_prefetch_bytes,
    };
    return kafka_source_new(out, &options, why);
}

static int add_sources(struct broker *broker, struct err_text *why)
{
    const struct config *cfg = broker->cfg;
    broker->sources = mem_calloc(cfg->topic_count, sizeof *broker->sources);
    broker->ports = mem_calloc(cfg->topic_count, sizeof *broker->ports);
    broker->topics = mem_calloc(cfg->topic_count, sizeof *broker->topics);
    broker->raws = mem_calloc(cfg->topic_count, sizeof *broker->raws);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < cfg->topic_count; i++) {
        const struct config_topic *topic = &cfg->topics[i];
        if (!config_topic_is_consumed(topic))
            continue;
        struct topic_source **out = &broker->sources[broker->source_count];
        broker->topics[broker->source_count] = topic;
        rc = cfg->embedded ? embedded_source_new(out, broker->log, topic->name, why)
                           : kafka_source(broker, topic, out, why);
        broker->source_count += rc == 0;
    }
    return rc;
}

static int create_engine(struct broker *broker, struct err_text *why)
{
    const struct config *cfg = broker->cfg;
    struct engine_source_options *sources = mem_calloc(broker->source_count, sizeof *sources);
    for (size_t i = 0; i < broker->source_count; i++)
        sources[i] = (struct engine_source_options){.source = broker->sources[i],
                                                    .cluster = broker->topics[i]->cluster_name,
                                                    .topic = broker->topics[i]->name,
                                                    .group = broker->topics[i]->consumer_group,
                                                    .raw = broker->topics[i]->raw.set,
                                                    .embedded = cfg->embedded};
    struct engine_options options = {
        .inflight = {.max_processing_attempts = clamp_u32(cfg->store.max_processing_attempts),
                     .grace_ms = (int64_t)cfg->store.processing_deadline_grace_sec * 1000,
                     .publish_backoff_ms = PUBLISH_BACKOFF_MS,
                     .publish_backoff_max_ms = PUBLISH_BACKOFF_MAX_MS,
                     .parked_retry_ms = PARKED_RETRY_MS,
                     .unserved_after_ms = (int64_t)cfg->store.unserved_application_sec * 1000,
                     .claims_max = 100000,
                     .queues_max = 10000},
        .limits = {.pending_max = cfg->store.max_pending_count,
                   .processing_max = cfg->store.max_processing_count,
                   .delay_warn = cfg->store.max_delay_count,
                   .store_max_bytes =
                       cfg->store.max_size == CONFIG_NONE ? UINT64_MAX : cfg->store.max_size,
                   .blob_cache_bytes = cfg->store.blob_cache_bytes,
                   .blob_cache_item_bytes = 65536,
                   .turn_events = 4096,
                   .turn_bytes = 8u << 20,
                   .outbox_inflight = 256,
                   .outbox_max = 1000000,
                   .enqueue_backlog = 100000,
                   .done_max = 1000000,
                   .done_memory_ms = (int64_t)cfg->at_most_once_memory_sec * 1000},
        .intake = intake_limits(cfg),
        .hold_ms = (int64_t)cfg->grpc_long_poll_ms,
        .startup_grace_ms = (int64_t)cfg->upkeep_deadline_reset_skip_after_startup_sec * 1000,
        .store = broker->store,
        .sources = sources,
        .source_count = broker->source_count,
        .log = broker->log,
        .retry_topic = cfg->kafka_retry_topic,
        .deadletter_topic = cfg->kafka_deadletter_topic,
        .ports = {.ctx = broker,
                  .reply = on_reply,
                  .release = on_release,
                  .flush = on_flush,
                  .store_busy = on_store_busy,
                  .forward_sink = on_forward_sink,
                  .source_failed = on_source_failed},
        .meters = broker->meters,
        .meter = {.clock_us = clock_boot_us,
                  .period_ms = (int64_t)cfg->upkeep_task_interval_ms,
                  .store_status = cfg->store.sqlite.enable_status_metrics},
    };
    int rc = 0;
    if (getrandom(options.inflight.seed, sizeof options.inflight.seed, 0) < 0 ||
        getrandom(&options.inflight.claims_from, sizeof options.inflight.claims_from, 0) < 0)
        rc = err_set(why, ERR_SYSTEM, "getrandom: %s", strerror(errno));
    if (rc == 0)
        rc = engine_create(&broker->engine, &options, clock_boot_ms(), clock_wall_ms(), why);
    mem_free(sources);
    return rc;
}

static void inline_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    engine_sink_delivered(ctx, opaque, delivery, why);
}

static int add_kafka_sinks(struct broker *broker, struct err_text *why)
{
    const struct config *cfg = broker->cfg;
    int rc = clusters_sink(broker->clusters, clusters_of_topic(cfg, cfg->kafka_deadletter_topic),
                           &broker->sink, why);
    if (rc)
        return rc;
    engine_attach_sinks(broker->engine, broker->sink, broker->sink);
    for (size_t i = 0; i < broker->source_count; i++) {
        struct topic_sink *sink;
        if (broker->topics[i]->raw.set) /* Enqueue takes no messages for it */
            continue;
        rc = clusters_sink(broker->clusters, broker->topics[i]->cluster, &sink, why);
        if (rc)
            return rc;
        engine_attach_enqueue_sink(broker->engine, (uint32_t)i, sink);
    }
    return 0;
}

static int add_sinks(struct broker *broker, struct err_text *why)
{
    if (!broker->cfg->embedded)
        return add_kafka_sinks(broker, why);
    struct topic_sink_events events = {.ctx = broker->engine, .delivered = inline_delivered};
    int rc = embedded_sink_new(&broker->sink, broker->log, &events, why);
    if (rc == 0)
        engine_attach_sinks(broker->engine, broker->sink, broker->sink);
    return rc;
}

static int create_service(struct broker *broker, struct err_text *why)
{
    const struct config *cfg = broker->cfg;
    if (cfg->grpc_port == 0) {
        log_info(TARGET, NULL, "grpc_port is 0: no gRPC server");
        return 0;
    }
    struct bytes *secrets = mem_calloc(cfg->grpc_shared_secret.count, sizeof *secrets);
    for (size_t i = 0; i < cfg->grpc_shared_secret.count; i++)
        secrets[i] = bytes_str(cfg->grpc_shared_secret.items[i]);
    struct rpc_tls_options tls = {.ca_path = cfg->grpc_tls_client_ca_location,
                                  .certificate_path = cfg->grpc_tls_certificate_location,
                                  .key_path = cfg->grpc_tls_key_location};
    struct service_options options = {.address = cfg->grpc_addr,
                                      .port = (uint16_t)cfg->grpc_port,
                                      .threads = cfg->grpc_threads,
                                      .secrets = secrets,
                                      .secret_count = cfg->grpc_shared_secret.count,
                                      .tls = tls.certificate_path ? &tls : NULL,
                                      .max_age_ms = cfg->grpc_max_connection_age_ms,
                                      .max_idle_ms = cfg->grpc_max_connection_idle_ms,
                                      .intake = intake_limits(cfg),
                                      .inbox = &broker->inbox,
                                      .meters = broker->meters};
    int rc = service_create(&broker->service, &options, why);
    mem_free(secrets);
    return rc;
}

static void admin_failed(void *ctx, int code, const char *why)
{
    (void)code;
    fail(ctx, why);
}

/* A default must not keep a broker from its work. */
static int create_admin(struct broker *broker, struct err_text *why)
{
    struct admin_options options = {
        .cfg = broker->cfg, .meters = broker->meters, .failed = admin_failed, .ctx = broker};
    if (!broker->cfg->admin_addr)
        return 0;
    int rc = admin_create(&broker->admin, &options, why);
    if (rc != ERR_EXISTS)
        return rc;
    log_warn(TARGET, NULL, "%s: no admin port (set admin_addr)", why->s);
    return 0;
}

static int build(struct broker *broker, struct err_text *why)
{
    broker->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (broker->event_fd < 0)
        return err_set(why, ERR_SYSTEM, "eventfd: %s", strerror(errno));
    int rc = inbox_init(&broker->inbox);
    if (rc)
        return err_set(why, rc, "no eventfd for the engine's inbox: raise the limit of open files");
    broker->inbox_ready = true;
    if (!broker->cfg->embedded)
        broker->clusters = clusters_new(broker->cfg, &broker->inbox);
    broker->forward_sinks = forward_sinks_new(broker->cfg, &broker->inbox);
    broker->reload = reload_new(broker->cfg);
    if ((rc = create_service(broker, why)) || (rc = create_admin(broker, why)) ||
        (rc = open_store(broker, why)) || (rc = clusters_create_topics(broker->cfg, why)))
        return rc;
    if (broker->cfg->embedded) {
        struct embedded_io io;
        engine_embedded_io(broker->store, &io);
        broker->log = embedded_log_new(&io);
    }
    if ((rc = add_sources(broker, why)) || (rc = create_engine(broker, why)) ||
        (rc = add_sinks(broker, why)))
        return rc;
    broker->thread = engine_thread_new(broker->engine, &broker->inbox, engine_failed, broker);
    return 0;
}

int broker_create(struct broker **out, const struct config *cfg, struct err_text *why)
{
    struct broker *broker = mem_zalloc(sizeof *broker);
    broker->cfg = cfg;
    broker->event_fd = -1;
    broker->meters = meters_new();
    pthread_mutex_init(&broker->failure_lock, NULL);
    atomic_init(&broker->wait_until_ms, CLOCK_NEVER);
    int rc = build(broker, why);
    if (rc) {
        broker_destroy(broker);
        return rc;
    }
    *out = broker;
    return 0;
}

/* --- life ------------------------------------------------------------------------------------ */

/* NULL: the topic holds activations. */
static const struct intake_raw *raw_of(struct broker *broker, size_t source)
{
    const struct config_topic *topic = broker->topics[source];
    if (!topic->raw.set)
        return NULL;
    broker->raws[source] =
        (struct intake_raw){.cluster = topic->cluster_name,
                            .topic = topic->name,
                            .application = topic->raw.application,
                            .namespace = topic->raw.namespace,
                            .taskname = topic->raw.taskname,
                            .duration_s = topic->raw.processing_deadline_duration,
                            .compression_level = topic->raw.compression_level};
    return &broker->raws[source];
}

static int start_sources(struct broker *broker, struct err_text *why)
{
    for (size_t i = 0; i < broker->source_count; i++) {
        struct topic_source_events events;
        if (broker->cfg->embedded) {
            engine_source_events(broker->engine, (uint32_t)i, &events);
        } else {
            broker->ports[i] = (struct source_port){.inbox = &broker->inbox,
                                                    .gate = engine_gate(broker->engine),
                                                    .intake = intake_limits(broker->cfg),
                                                    .raw = raw_of(broker, i),
                                                    .index = (uint32_t)i,
                                                    .topic = broker->topics[i]->name,
                                                    .meters = broker->meters};
            source_port_events(&broker->ports[i], &events);
        }
        int rc = broker->sources[i]->ops->start(broker->sources[i], &events, why);
        if (rc)
            return rc;
    }
    return 0;
}

static void set_serving(struct broker *broker, bool serving)
{
    if (!broker->service)
        return;
    bool forced = broker->cfg->health_check_killswitched;
    broker->serving = serving || forced;
    rpc_server_set_health(service_server(broker->service), CONSUMER_SERVICE,
                          broker->serving ? HEALTH_SERVING : HEALTH_NOT_SERVING);
}

static void tell_admin(struct broker *broker)
{
    struct admin_view view = {.thread = broker->thread,
                              .service = broker->service,
                              .sources = broker->sources,
                              .topics = broker->topics,
                              .source_count = broker->source_count,
                              .store_path = store_path(broker->store)};
    if (broker->admin)
        admin_started(broker->admin, &view);
}

static int open_service(struct broker *broker, struct err_text *why)
{
    if (!broker->service)
        return 0;
    set_serving(broker, true);
    int rc = service_open(broker->service, why);
    if (rc == 0)
        log_info(TARGET, NULL, "GRPC server listening on %s:%u", broker->cfg->grpc_addr,
                 rpc_server_port(service_server(broker->service)));
    return rc;
}

/* The first turns: they put the runtime configuration in force, publish what the file left as Retry
 * or Failure, store the canaries and open the gate. */
static int first_turns(struct broker *broker, struct err_text *why)
{
    struct engine_rules *rules = reload_read(broker->reload, clock_boot_ms());
    int rc = engine_turn(broker->engine, rules ? &rules->event.node : NULL, clock_boot_ms(),
                         clock_wall_ms());
    if (rc)
        return err_set(why, rc, "%s", engine_failure(broker->engine));
    return canary_store(broker->engine, broker->cfg, why);
}

int broker_start(struct broker *broker, struct err_text *why)
{
    int rc;
    broker->started = true;
    if (broker->clusters &&
        (rc = clusters_start_checks(broker->clusters, broker, engine_failed, why)))
        return rc;
    if ((rc = start_sources(broker, why)) || (rc = first_turns(broker, why)))
        return rc;
    if ((rc = engine_thread_start(broker->thread, why)) || (rc = open_service(broker, why)))
        return rc;
    meter_set(broker->meters, METER_WORKERS,
              1 + (broker->service ? (int64_t)broker->cfg->grpc_threads : 0));
    tell_admin(broker);
    return 0;
}

uint16_t broker_port(const struct broker *broker)
{
    return broker->service ? rpc_server_port(service_server(broker->service)) : 0;
}

int broker_fd(const struct broker *broker)
{
    return broker->event_fd;
}

/* The engine's thread runs: it gets them as an event. A cluster that is new is connected to now and
 * not when the first task leaves for it. */
static void hand_over(struct broker *broker, struct engine_rules *rules)
{
    if (!rules)
        return;
    if (rules->forwards && rules->forward_cluster)
        forward_sinks_get(broker->forward_sinks, rules->forward_cluster);
    inbox_push(&broker->inbox, &rules->event.node);
}

/* A certificate is renewed under its old name; one that cannot be used changes nothing. */
static void reload_tls(struct broker *broker)
{
    struct err_text why;

    if (rpc_server_reload_tls(service_server(broker->service), &why) != 0)
        log_error(TARGET, NULL, "certificates not reloaded, the old ones stay in use: %s", why.s);
    else
        log_info(TARGET, NULL, "certificates reloaded");
}

void broker_reload(struct broker *broker)
{
    bool has_tls = broker->service && broker->cfg->grpc_tls_certificate_location;

    if (has_tls)
        reload_tls(broker);
    if (!broker->cfg->runtime_config_path && has_tls)
        return;
    if (!broker->cfg->runtime_config_path)
        log_info(TARGET, NULL, "nothing to reload: runtime_config_path is not set");
    else if (!broker->stopping)
        hand_over(broker, reload_read(broker->reload, clock_boot_ms()));
}

/* Once a period, as the original's upkeep did. */
static void count_health(struct broker *broker)
{
    const struct config *cfg = broker->cfg;
    int64_t now_ms = clock_boot_ms();
    meter_set(broker->meters, METER_QUEUE_DEPTH, (int64_t)inbox_count(&broker->inbox));
    if (now_ms < broker->next_health_ms || broker->stopping)
        return;
    broker->next_health_ms = now_ms + (int64_t)cfg->upkeep_task_interval_ms;
    bool healthy =
        engine_thread_healthy(broker->thread, (int64_t)cfg->upkeep_unhealthy_interval_ms, now_ms);
    const char *status = cfg->health_check_killswitched ? "killswitched"
                         : healthy                      ? "healthy"
                                                        : "unhealthy";
    meter_add_tagged(broker->meters, METER_HEALTH, METER_TAGS(bytes_str(status)), 1);
}

void broker_tick(struct broker *broker)
{
    eventfd_t ignored;
    eventfd_read(broker->event_fd, &ignored);
    count_health(broker);
    if (broker->stopping)
        return;
    hand_over(broker, reload_poll(broker->reload, clock_boot_ms()));
    if (!broker->service)
        return;
    bool healthy = engine_thread_healthy(
        broker->thread, (int64_t)broker->cfg->upkeep_unhealthy_interval_ms, clock_boot_ms());
    if (healthy != broker->serving)
        set_serving(broker, healthy);
}

const char *broker_failure(struct broker *broker)
{
    return atomic_load(&broker->failed) ? broker->failure : NULL;
}

struct metrics *broker_metrics(const struct broker *broker)
{
    return meters_registry(broker->meters);
}

void broker_stats(struct broker *broker, struct engine_stats *out)
{
    engine_thread_stats(broker->thread, out);
}

/* --- shutdown -------------------------------------------------------------------------------- */

struct deadlines {
    int64_t drain_ms; /* streams are waited for */
    int64_t topics_ms, leave_topics_ms;
    int64_t engine_ms; /* before the end: what then happens must be told */
};

static struct deadlines share_out(int64_t timeout_ms)
{
    int64_t now_ms = clock_boot_ms();
    int64_t drain_ms = timeout_ms * 5 / 9 < DRAIN_MS ? timeout_ms * 5 / 9 : DRAIN_MS;
    int64_t store_ms = timeout_ms * 2 / 9;
    return (struct deadlines){.drain_ms = now_ms + drain_ms,
                              .topics_ms = now_ms + timeout_ms - store_ms - timeout_ms / 18,
                              .leave_topics_ms = now_ms + timeout_ms - store_ms,
                              .engine_ms = now_ms + timeout_ms - timeout_ms / 18};
}

/* Whoever sends work here must hear of the end before the first claim is refused. */
static void fall_silent(struct broker *broker)
{
    if (broker->admin)
        admin_draining(broker->admin);
    set_serving(broker, false);
    struct engine_event *event = engine_event_new(EVENT_DRAIN, sizeof *event);
    inbox_push(&broker->inbox, &event->node);
}

static void drain(struct broker *broker, int64_t until_ms)
{
    atomic_store(&broker->phase, "for streams to end");
    fall_silent(broker);
    if (!broker->service)
        return;
    struct rpc_server *server = service_server(broker->service);
    rpc_server_drain(server);
    while (rpc_server_open_streams(server) && clock_boot_ms() < until_ms &&
           !atomic_load(&broker->failed))
        poll(NULL, 0, STREAM_POLL_MS);
    rpc_server_stop(server);
}

static void stop_source(void *arg, int64_t until_ms)
{
    struct topic_source *source = arg;
    int64_t left_ms = until_ms - clock_boot_ms();
    source->ops->stop(source, left_ms > 0 ? (uint32_t)left_ms : 0);
}

static void stop_clusters(void *arg, int64_t until_ms)
{
    clusters_stop(arg, until_ms);
}

static void stop_forward_sinks(void *arg, int64_t until_ms)
{
    forward_sinks_stop(arg, until_ms);
}

static void stop_topics(struct broker *broker, const struct deadlines *deadlines)
{
    size_t count = broker->source_count;
    struct stop_job *jobs = mem_calloc(count + 2, sizeof *jobs);
    struct buf *names = mem_calloc(count, sizeof *names);
    atomic_store(&broker->phase, "for Kafka");
    for (size_t i = 0; i < count; i++) {
        buf_printf(&names[i], "the consumer of topic '%s'", broker->topics[i]->name);
        jobs[i] = (struct stop_job){buf_cstr(&names[i]), stop_source, broker->sources[i]};
    }
    jobs[count] = (struct stop_job){"a Kafka producer", stop_clusters, broker->clusters};
    jobs[count + 1] = (struct stop_job){"the producer of a demoted_topic_cluster",
                                        stop_forward_sinks, broker->forward_sinks};
    broker->abandoned =
        stops_run(jobs, count + 2, deadlines->topics_ms, deadlines->leave_topics_ms) > 0;
    for (size_t i = 0; i < count; i++)
        buf_free(&names[i]);
    mem_free(names);
    mem_free(jobs);
}

/* False when the engine still holds the store. */
static bool stop_engine(struct broker *broker, int64_t until_ms)
{
    atomic_store(&broker->phase, "for the engine's last turn");
    if (engine_thread_stop(broker->thread, until_ms))
        return true;
    struct err_text why;
    err_set(&why, ERR_BUSY,
            "database %s: a write has not ended within shutdown_timeout_ms (%lld): what was "
            "acknowledged before it is durable; look at the disk",
            store_path(broker->store), (long long)broker->cfg->shutdown_timeout_ms);
    fail(broker, why.s);
    broker->abandoned = true;
    return false;
}

void broker_stop(struct broker *broker)
{
    if (!broker->started || broker->stopping)
        return;
    broker->stopping = true;
    struct deadlines deadlines = share_out((int64_t)broker->cfg->shutdown_timeout_ms);
    atomic_store(&broker->wait_until_ms, deadlines.drain_ms);
    log_info(TARGET, NULL,
             "stopping: no new claims; reports are taken until all streams have ended");
    drain(broker, deadlines.drain_ms);
    if (!broker->cfg->embedded) /* else the topics live on the engine's thread */
        stop_topics(broker, &deadlines);
    if (stop_engine(broker, deadlines.engine_ms)) {
        atomic_store(&broker->phase, "for the database to close");
        store_close(broker->store);
        broker->store = NULL;
    }
    atomic_store(&broker->phase, NULL);
}

const char *broker_stopping(const struct broker *broker)
{
    return atomic_load(&broker->phase);
}

bool broker_abandoned(const struct broker *broker)
{
    return broker->abandoned;
}

void broker_destroy(struct broker *broker)
{
    if (!broker)
        return;
    broker_stop(broker);
    if (broker->abandoned)
        return;
    admin_destroy(broker->admin);
    engine_thread_free(broker->thread);
    for (size_t i = 0; i < broker->source_count; i++)
        broker->sources[i]->ops->destroy(broker->sources[i]);
    if (broker->sink && broker->cfg->embedded)
        broker->sink->ops->destroy(broker->sink);
    clusters_free(broker->clusters);
    forward_sinks_free(broker->forward_sinks);
    reload_free(broker->reload);
    /* The rpc server stops before it is destroyed: no call is owed an answer then. */
    engine_destroy(broker->engine,
                   broker->inbox_ready ? inbox_take(&broker->inbox, SIZE_MAX) : NULL);
    if (broker->log)
        embedded_log_free(broker->log);
    service_destroy(broker->service);
    if (broker->store)
        store_close(broker->store);
    if (broker->inbox_ready)
        inbox_destroy(&broker->inbox);
    if (broker->event_fd >= 0)
        close(broker->event_fd);
    meters_free(broker->meters);
    pthread_mutex_destroy(&broker->failure_lock);
    mem_free(broker->sources);
    mem_free(broker->ports);
    mem_free(broker->topics);
    mem_free(broker->raws);
    mem_free(broker);
}
