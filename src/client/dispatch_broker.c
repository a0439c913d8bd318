/* SPDX-License-Identifier: Apache-2.0 */
#include "client/dispatch_broker.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "wire/consumer.h"

/* Requests stay below the servers' usual limit of 4 MiB; a single larger task goes alone. */
#define REQUEST_BYTES_MAX (3u << 20)
#define REQUEST_UNITS_MAX 10000
#define IDLE_MS           60000

/* What goes in one request or not at all. Owned by the queue or the request it is in. */
struct unit {
    struct list_node node;
    struct buf body; /* encoded activations */
    const char *topic;
    struct delivery *delivery;
    int64_t until_ms;  /* boot clock; after it, it is not sent any more */
    size_t share;      /* how many units a request with it has at most */
    bool tried_before; /* a request with it was lost before the broker had it */
};

struct broker_out {
    struct rpc_client *rpc; /* of the thread */
    char *name;
    uint32_t timeout_ms;
    struct deliveries *deliveries;
    pthread_t thread;
    bool started;
    int wake_fd;

    pthread_mutex_t lock; /* of: */
    struct list queue;
    size_t queued_bytes;
    bool sleeping; /* the thread wants to be woken */
    bool ending;   /* the thread ends when nothing is left */

    struct list request; /* the units on their way; of the thread */
};

/* --- the fate of a request ------------------------------------------------------------------- */

static int code_of_status(int status)
{
    switch (status) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_NOT_FOUND:
        return ERR_INVALID;
    case GRPC_OUT_OF_RANGE:
        return ERR_TOO_LARGE;
    case GRPC_RESOURCE_EXHAUSTED:
        return ERR_FULL;
    case GRPC_UNAUTHENTICATED:
    case GRPC_PERMISSION_DENIED:
        return ERR_DENIED;
    case GRPC_UNIMPLEMENTED:
        return ERR_UNSUPPORTED;
    case GRPC_UNAVAILABLE:
        return ERR_UNAVAILABLE;
    default: /* it gave up half-way, or met with trouble of its own */
        return ERR_TIMEOUT;
    }
}

static int explain(const struct broker_out *out, const struct rpc_result *result,
                   struct err_text *why)
{
    int code;

    if (result->status == GRPC_OK)
        return 0;
    if (result->is_local && result->is_unsent)
        return err_set(why, ERR_UNAVAILABLE, "broker %s cannot be reached: %s", out->name,
                       result->message);
    if (result->is_local)
        return err_set(why, ERR_TIMEOUT,
                       "broker %s has not answered (%s); whether it has the tasks is not known",
                       out->name, result->message);
    if (result->status == GRPC_UNIMPLEMENTED)
        return err_set(why, ERR_UNSUPPORTED,
                       "broker %s takes no tasks by RPC; send to its Kafka topic", out->name);
    code = code_of_status(result->status);
    return err_set(why, code, "broker %s: %s: %s%s", out->name, grpc_status_name(result->status),
                   result->message,
                   code == ERR_TIMEOUT ? "; whether it has the tasks is not known" : "");
}

static void end_unit(struct broker_out *out, struct unit *unit, int code, const char *why)
{
    delivery_done(out->deliveries, unit->delivery, code, why);
    buf_free(&unit->body);
    mem_free(unit);
}

/* Refusals that one of several tasks may have caused. */
static bool may_be_one_task(int code)
{
    return code == ERR_INVALID || code == ERR_TOO_LARGE || code == ERR_FULL;
}

/* Back to the front of the queue, in their order. */
static void put_back(struct broker_out *out, struct unit *unit)
{
    pthread_mutex_lock(&out->lock);
    list_push_front(&out->queue, &unit->node);
    out->queued_bytes += unit->body.len;
    pthread_mutex_unlock(&out->lock);
}

static bool try_again(struct unit *unit, const struct rpc_result *result, int code, size_t units)
{
    if (!result->is_local && units > 1 && may_be_one_task(code)) {
        unit->share = units / 2;
        return true;
    }
    /* A connection that the broker closed while it was idle, or on its way out. */
    if (result->is_local && result->is_unsent && !unit->tried_before) {
        unit->tried_before = true;
        return true;
    }
    return false;
}

static void on_answer(void *ctx, const struct rpc_result *result)
{
    struct broker_out *out = (struct broker_out *)ctx;
    size_t units = out->request.count;
    struct list_node *node;
    struct err_text why = {""};
    int code = explain(out, result, &why);

    while ((node = list_last(&out->request)) != NULL) {
        struct unit *unit = container_of(node, struct unit, node);

        list_remove(&out->request, node);
        if (code != 0 && try_again(unit, result, code, units))
            put_back(out, unit);
        else
            end_unit(out, unit, code, why.s);
    }
}

/* --- the thread ------------------------------------------------------------------------------ */

static bool same_topic(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Units whose time is over have not been sent, and are not. */
static void drop_late(struct broker_out *out, int64_t now_ms)
{
    struct list late;
    struct list_node *first;
    struct err_text why;

    list_init(&late);
    pthread_mutex_lock(&out->lock);
    list_foreach_safe (&out->queue, node) {
        struct unit *unit = container_of(node, struct unit, node);

        if (unit->until_ms > now_ms)
            continue;
        out->queued_bytes -= unit->body.len;
        list_remove(&out->queue, node);
        list_push_back(&late, node);
    }
    pthread_mutex_unlock(&out->lock);
    err_set(&why, 0, "broker %s does not answer; not sent in time", out->name);
    while ((first = list_pop_front(&late)) != NULL)
        end_unit(out, container_of(first, struct unit, node), ERR_UNAVAILABLE, why.s);
}

/* Under the lock. */
static void take_units(struct broker_out *out)
{
    size_t bytes = 0, share = REQUEST_UNITS_MAX;
    const char *topic = NULL;

    list_foreach_safe (&out->queue, node) {
        struct unit *unit = container_of(node, struct unit, node);
        size_t count = out->request.count;

        if (share > unit->share)
            share = unit->share;
        if (count > 0 && (count >= share || bytes + unit->body.len > REQUEST_BYTES_MAX ||
                          !same_topic(topic, unit->topic)))
            break;
        topic = unit->topic;
        bytes += unit->body.len;
        out->queued_bytes -= unit->body.len;
        list_remove(&out->queue, node);
        list_push_back(&out->request, node);
    }
}

static void start_request(struct broker_out *out, int64_t now_ms)
{
    struct buf body = {0};
    const char *topic = NULL;
    int64_t until_ms = 0;

    pthread_mutex_lock(&out->lock);
    take_units(out);
    pthread_mutex_unlock(&out->lock);
    if (list_empty(&out->request))
        return;
    list_foreach (&out->request, it) {
        const struct unit *unit = container_of(it, struct unit, node);

        buf_append(&body, unit->body.ptr, unit->body.len);
        topic = unit->topic;
        if (until_ms < unit->until_ms)
            until_ms = unit->until_ms;
    }
    if (topic != NULL)
        enqueue_encode_topic(bytes_str(topic), &body);
    rpc_client_call(out->rpc, PRODUCER_ENQUEUE, buf_bytes(&body), (uint32_t)(until_ms - now_ms),
                    on_answer, out, now_ms, NULL);
    buf_free(&body);
}

/* False: the end has come and nothing is left. */
static bool may_go_on(struct broker_out *out)
{
    bool more;

    pthread_mutex_lock(&out->lock);
    more = !out->ending || !list_empty(&out->queue) || !list_empty(&out->request);
    out->sleeping = more;
    pthread_mutex_unlock(&out->lock);
    return more;
}

/* Also tells how long the thread may sleep. */
static bool anything_to_do(struct broker_out *out, int64_t now_ms, int64_t *left_ms)
{
    const struct list_node *first;
    bool more;

    pthread_mutex_lock(&out->lock);
    first = list_first(&out->queue);
    more = list_empty(&out->request) && (first != NULL || out->ending);
    if (first != NULL && *left_ms > container_of(first, const struct unit, node)->until_ms - now_ms)
        *left_ms = container_of(first, const struct unit, node)->until_ms - now_ms;
    if (more)
        out->sleeping = false;
    pthread_mutex_unlock(&out->lock);
    return more;
}

static void wait_for_work(struct broker_out *out)
{
    struct pollfd fds[2] = {{.fd = out->wake_fd, .events = POLLIN},
                            {.fd = rpc_client_fd(out->rpc), .events = rpc_client_events(out->rpc)}};
    int64_t next_ms = rpc_client_next_ms(out->rpc), now_ms = clock_boot_ms(), left_ms = IDLE_MS;
    uint64_t count;

    if (next_ms != CLOCK_NEVER && next_ms - now_ms < left_ms)
        left_ms = next_ms - now_ms;
    if (!anything_to_do(out, now_ms, &left_ms))
        (void)poll(fds, 2, left_ms > 0 ? (int)left_ms : 0);
    if (fds[0].revents != 0)
        (void)read(out->wake_fd, &count, sizeof count);
}

static void *run(void *arg)
{
    struct broker_out *out = (struct broker_out *)arg;

    while (may_go_on(out)) {
        int64_t now_ms = clock_boot_ms();

        drop_late(out, now_ms);
        if (list_empty(&out->request))
            start_request(out, now_ms);
        rpc_client_io(out->rpc, now_ms);
        wait_for_work(out);
    }
    return NULL;
}

/* --- making and ending ----------------------------------------------------------------------- */

static int start_thread(struct broker_out *out)
{
    sigset_t all, before;
    int err;

    out->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (out->wake_fd < 0)
        return error_set(ERR_SYSTEM, "eventfd: %s", strerror(errno));
    sigfillset(&all); /* the program's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&out->thread, NULL, run, out);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0)
        return error_set(ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    out->started = true;
    return 0;
}

struct broker_out *broker_out_new(const struct broker_out_options *options)
{
    struct broker_out *out = mem_zalloc(sizeof *out);
    struct rpc_client_options rpc = options->rpc;

    out->timeout_ms = options->timeout_s > INT32_MAX / 1000 ? INT32_MAX : options->timeout_s * 1000;
    rpc.connect_timeout_ms = out->timeout_ms / 2;
    out->rpc = rpc_client_new(&rpc);
    out->name = mem_strdup(options->name);
    out->deliveries = options->deliveries;
    pthread_mutex_init(&out->lock, NULL);
    list_init(&out->queue);
    list_init(&out->request);
    if (start_thread(out) == 0)
        return out;
    broker_out_free(out);
    return NULL;
}

static void wake(struct broker_out *out)
{
    const uint64_t one = 1;

    (void)write(out->wake_fd, &one, sizeof one); /* cannot block before 2^64 */
}

void broker_out_free(struct broker_out *out)
{
    if (out->started) {
        pthread_mutex_lock(&out->lock);
        out->ending = true;
        pthread_mutex_unlock(&out->lock);
        wake(out);
        pthread_join(out->thread, NULL);
    }
    rpc_client_free(out->rpc);
    if (out->wake_fd >= 0)
        close(out->wake_fd);
    pthread_mutex_destroy(&out->lock);
    mem_free(out->name);
    mem_free(out);
}

/* --- sending --------------------------------------------------------------------------------- */

/* So much earlier a task is given up that its reason comes before the sender stops waiting. */
static int64_t margin_ms(uint32_t timeout_ms)
{
    return timeout_ms > 2000 ? 500 : timeout_ms / 4;
}

/* How many items from the front make one unit; their encoding in `body`. */
static size_t fill(const struct dispatch_item *items, size_t count, bool wait, struct buf *body)
{
    size_t n, max = wait ? count : 1; /* each of those that do not wait has a fate of its own */

    for (n = 0; n < max; n++) {
        if (n > 0 && (body->len + items[n].activation->len > REQUEST_BYTES_MAX ||
                      !same_topic(items[n].topic, items[0].topic)))
            break;
        enqueue_encode_activation(blob_bytes(items[n].activation), body);
    }
    return n;
}

static int queue_unit(struct broker_out *out, struct unit *unit)
{
    bool full, sleeping;

    pthread_mutex_lock(&out->lock);
    full = !list_empty(&out->queue) && out->queued_bytes + unit->body.len > BROKER_QUEUE_BYTES_MAX;
    sleeping = out->sleeping && !full;
    if (!full) {
        out->queued_bytes += unit->body.len;
        list_push_back(&out->queue, &unit->node);
        out->sleeping = false;
    }
    pthread_mutex_unlock(&out->lock);
    if (sleeping)
        wake(out);
    return full ? ERR_FULL : 0;
}

/* Waits while the queue is full. Takes `body` over whatever the result. */
static int submit(struct broker_out *out, struct delivery *delivery, const char *topic,
                  struct buf *body, int64_t until_ms)
{
    struct unit *unit = mem_zalloc(sizeof *unit);
    bool full = false, more = true;
    uint64_t count = 0;
    int rv;

    *unit = (struct unit){.body = *body,
                          .topic = topic,
                          .delivery = delivery,
                          .until_ms = until_ms - margin_ms(out->timeout_ms),
                          .share = REQUEST_UNITS_MAX};
    *body = (struct buf){0};
    while ((rv = queue_unit(out, unit)) == ERR_FULL && more) {
        if (full) /* again, since the count was read: so no delivery was missed */
            more = delivery_wait_more(out->deliveries, count, until_ms);
        count = delivery_count(out->deliveries);
        full = true;
    }
    if (rv == 0)
        return 0;
    buf_free(&unit->body);
    mem_free(unit);
    return error_set(ERR_FULL, "the queue for broker %s is full (%u bytes)", out->name,
                     BROKER_QUEUE_BYTES_MAX);
}

static int send_unit(struct broker_out *out, const struct dispatch_item *items, size_t count,
                     bool wait, size_t *sent)
{
    const struct delivery_watch watch = {items->on_delivery, items->arg, items->id};
    bool watched = !wait && items->on_delivery != NULL;
    int64_t until_ms = clock_add(clock_boot_ms(), out->timeout_ms);
    struct delivery_group *group = wait ? delivery_group_new() : NULL;
    struct delivery_summary summary;
    struct delivery *delivery;
    struct buf body = {0};
    struct err_text why;
    int rv = delivery_begin(out->deliveries, group, watched ? &watch : NULL, until_ms, &delivery),
        awaited;

    if (rv != 0) /* only of those that do not wait */
        return rv;
    *sent = fill(items, count, wait, &body);
    rv = submit(out, delivery, items->topic, &body, until_ms);
    if (rv != 0)
        delivery_cancel(out->deliveries, delivery);
    if (!wait)
        return rv;
    why = *error_text();
    awaited = delivery_await(out->deliveries, group, until_ms, &summary);
    if (rv != 0)
        return error_set(rv, "%s", why.s);
    if (awaited != 0 && summary.failed == 0)
        return error_set(
            ERR_TIMEOUT,
            "broker %s has not answered in %u s; whether it has the tasks is not known", out->name,
            out->timeout_ms / 1000);
    return awaited == 0 ? 0 : error_set(awaited, "%s", summary.why.s);
}

int broker_out_send(struct broker_out *out, const struct dispatch_item *items, size_t count,
                    bool wait, size_t *accepted)
{
    int rv = 0;

    *accepted = 0;
    while (*accepted < count && rv == 0) {
        size_t sent = 0;

        rv = send_unit(out, items + *accepted, count - *accepted, wait, &sent);
        if (rv == 0)
            *accepted += sent;
    }
    return rv;
}
