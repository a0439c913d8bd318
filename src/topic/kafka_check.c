/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "topic/kafka_probe.h"

struct kafka_check {
    struct kafka_probe *probe;
    char *label;
    char **topics;
    size_t topic_count;
    void *ctx;
    void (*failed)(void *ctx, int code, const char *why);
    pthread_t thread;
    atomic_bool stopping;
    int event_fd;
};

/* False: failed, or told to stop. */
static bool await(struct kafka_check *check, const char *topic)
{
    struct pollfd fd = {.fd = check->event_fd, .events = POLLIN};
    struct err_text why;

    while (!atomic_load(&check->stopping)) {
        int rv = kafka_probe_look(check->probe, topic, &why);
        if (rv > 0)
            return true;
        if (rv != ERR_UNAVAILABLE) {
            check->failed(check->ctx, rv, why.s);
            return false;
        }
        poll(&fd, 1, KAFKA_PROBE_PAUSE_MS);
    }
    return false;
}

static void *check_main(void *arg)
{
    struct kafka_check *check = arg;

    if (!await(check, NULL))
        return NULL;
    for (size_t i = 0; i < check->topic_count; i++) {
        if (!await(check, check->topics[i]))
            return NULL;
        log_info(KAFKA_LOG, LOG_FIELDS(log_str("topic", check->topics[i])),
                 "topic is there on cluster %s, and not consumed: consumer_disabled", check->label);
    }
    return NULL;
}

static void free_check(struct kafka_check *check)
{
    kafka_probe_free(check->probe);
    if (check->event_fd >= 0)
        close(check->event_fd);
    for (size_t i = 0; i < check->topic_count; i++)
        mem_free(check->topics[i]);
    mem_free(check->topics);
    mem_free(check->label);
    mem_free(check);
}

int kafka_check_start(struct kafka_check **out, const struct kafka_check_options *options,
                      struct err_text *why)
{
    struct kafka_check *check = mem_zalloc(sizeof(*check));
    int rv, err;

    check->label = kafka_cluster_label(&options->cluster);
    check->ctx = options->ctx;
    check->failed = options->failed;
    check->topics = mem_calloc(options->topic_count, sizeof(*check->topics));
    for (size_t i = 0; i < options->topic_count; i++)
        check->topics[check->topic_count++] = mem_strdup(options->topics[i]);
    check->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (check->event_fd < 0)
        rv = err_set(why, ERR_SYSTEM, "eventfd: %s", strerror(errno));
    else
        rv = kafka_probe_new(&check->probe, &options->cluster, why);
    if (!rv && (err = pthread_create(&check->thread, NULL, check_main, check)))
        rv = err_set(why, ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    if (rv) {
        free_check(check);
        return rv;
    }
    *out = check;
    return 0;
}

void kafka_check_end(struct kafka_check *check)
{
    if (!check)
        return;
    atomic_store(&check->stopping, true);
    eventfd_write(check->event_fd, 1);
    pthread_join(check->thread, NULL);
    free_check(check);
}
