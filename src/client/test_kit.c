/* SPDX-License-Identifier: Apache-2.0 */
#include "client/test_kit.h"

#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "client/hooks.h"
#include "client/retry.h"
#include "client/send.h"
#include "wire/params.h"

struct sent {
    struct list_node node;
    struct taskmill_test_sent shown;
    struct blob *activation;
    char *strings[6]; /* of `shown` */
    struct headers_kept *headers;
};

struct headers_kept {
    struct headers_kept *next;
    char *key, *value;
};

struct capture {
    pthread_mutex_t lock;
    bool on;
    struct list sent;
};

/* --- running a handler ----------------------------------------------------------------------- */

/* NULL: ERR_NOT_FOUND, and taskmill_last_error() says what is missing. */
static const struct task_def *find_handler(const struct taskmill_app *app, const char *ns,
                                           const char *name)
{
    const struct task_def *task = registry_find(app, bytes_str(ns), bytes_str(name));

    if (task != NULL && task->handler != NULL)
        return task;
    error_set(ERR_NOT_FOUND,
              task == NULL ? "task %s of namespace %s is not declared"
                           : "task %s of namespace %s has no handler in this program: declare it "
                             "as its worker does",
              name, ns);
    return NULL;
}

/* One attempt; `error` gets the handler's text. */
static int run(struct taskmill_app *app, const struct task_def *task, struct bytes payload,
               enum taskmill_status (*how)(struct taskmill_call *call),
               enum taskmill_status *status, struct err_text *error)
{
    struct taskmill_call call;
    int rv = call_open(&call, app, task, payload, error);

    if (rv != 0)
        return error_set(rv, "task %s: %s", task->name, error->s);
    *status = how(&call);
    *error = call.error;
    call_close(&call);
    return 0;
}

/* --- eager mode ------------------------------------------------------------------------------ */

int taskmill_eager(struct taskmill_app *app, bool on)
{
    if (app == NULL)
        return error_set(ERR_INVALID, "taskmill_eager: the application is NULL");
    app->eager = on;
    return 0;
}

static int run_eagerly(struct taskmill_app *app, const char *ns, const char *name,
                       const struct dispatch_item *item)
{
    static _Thread_local unsigned depth;
    enum taskmill_status status = TASKMILL_FAILURE;
    const struct task_def *task = find_handler(app, ns, name);
    struct err_text error;
    int rv;

    if (task == NULL)
        return ERR_NOT_FOUND;
    if (depth == TEST_KIT_EAGER_DEPTH_MAX)
        return error_set(ERR_STATE, "eager mode: task %s is the %dth inside each other", name,
                         TEST_KIT_EAGER_DEPTH_MAX);
    depth++;
    rv = run(app, task, blob_bytes(item->activation), hooks_run_bare, &status, &error);
    depth--;
    if (rv != 0 || status == TASKMILL_COMPLETE)
        return rv;
    return error_set(
        status == TASKMILL_RETRY ? TASKMILL_ERR_RETRY : TASKMILL_ERR_FAILED, "task %s %s%s%s", name,
        status == TASKMILL_RETRY ? "asks for a retry" : "failed", error.s[0] ? ": " : "", error.s);
}

/* --- capturing ------------------------------------------------------------------------------- */

bool test_kit_takes(const struct taskmill_app *app)
{
    return app->eager || (app->capture != NULL && app->capture->on);
}

static void free_sent(struct sent *sent)
{
    struct headers_kept *kept;

    while ((kept = sent->headers) != NULL) {
        sent->headers = kept->next;
        mem_free(kept->key);
        mem_free(kept->value);
        mem_free(kept);
    }
    for (size_t i = 0; i < sizeof sent->strings / sizeof sent->strings[0]; i++)
        mem_free(sent->strings[i]);
    blob_unref(sent->activation);
    mem_free(sent);
}

static void keep_header(void *ctx, struct bytes key, struct bytes value)
{
    struct sent *sent = (struct sent *)ctx;
    struct headers_kept *kept = mem_zalloc(sizeof *kept);

    kept->key = mem_strndup(key.ptr, key.len);
    kept->value = mem_strndup(value.ptr, value.len);
    kept->next = sent->headers;
    sent->headers = kept;
}

static int parameters_text(struct bytes payload, const struct activation *a, struct buf *out)
{
    struct bytes compression, packed = a->parameters_bytes;
    struct buf unpacked = {0};
    const char *fault = "";
    int rv = 0;

    if (activation_header(payload, "compression-type", &compression)) {
        rv = params_decompress(packed, PARAMS_UNCOMPRESSED_MAX, &unpacked, &fault);
        packed = buf_bytes(&unpacked);
    }
    if (rv == 0)
        rv = params_to_json(packed, out, &fault);
    buf_free(&unpacked);
    return rv == 0 ? 0 : error_set(rv, "parameters: %s", fault);
}

static int capture(struct capture *c, const struct dispatch_item *item)
{
    struct bytes payload = blob_bytes(item->activation);
    struct sent *sent = mem_zalloc(sizeof *sent);
    struct activation a;
    struct buf json = {0};
    const char *fault = "";
    int rv = activation_parse(payload, &a, &fault);

    if (rv == 0)
        rv = parameters_text(payload, &a, &json);
    if (rv != 0) {
        mem_free(sent);
        return rv;
    }
    activation_each_header(payload, keep_header, sent);
    sent->activation = blob_ref(item->activation);
    sent->strings[0] = mem_strndup(a.application.ptr, a.application.len);
    sent->strings[1] = mem_strndup(a.namespace.ptr, a.namespace.len);
    sent->strings[2] = mem_strndup(a.taskname.ptr, a.taskname.len);
    sent->strings[3] = mem_strndup(a.id.ptr, a.id.len);
    sent->strings[4] = item->topic ? mem_strdup(item->topic) : NULL;
    sent->strings[5] = mem_strdup(buf_cstr(&json));
    buf_free(&json);
    sent->shown = (struct taskmill_test_sent){
        .application = sent->strings[0],
        .ns = sent->strings[1],
        .task = sent->strings[2],
        .id = sent->strings[3],
        .topic = sent->strings[4],
        .params_json = sent->strings[5],
        .countdown_s = a.delay,
        .expires_s = a.expires,
        .processing_deadline_s = a.processing_deadline_duration,
    };
    pthread_mutex_lock(&c->lock);
    list_push_back(&c->sent, &sent->node);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

int test_kit_send(struct taskmill_app *app, const char *ns, const char *task,
                  const char *application, const struct dispatch_item *item)
{
    if (app->capture != NULL && app->capture->on)
        return capture(app->capture, item);
    if (application != NULL)
        return error_set(ERR_UNSUPPORTED,
                         "eager mode: task %s belongs to application %s and cannot run here", task,
                         application);
    return run_eagerly(app, ns, task, item);
}

int taskmill_test_capture(struct taskmill_app *app, bool on)
{
    if (app == NULL)
        return error_set(ERR_INVALID, "taskmill_test_capture: the application is NULL");
    if (app->capture == NULL) {
        app->capture = mem_zalloc(sizeof *app->capture);
        pthread_mutex_init(&app->capture->lock, NULL);
        list_init(&app->capture->sent);
    }
    app->capture->on = on;
    return 0;
}

static void forget(struct capture *c)
{
    struct list_node *node;

    while ((node = list_pop_front(&c->sent)) != NULL)
        free_sent(container_of(node, struct sent, node));
}

void test_kit_free(struct capture *c)
{
    if (c == NULL)
        return;
    forget(c);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
}

void taskmill_test_clear(struct taskmill_app *app)
{
    if (app->capture == NULL)
        return;
    pthread_mutex_lock(&app->capture->lock);
    forget(app->capture);
    pthread_mutex_unlock(&app->capture->lock);
}

size_t taskmill_test_count(const struct taskmill_app *app)
{
    size_t count = 0;

    if (app->capture != NULL) {
        pthread_mutex_lock(&app->capture->lock);
        count = app->capture->sent.count;
        pthread_mutex_unlock(&app->capture->lock);
    }
    return count;
}

static struct sent *nth(const struct taskmill_app *app, size_t index)
{
    struct sent *found = NULL;

    if (app->capture == NULL)
        return NULL;
    pthread_mutex_lock(&app->capture->lock);
    list_foreach (&app->capture->sent, node) {
        if (index-- == 0) {
            found = container_of(node, struct sent, node);
            break;
        }
    }
    pthread_mutex_unlock(&app->capture->lock);
    return found;
}

const struct taskmill_test_sent *taskmill_test_sent(const struct taskmill_app *app, size_t index)
{
    const struct sent *sent = nth(app, index);

    return sent != NULL ? &sent->shown : NULL;
}

const char *taskmill_test_sent_header(const struct taskmill_test_sent *shown, const char *key)
{
    const struct sent *sent = container_of(shown, const struct sent, shown);

    for (const struct headers_kept *kept = sent->headers; kept != NULL; kept = kept->next)
        if (strcmp(kept->key, key) == 0)
            return kept->value;
    return NULL;
}

/* --- one attempt ----------------------------------------------------------------------------- */

static enum taskmill_status decide(const struct task_def *task, uint32_t attempt,
                                   enum taskmill_status status)
{
    enum attempt_end end = status == TASKMILL_COMPLETE ? ATTEMPT_COMPLETE
                           : status == TASKMILL_RETRY  ? ATTEMPT_RETRY
                                                       : ATTEMPT_FAILURE;

    switch (retry_decide(&task->options.retry, attempt, end)) {
    case ACTIVATION_COMPLETE:
        return TASKMILL_COMPLETE;
    case ACTIVATION_RETRY:
        return TASKMILL_RETRY;
    default:
        return TASKMILL_FAILURE;
    }
}

static int run_attempt(struct taskmill_app *app, const struct task_def *task, struct bytes payload,
                       uint32_t attempt, struct taskmill_test_result *result)
{
    const struct activation_edit edit = {.attempts_add = attempt};
    struct buf edited = {0};
    struct err_text error;
    const char *fault = "";
    int rv = activation_splice(payload, &edit, &edited, &fault);

    if (rv == 0)
        rv = run(app, task, buf_bytes(&edited), hooks_run, &result->status, &error);
    else
        error_set(rv, "%s", fault);
    buf_free(&edited);
    if (rv != 0)
        return rv;
    result->report = decide(task, attempt, result->status);
    result->deadletter = result->report == TASKMILL_FAILURE &&
                         task->options.retry.times_exceeded == TASKMILL_DEADLETTER;
    result->retry_delay_s = result->report == TASKMILL_RETRY ? task->options.retry.delay_s : 0;
    memcpy(result->error, error.s, sizeof result->error);
    return 0;
}

int taskmill_test_run_with(struct taskmill_app *app, const char *ns, const char *name,
                           struct taskmill_params *params, struct taskmill_test_result *result,
                           const struct taskmill_test_options *given)
{
    struct taskmill_test_options options = {0};
    struct taskmill_send_options send = {0};
    struct dispatch_item item = {0};
    const struct task_def *task;
    int rv;

    if (given != NULL)
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    send.headers = options.headers;
    send.header_count = options.header_count;
    send.send_id = options.id;
    memset(result, 0, sizeof *result);
    rv = send_build(app, ns, name, params, &send, &item);
    taskmill_params_free(params);
    task = rv == 0 ? find_handler(app, ns, name) : NULL;
    if (task == NULL && rv == 0)
        rv = ERR_NOT_FOUND;
    else if (task != NULL)
        rv = run_attempt(app, task, blob_bytes(item.activation), options.attempt, result);
    blob_unref(item.activation);
    return rv;
}

int taskmill_test_run_sent(struct taskmill_app *app, size_t index,
                           struct taskmill_test_result *result)
{
    const struct sent *sent = nth(app, index);
    const struct task_def *task;

    memset(result, 0, sizeof *result);
    if (sent == NULL)
        return error_set(ERR_NOT_FOUND, "no task number %zu was sent", index);
    task = find_handler(app, sent->shown.ns, sent->shown.task);
    return task ? run_attempt(app, task, blob_bytes(sent->activation), 0, result) : ERR_NOT_FOUND;
}

struct taskmill_app *taskmill_test_app(void (*init)(struct taskmill_app *app), const char *name)
{
    struct taskmill_app *app = registry_app_new("");

    init(app);
    if (app->broken) {
        error_set(app->fault_code, "%s", app->fault.s);
        registry_app_free(app);
        return NULL;
    }
    if (app->name[0] == '\0' && (name == NULL || name[0] == '\0')) {
        error_set(ERR_INVALID,
                  "taskmill_test_app: the module names no application, so the test must");
        registry_app_free(app);
        return NULL;
    }
    if (app->name[0] == '\0') {
        mem_free(app->name);
        app->name = mem_strdup(name);
    }
    return app;
}
