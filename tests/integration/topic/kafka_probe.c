/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Kafka source and sink, driven by a test through lines on stdin; answers are lines on stdout,
 * JSON where there is something to tell. One command is answered before the next is read.
 *
 *   kafka_probe source ADDRESS TOPIC GROUP RESET SESSION_MS PREFETCH_BYTES
 *       credit N             may deliver N more records
 *       measure N MS         credit N, then waits for N more: {"ms":..., "gap_ms": longest silence}
 *       commit P OFFSET METADATA URGENT
 *       ask P                waits for the answer and shows it
 *       manual               revokes wait for `done P` from now on
 *       done P
 *       wait total|assigned|revoking|failed N MS, wait committed P OFFSET MS
 *       hold MS              stays as it is for so long (the time itself is what is tested)
 *       lag P
 *       show                 everything
 *       stop                 stops the source and shows everything
 *                            (the program ends at the end of its input)
 *   kafka_probe produce ADDRESS TOPIC COUNT SIZE
 *   kafka_probe create ADDRESS PARTITIONS TOPIC...
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "recorder.h"
#include "topic/kafka.h"

static struct recorder recorder;

static int usage(void)
{
    fprintf(stderr, "see the top of kafka_probe.c\n");
    return 2;
}

/* Source. */

static void show_position(const char *name, const struct recorded_position *p)
{
    printf("{\"%s\": %d, \"assigned\": %s, \"start\": %" PRId64 ", \"committed\": %" PRId64
           ", \"low\": %" PRId64 ", \"high\": %" PRId64 ", \"metadata\": \"%s\", \"code\": %d}",
           name, (int)p->partition, p->assigned ? "true" : "false", p->start_offset, p->committed,
           p->low, p->high, p->metadata, p->code);
}

static void show_numbers(const char *name, const int64_t *numbers)
{
    printf(", \"%s\": [", name);
    for (int i = 0; i < RECORDER_PARTITIONS; i++)
        printf("%s%" PRId64, i ? ", " : "", numbers[i]);
    printf("]");
}

static void show(void)
{
    pthread_mutex_lock(&recorder.lock);
    printf("{\"total\": %" PRIu64 ", \"assigned_calls\": %zu, \"assigned_now\": %zu, "
           "\"revoking_calls\": %zu, \"failed\": %zu, \"failed_code\": %d, \"failed_why\": \"%s\", "
           "\"out_of_order\": %zu, \"after_revoke\": %zu, \"credit_taken\": %zu",
           recorder.total, recorder.assigned_calls, recorder.assigned_now, recorder.revoking_calls,
           recorder.failed_count, recorder.failed_code, recorder.failed_why, recorder.out_of_order,
           recorder.after_revoke, recorder.credit_taken);
    show_numbers("committed", recorder.committed);
    show_numbers("next", recorder.next);
    printf(", \"assigned\": [");
    for (int i = 0, first = 1; i < RECORDER_PARTITIONS; i++) {
        if (!recorder.assigned[i].assigned)
            continue;
        printf("%s", first ? "" : ", ");
        first = 0;
        show_position("partition", &recorder.assigned[i]);
    }
    printf("]}\n");
    pthread_mutex_unlock(&recorder.lock);
}

static void measure(size_t count, int timeout_ms)
{
    int64_t begin_us = clock_boot_us();

    pthread_mutex_lock(&recorder.lock);
    uint64_t target = recorder.total + count;
    recorder.last_ms = clock_boot_ms();
    recorder.longest_gap_ms = 0;
    pthread_mutex_unlock(&recorder.lock);
    recorder_set_credit(&recorder, count);
    bool all = RECORDER_WAIT(&recorder, recorder.total >= target, timeout_ms);
    pthread_mutex_lock(&recorder.lock);
    printf("{\"all\": %s, \"ms\": %.3f, \"gap_ms\": %" PRId64 "}\n", all ? "true" : "false",
           (double)(clock_boot_us() - begin_us) / 1000, recorder.longest_gap_ms);
    pthread_mutex_unlock(&recorder.lock);
}

static void ask(struct topic_source *source, int partition)
{
    pthread_mutex_lock(&recorder.lock);
    size_t before = recorder.answered_count;
    pthread_mutex_unlock(&recorder.lock);
    source->ops->ask(source, partition);
    if (!RECORDER_WAIT(&recorder, recorder.answered_count > before, 30000)) {
        printf("timeout\n");
        return;
    }
    pthread_mutex_lock(&recorder.lock);
    show_position("partition", &recorder.answer);
    pthread_mutex_unlock(&recorder.lock);
    printf("\n");
}

static void wait_for(const char *line)
{
    unsigned long long n;
    long long offset;
    int p, ms;
    bool held = false;

    if (sscanf(line, "wait total %llu %d", &n, &ms) == 2)
        held = RECORDER_WAIT(&recorder, recorder.total >= n, ms);
    else if (sscanf(line, "wait assigned %llu %d", &n, &ms) == 2)
        held = RECORDER_WAIT(&recorder, recorder.assigned_now == n, ms);
    else if (sscanf(line, "wait revoking %llu %d", &n, &ms) == 2)
        held = RECORDER_WAIT(&recorder, recorder.revoking_calls >= n, ms);
    else if (sscanf(line, "wait failed %llu %d", &n, &ms) == 2)
        held = RECORDER_WAIT(&recorder, recorder.failed_count >= n, ms);
    else if (sscanf(line, "wait committed %d %lld %d", &p, &offset, &ms) == 3)
        held = RECORDER_WAIT(&recorder, recorder.committed[p] >= offset, ms);
    else
        exit(usage());
    printf("%s\n", held ? "ok" : "timeout");
}

/* True if the line was one of those that only answer "ok". */
static bool act(struct topic_source *source, const char *line)
{
    char metadata[256];
    long long offset;
    size_t n;
    int p, urgent;

    if (sscanf(line, "credit %zu", &n) == 1)
        recorder_set_credit(&recorder, n);
    else if (sscanf(line, "commit %d %lld %255s %d", &p, &offset, metadata, &urgent) == 4)
        source->ops->commit(source, p, offset, bytes_str(metadata), urgent);
    else if (sscanf(line, "done %d", &p) == 1)
        source->ops->revoke_done(source, p);
    else if (sscanf(line, "hold %d", &p) == 1)
        poll(NULL, 0, p);
    else if (!strncmp(line, "manual", 6))
        recorder.auto_revoke = false;
    else
        return false;
    printf("ok\n");
    return true;
}

static void obey(struct topic_source *source, const char *line)
{
    size_t n;
    int p;

    if (act(source, line))
        return;
    if (sscanf(line, "measure %zu %d", &n, &p) == 2) {
        measure(n, p);
    } else if (sscanf(line, "ask %d", &p) == 1) {
        ask(source, p);
    } else if (sscanf(line, "lag %d", &p) == 1) {
        printf("%" PRId64 "\n", kafka_source_lag(source, p));
    } else if (!strncmp(line, "wait", 4)) {
        wait_for(line);
    } else if (!strncmp(line, "show", 4)) {
        show();
    } else if (!strncmp(line, "stop", 4)) {
        source->ops->stop(source, 5000);
        show();
    } else {
        exit(usage());
    }
}

static int run_source(char **argv)
{
    const struct kafka_source_options options = {.cluster = {.address = argv[0]},
                                                 .topic = argv[1],
                                                 .group = argv[2],
                                                 .auto_offset_reset = argv[3],
                                                 .session_timeout_ms =
                                                     (uint32_t)strtoul(argv[4], NULL, 10),
                                                 .prefetch_bytes = strtoull(argv[5], NULL, 10)};
    struct topic_source *source;
    struct err_text why;
    char line[1024];

    recorder_init(&recorder);
    recorder.keep_records = false;
    if (kafka_source_new(&source, &options, &why)) {
        fprintf(stderr, "%s\n", why.s);
        return 1;
    }
    recorder.source = source;
    if (source->ops->start(source, &recorder.events, &why))
        return 1;
    while (fgets(line, sizeof(line), stdin)) {
        obey(source, line);
        fflush(stdout);
    }
    source->ops->stop(source, 5000);
    source->ops->destroy(source);
    recorder_free(&recorder);
    return 0;
}

/* Sink. */

struct fates {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t delivered, failed;
};

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct fates *f = ctx;

    (void)opaque;
    (void)why;
    pthread_mutex_lock(&f->lock);
    f->delivered += delivery == TOPIC_DELIVERED;
    f->failed += delivery != TOPIC_DELIVERED;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void produce(struct topic_sink *sink, struct fates *fates, const char *topic, size_t sent,
                    struct blob *payload)
{
    const char *why;

    /* ERR_FULL: after the next delivery. */
    while (sink->ops->produce(sink, topic, payload, NULL, 0, NULL, &why)) {
        pthread_mutex_lock(&fates->lock);
        size_t reported = fates->delivered + fates->failed;
        while (fates->delivered + fates->failed == reported && reported < sent)
            pthread_cond_wait(&fates->changed, &fates->lock);
        pthread_mutex_unlock(&fates->lock);
    }
}

static int run_produce(char **argv)
{
    const struct kafka_sink_options options = {.cluster = {.address = argv[0]},
                                               .message_max_bytes = 1000000,
                                               .delivery_timeout_ms = 60000};
    struct fates fates = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
    const struct topic_sink_events events = {.ctx = &fates, .delivered = on_delivered};
    size_t count = strtoull(argv[2], NULL, 10), size = strtoull(argv[3], NULL, 10);
    struct topic_sink *sink;
    struct err_text why;
    int64_t begin_us = clock_boot_us();

    if (kafka_sink_new(&sink, &options, &events, &why)) {
        fprintf(stderr, "%s\n", why.s);
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        struct blob *payload = blob_new(size);
        memset(payload->data, 'x', size);
        produce(sink, &fates, argv[1], i, payload);
        blob_unref(payload);
    }
    sink->ops->stop(sink, 60000);
    sink->ops->destroy(sink);
    printf("{\"delivered\": %zu, \"failed\": %zu, \"ms\": %.3f}\n", fates.delivered, fates.failed,
           (double)(clock_boot_us() - begin_us) / 1000);
    return 0;
}

static int run_create(int argc, char **argv)
{
    const struct kafka_cluster cluster = {.address = argv[0]};
    struct err_text why;
    int rv = kafka_create_topics(&cluster, (const char *const *)(argv + 2), (size_t)argc - 2,
                                 (int32_t)strtol(argv[1], NULL, 10), &why);

    if (rv)
        printf("%s\n", why.s);
    return rv ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 8 && !strcmp(argv[1], "source"))
        return run_source(argv + 2);
    if (argc == 6 && !strcmp(argv[1], "produce"))
        return run_produce(argv + 2);
    if (argc >= 5 && !strcmp(argv[1], "create"))
        return run_create(argc - 2, argv + 2);
    return usage();
}
