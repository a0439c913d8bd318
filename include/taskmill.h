/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libtaskmill: background tasks in C.
 *
 * A task is a function with a name. A module (a shared object with TASKMILL_MODULE) declares tasks
 * and a worker runs them: `taskmill worker --module ./libtasks.so`.
 *
 *     static enum taskmill_status send_invoice(struct taskmill_call *call)
 *     {
 *         int64_t id;
 *         const char *email;
 *         if (taskmill_arg_int(call, 0, &id) || taskmill_kwarg_str(call, "email", &email))
 *             return taskmill_fail(call, "needs (id, email=...)");
 *         if (!mailer_is_up())
 *             return taskmill_retry(call, "mail server is down");
 *         deliver(id, email);
 *         return TASKMILL_COMPLETE;
 *     }
 *
 *     TASKMILL_MODULE(app)
 *     {
 *         taskmill_application(app, "shop");
 *         struct taskmill_namespace *billing =
 *             taskmill_namespace(app, "billing", .processing_deadline_s = 30);
 *         taskmill_task(billing, "billing.send_invoice", send_invoice,
 *                       .retry = {.times = 5, .delay_s = 60,
 *                                 .times_exceeded = TASKMILL_DEADLETTER});
 *     }
 *
 * Any program sends tasks, through a broker or to Kafka. It declares what it sends in the same way
 * (a handler may be NULL), because deadline and retry policy travel with the task:
 *
 *     struct taskmill_app *app = taskmill_app_new("shop", .broker = "127.0.0.1:50051");
 *     struct taskmill_params *p = taskmill_params_new();
 *     taskmill_params_int(p, 42);
 *     taskmill_params_kw_str(p, "email", "a@b.c");
 *     if (taskmill_send(app, "billing", "billing.send_invoice", p, .countdown_s = 10))
 *         fprintf(stderr, "%s\n", taskmill_last_error());
 *
 * Results are 0 or a negative enum taskmill_error; taskmill_last_error() then has one line about
 * it. Options are named: write only those you need; zero means the default. Strings are copied,
 * unless said otherwise, must be valid UTF-8, and end with NUL. Times are whole seconds.
 *
 * Threads: sending is thread-safe, declaring is not: declare first. A params builder and a call
 * belong to one thread. After fork, a child may use an app that has not sent anything before the
 * fork.
 */
#ifndef TASKMILL_H
#define TASKMILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TASKMILL_API __attribute__((visibility("default")))

/* Named options. C++ (20) wants them in the order of the struct. */
#ifdef __cplusplus
#pragma GCC system_header /* no warning for each option that is left out */
#define TASKMILL_OPTIONS_(type, ...) \
    (&static_cast<const struct type &>(type{.size = sizeof(struct type), __VA_ARGS__}))
#else
#define TASKMILL_OPTIONS_(type, ...) \
    (&(const struct type){.size = sizeof(struct type), __VA_ARGS__})
#endif
#define TASKMILL_ABI 1

enum taskmill_error {
    TASKMILL_ERR_INVALID = -1,      /* wrong argument or value */
    TASKMILL_ERR_MALFORMED = -2,    /* input that cannot be read, e.g. JSON */
    TASKMILL_ERR_TOO_LARGE = -3,    /* larger than a limit */
    TASKMILL_ERR_NOT_FOUND = -4,    /* not declared, or not in the parameters */
    TASKMILL_ERR_EXISTS = -5,       /* declared already */
    TASKMILL_ERR_FULL = -6,         /* the broker or the local queue takes no more now */
    TASKMILL_ERR_IO = -8,           /* a file cannot be read */
    TASKMILL_ERR_TIMEOUT = -11,     /* unknown whether the task was sent */
    TASKMILL_ERR_UNAVAILABLE = -12, /* broker or Kafka cannot be reached */
    TASKMILL_ERR_DENIED = -14,      /* the broker refuses our signature */
    TASKMILL_ERR_UNSUPPORTED = -15,
    TASKMILL_ERR_STATE = -17,  /* not possible now */
    TASKMILL_ERR_SYSTEM = -18, /* the operating system has failed */
    /* Of eager mode, what the handler returned: */
    TASKMILL_ERR_FAILED = -100,
    TASKMILL_ERR_RETRY = -101
};

/* Why the last call of this thread that failed did so: what, where and what to do, in one line. */
TASKMILL_API const char *taskmill_last_error(void);

/* --- applications ---------------------------------------------------------------------------- */

struct taskmill_app;
struct taskmill_namespace;
struct taskmill_call;
struct taskmill_params;

struct taskmill_header {
    const char *key, *value;
};

/* Where tasks are sent: `broker` or `kafka`. With neither, the environment says: TASKMILL_BROKER or
 * TASKMILL_KAFKA; a handler's own app sends to the broker its worker talks to. */
struct taskmill_app_options {
    size_t size;             /* set by the macro */
    const char *broker;      /* host:port of a Taskmill broker */
    const char *rpc_secret;  /* signs calls to the broker; default: TASKMILL_RPC_SECRET */
    const char *kafka;       /* bootstrap servers: "a:9092,b:9092" */
    const char *topic;       /* all tasks go to this one. Default: TASKWORKER_ROUTES (a JSON object
                                namespace -> topic), TASKWORKER_DEFAULT_TOPIC, then "taskworker" in
                                Kafka, the only topic of a broker */
    uint32_t send_timeout_s; /* default 10 */
    /* TLS to the broker, if any of these is given or set as TASKMILL_TLS_CA, _CERT, _KEY, _NAME: */
    const char *tls_ca;             /* PEM file of authorities; default: those of the system */
    const char *tls_cert, *tls_key; /* PEM files of our own certificate; default: none */
    const char *tls_name;           /* what the broker's certificate must name; default: its host */
    /* YAML with `taskworker.route.overrides: {namespace: topic}`, read again when it changes; comes
     * before TASKWORKER_ROUTES. Default: TASKMILL_ROUTES_FILE. */
    const char *route_file;
};

/* NULL if the options are wrong. Nothing is connected before the first send. */
TASKMILL_API struct taskmill_app *taskmill_app_new_with(const char *name,
                                                        const struct taskmill_app_options *options);
#define taskmill_app_new(name, ...) \
    taskmill_app_new_with(name, TASKMILL_OPTIONS_(taskmill_app_options, __VA_ARGS__))
/* Waits for open deliveries (at most send_timeout_s). NULL is allowed. */
TASKMILL_API void taskmill_app_free(struct taskmill_app *app);

/* In a module: the application its tasks belong to. A module that does not say so belongs to the
 * worker's --application. Before the first namespace. */
TASKMILL_API int taskmill_application(struct taskmill_app *app, const char *name);

/* --- namespaces and tasks -------------------------------------------------------------------- */

enum taskmill_status { TASKMILL_COMPLETE = 0, TASKMILL_FAILURE = 1, TASKMILL_RETRY = 2 };

enum taskmill_times_exceeded { TASKMILL_DISCARD = 0, TASKMILL_DEADLETTER = 1 };

/* What is tried again besides TASKMILL_RETRY (and exit code 75 of a command). */
enum taskmill_retry_on {
    TASKMILL_ON_FAILURE = 1, /* TASKMILL_FAILURE, a crash */
    TASKMILL_ON_DEADLINE = 2 /* the processing deadline passed */
};

/* All zero: no policy, the task runs once. A retry is decided by the worker that ran the task, by
 * the policy it has for it; what happens in the end, by the policy of whoever sent it. */
struct taskmill_retry_policy {
    uint32_t times;   /* attempts in all, the first one included; 0 and 1: no second attempt */
    uint32_t delay_s; /* before each next attempt */
    enum taskmill_times_exceeded times_exceeded; /* and for a failure that is not tried again */
    unsigned on;                                 /* bits of enum taskmill_retry_on */
};

struct taskmill_namespace_options {
    size_t size;                        /* set by the macro */
    uint32_t processing_deadline_s;     /* a task that runs longer is killed; default 10 */
    uint32_t expires_s;                 /* a task not started by then is dropped; default: never */
    struct taskmill_retry_policy retry; /* of tasks that have none of their own */
};

/* NULL if the name is empty, "internal", taken, or app is NULL; the worker then refuses the module
 * with that reason. */
TASKMILL_API struct taskmill_namespace *
taskmill_namespace_with(struct taskmill_app *app, const char *name,
                        const struct taskmill_namespace_options *options);
#define taskmill_namespace(app, name, ...) \
    taskmill_namespace_with(app, name, TASKMILL_OPTIONS_(taskmill_namespace_options, __VA_ARGS__))

/* A namespace of another application: its tasks are declared without handlers, with the options
 * that travel with them, and sent with `.application`. It never meets a namespace of our own with
 * the same name; "internal" is allowed. The topic is looked up under "application:name". NULL if a
 * name is empty or the pair is taken. */
TASKMILL_API struct taskmill_namespace *
taskmill_external_namespace_with(struct taskmill_app *app, const char *name,
                                 const char *application,
                                 const struct taskmill_namespace_options *options);
#define taskmill_external_namespace(app, name, application, ...) \
    taskmill_external_namespace_with(app, name, application,     \
                                     TASKMILL_OPTIONS_(taskmill_namespace_options, __VA_ARGS__))

/* Runs in a child process of the worker, one call at a time. A handler that runs past its deadline
 * is killed with all processes it started. */
typedef enum taskmill_status taskmill_handler(struct taskmill_call *call);

struct taskmill_task_options {
    size_t size; /* set by the macro */
    struct taskmill_retry_policy retry;
    uint32_t processing_deadline_s; /* default: the namespace's */
    uint32_t expires_s;             /* default: the namespace's */
    bool at_most_once;              /* started once, whatever happens; excludes a retry policy */
    bool compress;                  /* zstd; parameters above 3,000,000 bytes always are */
    void *data;                     /* for the handler: taskmill_call_data() */
};

/* `handler` may be NULL in programs that only send. */
TASKMILL_API int taskmill_task_with(struct taskmill_namespace *ns, const char *name,
                                    taskmill_handler *handler,
                                    const struct taskmill_task_options *options);
#define taskmill_task(ns, name, handler, ...) \
    taskmill_task_with(ns, name, handler, TASKMILL_OPTIONS_(taskmill_task_options, __VA_ARGS__))

/* `start` runs once in every child process before its first task: open connections there, not in
 * the module's entry, which runs in the worker's parent. Non-zero ends the child; a new one tries
 * again. */
TASKMILL_API int taskmill_child_start(struct taskmill_app *app, int (*start)(void *arg), void *arg);

/*
 * Context hooks carry what surrounds a task, a user or a trace, from the sender to the handler.
 *
 * on_dispatch runs in the thread that sends, once for each task, before its headers are encoded; it
 * may read and change them. Other than 0 refuses the send: taskmill_send returns it if it is an
 * enum taskmill_error, else TASKMILL_ERR_INVALID.
 * on_execute runs in the child before the handler. Other than TASKMILL_COMPLETE ends the attempt
 * with that status (taskmill_fail and taskmill_retry set the text), and the handler does not run.
 * on_leave runs after the handler, with its status, whenever the same hook's on_execute succeeded
 * or is missing: always paired, unless the process dies.
 *
 * Several hooks: on_dispatch and on_execute in the order of their declaration, on_leave in reverse.
 * Commands have no hooks, except for on_dispatch of what a worker sends.
 */
struct taskmill_headers; /* valid during on_dispatch */

struct taskmill_context_hook_options {
    size_t size; /* set by the macro */
    int (*on_dispatch)(void *arg, struct taskmill_headers *headers);
    enum taskmill_status (*on_execute)(void *arg, struct taskmill_call *call);
    void (*on_leave)(void *arg, struct taskmill_call *call, enum taskmill_status status);
    void *arg;
};

TASKMILL_API int taskmill_context_hook_with(struct taskmill_app *app,
                                            const struct taskmill_context_hook_options *options);
#define taskmill_context_hook(app, ...) \
    taskmill_context_hook_with(app, TASKMILL_OPTIONS_(taskmill_context_hook_options, __VA_ARGS__))

/* 0, or the first mistake among the declarations of this app: a program that does not look at each
 * result can ask once. A worker does so for its modules. */
TASKMILL_API int taskmill_app_check(const struct taskmill_app *app);

/* The entry of a module: TASKMILL_MODULE(app) { ... }, in C or C++. */
TASKMILL_API extern const int taskmill_module_abi;
TASKMILL_API void taskmill_module_init(struct taskmill_app *app);
#define TASKMILL_MODULE(app)                      \
    const int taskmill_module_abi = TASKMILL_ABI; \
    void taskmill_module_init(struct taskmill_app *app)

/* --- in a handler ---------------------------------------------------------------------------- */

/* "return taskmill_fail(call, ...)": the text goes to the log. */
TASKMILL_API enum taskmill_status taskmill_fail(struct taskmill_call *call, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Another attempt, if the retry policy has any left; else this is a failure. */
TASKMILL_API enum taskmill_status taskmill_retry(struct taskmill_call *call, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* What these return lives as long as the call. */
TASKMILL_API const char *taskmill_call_id(const struct taskmill_call *call);
TASKMILL_API const char *taskmill_call_application(const struct taskmill_call *call);
TASKMILL_API const char *taskmill_call_namespace(const struct taskmill_call *call);
TASKMILL_API const char *taskmill_call_task(const struct taskmill_call *call);
TASKMILL_API uint32_t taskmill_call_attempt(const struct taskmill_call *call); /* 0 is the first */
TASKMILL_API bool taskmill_call_retries_left(const struct taskmill_call *call);
/* Unix time in microseconds at which the task was sent (its retry: sent again); 0 if not known. */
TASKMILL_API int64_t taskmill_call_sent_us(const struct taskmill_call *call);
TASKMILL_API const char *taskmill_call_header(struct taskmill_call *call,
                                              const char *key); /* or NULL */
/* All headers, in the order of the message. False from the end on. */
TASKMILL_API bool taskmill_call_header_at(struct taskmill_call *call, size_t index,
                                          struct taskmill_header *out);
/* Seconds after the start at which this attempt is killed. */
TASKMILL_API uint64_t taskmill_call_deadline_s(const struct taskmill_call *call);
TASKMILL_API void *taskmill_call_data(const struct taskmill_call *call);
TASKMILL_API struct taskmill_app *taskmill_call_app(const struct taskmill_call *call); /* to send */
TASKMILL_API size_t taskmill_arg_count(const struct taskmill_call *call);

enum taskmill_type {
    TASKMILL_NULL,
    TASKMILL_BOOL,
    TASKMILL_INT,
    TASKMILL_DOUBLE,
    TASKMILL_STR,
    TASKMILL_BYTES,
    TASKMILL_ARRAY,
    TASKMILL_MAP,
    TASKMILL_EXT
};

/* One value of the parameters. Copy it freely; it lives as long as the call. */
struct taskmill_value {
    struct taskmill_call *call;
    const unsigned char *ptr;
    size_t len;
};

/* All positional parameters as an array, all named ones as a map. */
TASKMILL_API struct taskmill_value taskmill_args(struct taskmill_call *call);
TASKMILL_API struct taskmill_value taskmill_kwargs(struct taskmill_call *call);

/* 0, TASKMILL_ERR_NOT_FOUND, or TASKMILL_ERR_INVALID for another type (a double may be asked of an
 * int). The out-parameter is written only on success. Strings that hold a NUL are
 * TASKMILL_ERR_INVALID for _str; _bytes takes both strings and bytes. */
TASKMILL_API int taskmill_arg(struct taskmill_call *call, size_t index, struct taskmill_value *out);
TASKMILL_API int taskmill_arg_int(struct taskmill_call *call, size_t index, int64_t *out);
TASKMILL_API int taskmill_arg_uint(struct taskmill_call *call, size_t index, uint64_t *out);
TASKMILL_API int taskmill_arg_double(struct taskmill_call *call, size_t index, double *out);
TASKMILL_API int taskmill_arg_bool(struct taskmill_call *call, size_t index, bool *out);
TASKMILL_API int taskmill_arg_str(struct taskmill_call *call, size_t index, const char **out);
TASKMILL_API int taskmill_arg_bytes(struct taskmill_call *call, size_t index, const void **out,
                                    size_t *len);

TASKMILL_API int taskmill_kwarg(struct taskmill_call *call, const char *key,
                                struct taskmill_value *out);
TASKMILL_API int taskmill_kwarg_int(struct taskmill_call *call, const char *key, int64_t *out);
TASKMILL_API int taskmill_kwarg_uint(struct taskmill_call *call, const char *key, uint64_t *out);
TASKMILL_API int taskmill_kwarg_double(struct taskmill_call *call, const char *key, double *out);
TASKMILL_API int taskmill_kwarg_bool(struct taskmill_call *call, const char *key, bool *out);
TASKMILL_API int taskmill_kwarg_str(struct taskmill_call *call, const char *key, const char **out);
TASKMILL_API int taskmill_kwarg_bytes(struct taskmill_call *call, const char *key, const void **out,
                                      size_t *len);

TASKMILL_API enum taskmill_type taskmill_value_type(const struct taskmill_value *value);
TASKMILL_API int taskmill_value_int(const struct taskmill_value *value, int64_t *out);
TASKMILL_API int taskmill_value_uint(const struct taskmill_value *value, uint64_t *out);
TASKMILL_API int taskmill_value_double(const struct taskmill_value *value, double *out);
TASKMILL_API int taskmill_value_bool(const struct taskmill_value *value, bool *out);
TASKMILL_API int taskmill_value_str(const struct taskmill_value *value, const char **out);
TASKMILL_API int taskmill_value_bytes(const struct taskmill_value *value, const void **out,
                                      size_t *len);
/* Elements of an array, pairs of a map, else 0. */
TASKMILL_API size_t taskmill_value_count(const struct taskmill_value *value);
/* Element of an array or value of a map by position. */
TASKMILL_API int taskmill_value_at(const struct taskmill_value *value, size_t index,
                                   struct taskmill_value *out);
/* Key of a map by position: a string, or bytes. */
TASKMILL_API int taskmill_value_key(const struct taskmill_value *value, size_t index,
                                    struct taskmill_value *out);
/* Value of a map by key; of several the last. */
TASKMILL_API int taskmill_value_get(const struct taskmill_value *value, const char *key,
                                    struct taskmill_value *out);
/* The value as compact JSON, for logs: bytes are {"$bytes": "base64"}, NaN and infinities
 * {"$float": "nan"}. TASKMILL_ERR_UNSUPPORTED for extensions. Lives as long as the call. */
TASKMILL_API int taskmill_value_json(const struct taskmill_value *value, const char **out);

/* --- parameters ------------------------------------------------------------------------------ */

/*
 * Parameters are positional values and named ones, like a Python call: f(42, email="a@b.c").
 * taskmill_params_TYPE adds a positional value, taskmill_params_kw_TYPE a named one. _array and
 * _map open a container, which takes the values that follow until taskmill_params_end: plain ones
 * in an array, named ones in a map. A mistake (a positional value in a map, text that is not UTF-8,
 * a container left open, a name given twice, more than 1,022 containers inside each other) is
 * remembered: taskmill_send returns the first one and sends nothing, taskmill_params_check tells it
 * before.
 */
TASKMILL_API struct taskmill_params *taskmill_params_new(void);
TASKMILL_API void taskmill_params_free(struct taskmill_params *p); /* only if it is never sent */
/* From {"args": [...], "kwargs": {...}}, either may be missing; {"$bytes": "base64"} are bytes.
 * Never NULL: wrong text is a mistake like any other. No more values can be added. */
TASKMILL_API struct taskmill_params *taskmill_params_from_json(const char *json);

TASKMILL_API void taskmill_params_null(struct taskmill_params *p);
TASKMILL_API void taskmill_params_bool(struct taskmill_params *p, bool value);
TASKMILL_API void taskmill_params_int(struct taskmill_params *p, int64_t value);
TASKMILL_API void taskmill_params_uint(struct taskmill_params *p, uint64_t value);
TASKMILL_API void taskmill_params_double(struct taskmill_params *p, double value);
TASKMILL_API void taskmill_params_str(struct taskmill_params *p, const char *value);
TASKMILL_API void taskmill_params_bytes(struct taskmill_params *p, const void *value, size_t len);
TASKMILL_API void taskmill_params_array(struct taskmill_params *p);
TASKMILL_API void taskmill_params_map(struct taskmill_params *p);

TASKMILL_API void taskmill_params_kw_null(struct taskmill_params *p, const char *key);
TASKMILL_API void taskmill_params_kw_bool(struct taskmill_params *p, const char *key, bool value);
TASKMILL_API void taskmill_params_kw_int(struct taskmill_params *p, const char *key, int64_t value);
TASKMILL_API void taskmill_params_kw_uint(struct taskmill_params *p, const char *key,
                                          uint64_t value);
TASKMILL_API void taskmill_params_kw_double(struct taskmill_params *p, const char *key,
                                            double value);
TASKMILL_API void taskmill_params_kw_str(struct taskmill_params *p, const char *key,
                                         const char *value);
TASKMILL_API void taskmill_params_kw_bytes(struct taskmill_params *p, const char *key,
                                           const void *value, size_t len);
TASKMILL_API void taskmill_params_kw_array(struct taskmill_params *p, const char *key);
TASKMILL_API void taskmill_params_kw_map(struct taskmill_params *p, const char *key);

TASKMILL_API void taskmill_params_end(struct taskmill_params *p);

/* Any value of a call, to pass it on; copied. */
TASKMILL_API void taskmill_params_value(struct taskmill_params *p,
                                        const struct taskmill_value *value);
TASKMILL_API void taskmill_params_kw_value(struct taskmill_params *p, const char *key,
                                           const struct taskmill_value *value);
/* 0, or the first mistake so far, with its text. */
TASKMILL_API int taskmill_params_check(const struct taskmill_params *p);

/* --- sending --------------------------------------------------------------------------------- */

#define TASKMILL_ID_SIZE 37 /* 32 hexadecimal digits, perhaps with 4 dashes, and a NUL */

/* All headers of one task: keys are not empty and unique, text is UTF-8. "compression-type" is the
 * library's, "sentry-monitor-config" is for schedulers and not sent. At most these: */
#define TASKMILL_HEADERS_MAX       128
#define TASKMILL_HEADERS_BYTES_MAX 262144 /* keys and values together */

/* For on_dispatch. What they return lives until the headers change. */
TASKMILL_API const char *taskmill_headers_get(const struct taskmill_headers *headers,
                                              const char *key); /* or NULL */
/* Adds or replaces; copies both. On failure the headers are as before. */
TASKMILL_API int taskmill_headers_set(struct taskmill_headers *headers, const char *key,
                                      const char *value);
TASKMILL_API void taskmill_headers_remove(struct taskmill_headers *headers, const char *key);
TASKMILL_API size_t taskmill_headers_count(const struct taskmill_headers *headers);
/* NULL from the count on. */
TASKMILL_API const struct taskmill_header *
taskmill_headers_at(const struct taskmill_headers *headers, size_t index);

/*
 * Tells what became of a task: `error` is 0 (durable) or an enum taskmill_error, `reason` its text
 * ("" for 0), `id` and `reason` live during the call. It is called exactly once for every task
 * whose taskmill_send returned 0, and for every task that taskmill_bulk_send accepted; a send that
 * returns an error has told all by that. With no_wait it runs later, on a thread of the library,
 * one call at a time: it may send (waiting or not), but not flush or free the app; while it takes
 * long, others wait. taskmill_flush waits for it, taskmill_app_free too: whatever is not delivered
 * by then is reported as failed, and a send from inside is TASKMILL_ERR_STATE. Without no_wait it
 * runs in the thread that sends, before taskmill_send returns.
 */
typedef void taskmill_delivery(void *arg, const char *id, int error, const char *reason);

struct taskmill_send_options {
    size_t size;          /* set by the macro */
    uint32_t countdown_s; /* starts no earlier; brokers cap it */
    uint32_t expires_s;   /* default: the task's */
    const struct taskmill_header *headers;
    size_t header_count;
    char *id;     /* TASKMILL_ID_SIZE bytes that receive the id; may be NULL */
    bool no_wait; /* return when it is in the local queue; taskmill_flush tells the rest */
    /* Send a task that this program has not declared, with the policy given here. */
    bool undeclared;
    struct taskmill_task_options task;
    /* The id, if it must not be a new random one: 32 lower-case hexadecimal digits, or with dashes
     * (8-4-4-4-12). A send whose outcome is unknown (TASKMILL_ERR_TIMEOUT) may be repeated under
     * the same id: a broker drops the second one while it holds the first. */
    const char *send_id;
    const char *application;        /* of an external namespace; default: the app's own */
    taskmill_delivery *on_delivery; /* may be NULL */
    void *on_delivery_arg;
};

/*
 * Sends a task; 0 means that it is durable (no_wait aside). `params` may be NULL (none) and is
 * taken over whatever the result. Returns within send_timeout_s. Threads that send to a broker at
 * the same time share its requests.
 *
 * What the codes mean here: _NOT_FOUND the task is not declared, or Kafka has no such topic;
 * _UNAVAILABLE nobody could be reached, the task was not sent; _TIMEOUT it is not known whether it
 * was sent (repeat it under the same send_id); _TOO_LARGE beyond the topic's or broker's limit;
 * _FULL the broker, or the local queue, takes no more now; _DENIED our credentials are refused.
 */
TASKMILL_API int taskmill_send_with(struct taskmill_app *app, const char *ns, const char *task,
                                    struct taskmill_params *params,
                                    const struct taskmill_send_options *options);
#define taskmill_send(app, ns, task, params, ...) \
    taskmill_send_with(app, ns, task, params, TASKMILL_OPTIONS_(taskmill_send_options, __VA_ARGS__))

/* Many tasks at once: one call to the broker for up to a few MiB of them. All of a call are
 * accepted or none. `no_wait` has no effect here. */
struct taskmill_bulk;
TASKMILL_API struct taskmill_bulk *taskmill_bulk_new(struct taskmill_app *app);
TASKMILL_API int taskmill_bulk_add_with(struct taskmill_bulk *bulk, const char *ns,
                                        const char *task, struct taskmill_params *params,
                                        const struct taskmill_send_options *options);
#define taskmill_bulk_add(bulk, ns, task, params, ...) \
    taskmill_bulk_add_with(bulk, ns, task, params,     \
                           TASKMILL_OPTIONS_(taskmill_send_options, __VA_ARGS__))
/* Sends what was added; the bulk is then empty. On failure it keeps what was not accepted, and the
 * call may be repeated (after TASKMILL_ERR_TIMEOUT some may then run twice). */
TASKMILL_API int taskmill_bulk_send(struct taskmill_bulk *bulk);
TASKMILL_API size_t taskmill_bulk_count(const struct taskmill_bulk *bulk);
TASKMILL_API void taskmill_bulk_free(struct taskmill_bulk *bulk); /* what is inside is not sent */

/* Waits until everything sent with no_wait is delivered and its callback has run. The failures
 * since the last flush make it fail; taskmill_last_error() counts them and has the first reason. */
TASKMILL_API int taskmill_flush(struct taskmill_app *app, uint32_t timeout_s);

/* --- tests ----------------------------------------------------------------------------------- */

/*
 * Three ways to test without a broker:
 *
 *   taskmill_test_run      one attempt of one handler, with its hooks
 *   taskmill_eager         taskmill_send runs the handler at once
 *   taskmill_test_capture  taskmill_send keeps the task, for the test to look at
 *
 *     struct taskmill_app *app = taskmill_test_app(taskmill_module_init, "shop");
 *     struct taskmill_params *p = taskmill_params_new();
 *     struct taskmill_test_result result;
 *     taskmill_params_int(p, 42);
 *     assert(taskmill_test_run(app, "billing", "billing.send_invoice", p, &result) == 0);
 *     assert(result.status == TASKMILL_FAILURE && strstr(result.error, "needs (id"));
 *
 * All three check and encode as a real send does, on_dispatch hooks included, so what could not be
 * sent fails the test.
 */

/* The app of a module that is linked into the test; `init` is its taskmill_module_init. `name` is
 * for a module that names no application. NULL: a declaration is wrong, taskmill_last_error() says
 * which. */
TASKMILL_API struct taskmill_app *taskmill_test_app(void (*init)(struct taskmill_app *app),
                                                    const char *name);

/* Eager mode: taskmill_send (and each task of taskmill_bulk_send) runs the handler in the caller's
 * thread, without deadline, retry, at-most-once and on_execute hooks. 0, or TASKMILL_ERR_FAILED or
 * TASKMILL_ERR_RETRY as the handler returned, with its text. Tasks of external namespaces are
 * TASKMILL_ERR_UNSUPPORTED, those without a handler TASKMILL_ERR_NOT_FOUND. Not while another
 * thread sends. */
TASKMILL_API int taskmill_eager(struct taskmill_app *app, bool on);

struct taskmill_test_options {
    size_t size;      /* set by the macro */
    uint32_t attempt; /* 0 is the first */
    const char *id;   /* as send_id; default: random */
    const struct taskmill_header *headers;
    size_t header_count;
};

struct taskmill_test_result {
    enum taskmill_status status; /* what the handler (or a hook) returned */
    enum taskmill_status report; /* what a worker would report by the task's retry policy */
    bool deadletter;             /* the report is FAILURE, and the task would be dead-lettered */
    uint32_t retry_delay_s;      /* when the report is RETRY */
    char error[512];             /* the text of taskmill_fail or taskmill_retry, or "" */
};

/* One attempt with all hooks. 0 when the handler ran, whatever it returned; takes params over. */
TASKMILL_API int taskmill_test_run_with(struct taskmill_app *app, const char *ns, const char *task,
                                        struct taskmill_params *params,
                                        struct taskmill_test_result *result,
                                        const struct taskmill_test_options *options);
#define taskmill_test_run(app, ns, task, params, result, ...) \
    taskmill_test_run_with(app, ns, task, params, result,     \
                           TASKMILL_OPTIONS_(taskmill_test_options, __VA_ARGS__))

/* From now on tasks are kept instead of sent (also in eager mode); off: sent again. Kept ones stay
 * until taskmill_test_clear. */
TASKMILL_API int taskmill_test_capture(struct taskmill_app *app, bool on);
TASKMILL_API size_t taskmill_test_count(const struct taskmill_app *app);
TASKMILL_API void taskmill_test_clear(struct taskmill_app *app);

struct taskmill_test_sent {
    const char *application, *ns, *task, *id;
    const char *topic;       /* NULL: the broker's default */
    const char *params_json; /* {"args":[42],"kwargs":{"email":"a@b.c"}}, compact */
    uint64_t countdown_s, expires_s, processing_deadline_s; /* 0: none */
};

/* In the order of sending; NULL from the count on. Lives until taskmill_test_clear. */
TASKMILL_API const struct taskmill_test_sent *taskmill_test_sent(const struct taskmill_app *app,
                                                                 size_t index);
TASKMILL_API const char *taskmill_test_sent_header(const struct taskmill_test_sent *sent,
                                                   const char *key); /* or NULL */
/* The first attempt of a kept task, as taskmill_test_run. */
TASKMILL_API int taskmill_test_run_sent(struct taskmill_app *app, size_t index,
                                        struct taskmill_test_result *result);

#ifdef __cplusplus
}
#endif

#endif
