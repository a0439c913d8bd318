/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `taskmill demo`: a whole installation in one command. A broker without Kafka runs inside this
 * process, on a database in a folder of its own; workers run as a child; this thread produces.
 * First a burst of short C tasks, for tasks/s; then a mixture at a steady pace, for the time from
 * enqueue to start: C tasks, commands in other languages, tasks that fail twice, tasks that end in
 * the dead letter topic, delayed ones.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/broker.h"
#include "cli/cli.h"
#include "rpc/client.h"
#include "wire/consumer.h"
#include "wire/ident.h"
#include "wire/params.h"

#define BURST_TASKS      8000
#define BURST_BATCH      200
#define CALLS_OPEN       4
#define PACE_MS          10
#define PROGRESS_MS      200
#define PROGRESS_DUMB_MS 2000   /* not on a terminal */
#define LIMIT_MS         120000 /* something hangs */

static const char help[] =
    "usage: taskmill demo --module FILE --commands FILE [--concurrency N]\n"
    "\n"
    "Runs a broker without Kafka, workers and a producer in a temporary folder: 10,500 tasks in "
    "three\n"
    "namespaces. Ends with a table; exit 0 only if every task ended as it should. Ctrl-C stops "
    "it.\n"
    "\n"
    "  --module FILE      the C tasks (examples/demo/demo_tasks.c, built)\n"
    "  --commands FILE    the tasks in other languages (examples/demo/tasks.yml)\n"
    "  --concurrency N    worker processes; default 8\n"
    "\n"
    "example: ./dev demo      (builds everything and calls this)\n";

/* A kind of task and what its producer asks for. `retries`: Retry reports until it completes. */
struct kind {
    const char *namespace, *taskname, *json;
    uint32_t count; /* in the mixture */
    uint32_t max_attempts, retries;
    bool deadletter; /* always fails */
    uint64_t delay_s;
};

static const struct kind burst = {
    .namespace = "math", .taskname = "math.primes", .json = "{\"args\":[200],\"kwargs\":{}}"};

static const struct kind mixture[] = {
    {"math", "math.primes", "{\"args\":[500],\"kwargs\":{}}", 1560, 0, 0, false, 0},
    {"mail", "mail.send", "{\"args\":[],\"kwargs\":{\"to\":\"a@example.org\"}}", 300, 3, 2, false,
     0},
    {"mail", "mail.bounce", "{\"args\":[],\"kwargs\":{}}", 200, 1, 0, true, 0},
    {"mail", "mail.remind", "{\"args\":[],\"kwargs\":{\"text\":\"tea\"}}", 400, 3, 0, false, 2},
    {"scripts", "scripts.wordcount",
     "{\"args\":[\"the quick brown fox\"],\"kwargs\":{\"expect\":4,\"flaky\":true}}", 8, 2, 1,
     false, 0},
    {"scripts", "scripts.wordcount", "{\"args\":[\"jumps over\"],\"kwargs\":{\"expect\":2}}", 12, 2,
     0, false, 0},
    {"scripts", "scripts.checksum", "{\"args\":[\"the lazy dog\"],\"kwargs\":{}}", 20, 2, 0, false,
     0},
};
#define KINDS (sizeof mixture / sizeof *mixture)

struct demo {
    struct cli_args args;
    const char *module, *commands;
    uint64_t concurrency;
    char folder[256];
    struct config *cfg;
    struct broker *broker;
    struct rpc_client *client;
    pid_t worker;
    int signal_fd;
    bool terminal, interrupted, failed;
    uint64_t total, sent;
    uint32_t open, sent_of_kind[KINDS];
    uint64_t expected_retries, expected_deadletters;
    int64_t start_ms, progress_ms;
    double burst_rate;
    struct engine_stats stats, before_mixture;
};

/* --- parts ----------------------------------------------------------------------------------- */

static int fail(struct demo *demo, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(struct demo *demo, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;
    va_start(ap, fmt);
    err_setv(&text, ERR_STATE, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s%s: %s\n", demo->terminal ? "\r\033[K" : "", demo->args.command, text.s);
    demo->failed = true;
    return -1;
}

static uint16_t free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        address.sin_port = 0;
    close(fd);
    return ntohs(address.sin_port);
}

static int start_broker(struct demo *demo)
{
    struct buf text = {0};
    buf_printf(&text,
               "embedded: true\ngrpc_addr: 127.0.0.1\ngrpc_port: %u\ngrpc_threads: 1\n"
               "admin_addr: null\n"
               "store: {sqlite: {path: \"%s/demo.sqlite\"}, max_pending_count: 20000}\n",
               free_port(), demo->folder);
    struct config_warnings warnings = {0};
    struct err_text why;
    char *const no_environment[] = {NULL};
    int rc =
        config_load_text(&demo->cfg, "demo", buf_bytes(&text), no_environment, &warnings, &why);
    config_warnings_free(&warnings);
    buf_free(&text);
    if (rc == 0)
        rc = broker_create(&demo->broker, demo->cfg, &why);
    if (rc == 0)
        rc = broker_start(demo->broker, &why);
    return rc ? fail(demo, "broker: %s", why.s) : 0;
}

static void exec_worker(const struct demo *demo)
{
    char hosts[32], concurrency[24], log[sizeof demo->folder + 16];
    snprintf(hosts, sizeof hosts, "127.0.0.1:%u", broker_port(demo->broker));
    snprintf(concurrency, sizeof concurrency, "%llu", (unsigned long long)demo->concurrency);
    snprintf(log, sizeof log, "%s/worker.log", demo->folder);
    setpgid(0, 0); /* Ctrl-C is for the demo, which tells the worker */
    if (!freopen(log, "w", stderr))
        _exit(127);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl("/proc/self/exe", "taskmill", "worker", "--rpc-host-list", hosts, "--concurrency",
          concurrency, "--module", demo->module, "--commands", demo->commands, (char *)NULL);
    _exit(127);
}

static int start_worker(struct demo *demo)
{
    demo->worker = fork();
    if (demo->worker == 0)
        exec_worker(demo);
    return demo->worker > 0 ? 0 : fail(demo, "fork: %s", strerror(errno));
}

static int check_worker(struct demo *demo)
{
    int status;
    if (demo->worker <= 0 || waitpid(demo->worker, &status, WNOHANG) != demo->worker)
        return 0;
    demo->worker = 0;
    return fail(demo, "the worker ended early (status %d); its log: %s/worker.log", status,
                demo->folder);
}

/* --- progress -------------------------------------------------------------------------------- */

static uint64_t ended(const struct inflight_counts *counts)
{
    return counts->completed + counts->deadlettered + counts->discarded + counts->expired;
}

static void show_progress(struct demo *demo, int64_t now_ms)
{
    int64_t interval_ms = demo->terminal ? PROGRESS_MS : PROGRESS_DUMB_MS;
    if (now_ms - demo->progress_ms < interval_ms)
        return;
    demo->progress_ms = now_ms;
    const struct inflight_counts *counts = &demo->stats.inflight;
    fprintf(
        stderr,
        "%s%5.1f s  enqueued %llu  completed %llu  retried %llu  dead-lettered %llu  waiting %zu%s",
        demo->terminal ? "\r" : "", (double)(now_ms - demo->start_ms) / 1000,
        (unsigned long long)demo->sent, (unsigned long long)counts->completed,
        (unsigned long long)counts->retried, (unsigned long long)counts->deadlettered,
        counts->tasks, demo->terminal ? "\033[K" : "\n");
}

/* One round of everything that may happen; false: stop. */
static bool serve(struct demo *demo, int wait_ms)
{
    rpc_client_io(demo->client, clock_boot_ms());
    struct pollfd fds[] = {
        {.fd = demo->signal_fd, .events = POLLIN},
        {.fd = broker_fd(demo->broker), .events = POLLIN},
        {.fd = rpc_client_fd(demo->client), .events = rpc_client_events(demo->client)}};
    poll(fds, sizeof fds / sizeof *fds, wait_ms);
    int64_t now_ms = clock_boot_ms();
    rpc_client_io(demo->client, now_ms);
    broker_tick(demo->broker);
    broker_stats(demo->broker, &demo->stats);
    show_progress(demo, now_ms);
    if (fds[0].revents)
        demo->interrupted = true;
    const char *failure = broker_failure(demo->broker);
    if (failure)
        fail(demo, "broker: %s", failure);
    check_worker(demo);
    if (now_ms - demo->start_ms > LIMIT_MS)
        fail(demo, "not done after %d s; the worker's log: %s/worker.log", LIMIT_MS / 1000,
             demo->folder);
    return !demo->interrupted && !demo->failed;
}

/* --- producing ------------------------------------------------------------------------------- */

static void on_enqueued(void *ctx, const struct rpc_result *result)
{
    struct demo *demo = ctx;
    demo->open--;
    if (result->status != GRPC_OK && !demo->interrupted)
        fail(demo, "Enqueue: %s: %s", grpc_status_name(result->status), result->message);
}

static void add_task(struct demo *demo, const struct kind *kind, struct buf *message)
{
    uint8_t random[16];
    char id[IDENT_HEX_LEN + 1];
    struct buf params = {0}, payload = {0};
    const char *why;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random ||
        params_from_json(bytes_str(kind->json), &params, &why)) {
        fail(demo, "%s: no random bytes or bad parameters", kind->taskname);
        return;
    }
    ident_random(id, random);
    int64_t now_ms = clock_wall_ms();
    struct activation activation = {
        .id = bytes_str(id),
        .namespace = bytes_str(kind->namespace),
        .taskname = bytes_str(kind->taskname),
        .has_application = true,
        .application = bytes_str("demo"),
        .parameters_bytes = buf_bytes(&params),
        .has_received_at = true,
        .received_at_s = now_ms / 1000,
        .received_at_ns = (int32_t)(now_ms % 1000) * 1000000,
        .retry_state = {.present = true,
                        .max_attempts = kind->max_attempts ? kind->max_attempts : 1,
                        .on_attempts_exceeded = kind->deadletter ? ON_ATTEMPTS_EXCEEDED_DEADLETTER
                                                                 : ON_ATTEMPTS_EXCEEDED_DISCARD},
        .processing_deadline_duration = 20,
        .has_delay = kind->delay_s > 0,
        .delay = kind->delay_s,
    };
    activation_encode(&activation, NULL, 0, &payload);
    enqueue_encode_activation(buf_bytes(&payload), message);
    demo->sent++;
    demo->expected_retries += kind->retries;
    demo->expected_deadletters += kind->deadletter;
    buf_free(&params);
    buf_free(&payload);
}

static void send_batch(struct demo *demo, struct buf *message)
{
    if (!message->len)
        return;
    demo->open++;
    rpc_client_call(demo->client, PRODUCER_ENQUEUE, buf_bytes(message), 30000, on_enqueued, demo,
                    clock_boot_ms(), NULL);
}

/* As fast as the broker takes them. tasks/s counts from the first to the end of the last. */
static bool run_burst(struct demo *demo)
{
    int64_t start_us = clock_boot_us();
    while (demo->sent < BURST_TASKS || demo->open) {
        while (demo->open < CALLS_OPEN && demo->sent < BURST_TASKS) {
            struct buf message = {0};
            for (int i = 0; i < BURST_BATCH && demo->sent < BURST_TASKS; i++)
                add_task(demo, &burst, &message);
            send_batch(demo, &message);
            buf_free(&message);
        }
        if (!serve(demo, 5))
            return false;
    }
    while (ended(&demo->stats.inflight) < BURST_TASKS)
        if (!serve(demo, 5))
            return false;
    demo->burst_rate = BURST_TASKS * 1e6 / (double)(clock_boot_us() - start_us);
    return true;
}

/* The kind that lags most behind its share: an even mixture. */
static size_t next_kind(const struct demo *demo)
{
    size_t best = 0;
    double least = 2;
    for (size_t i = 0; i < KINDS; i++) {
        double share = (double)demo->sent_of_kind[i] / mixture[i].count;
        if (share < least) {
            least = share;
            best = i;
        }
    }
    return best;
}

static bool run_mixture(struct demo *demo)
{
    demo->before_mixture = demo->stats;
    int64_t next_ms = clock_boot_ms();
    while (demo->sent < demo->total) {
        struct buf message = {0};
        for (int i = 0; i < 5 && demo->sent < demo->total; i++) {
            size_t kind = next_kind(demo);
            demo->sent_of_kind[kind]++;
            add_task(demo, &mixture[kind], &message);
        }
        send_batch(demo, &message);
        buf_free(&message);
        next_ms += PACE_MS;
        do {
            int64_t left_ms = next_ms - clock_boot_ms();
            if (!serve(demo, left_ms > 0 ? (int)left_ms : 0))
                return false;
        } while (clock_boot_ms() < next_ms);
    }
    while (ended(&demo->stats.inflight) < demo->total || demo->stats.inflight.tasks || demo->open)
        if (!serve(demo, 20))
            return false;
    return true;
}

/* --- the end --------------------------------------------------------------------------------- */

static int compare(const char *what, uint64_t is, uint64_t expected)
{
    printf("  %-18s %8llu", what, (unsigned long long)is);
    if (is != expected)
        printf("   expected %llu", (unsigned long long)expected);
    putchar('\n');
    return is != expected;
}

/* Measured in whole milliseconds. */
static const char *latency_text(char out[16], const struct metric_histogram *latency, double q)
{
    double value = metric_quantile(latency, q);
    if (value < 1)
        snprintf(out, 16, "<1");
    else
        snprintf(out, 16, "%.0f", value);
    return out;
}

static int print_table(struct demo *demo)
{
    const struct inflight_counts *counts = &demo->stats.inflight;
    struct metric_histogram latency = demo->stats.start_latency_ms;
    latency.count -= demo->before_mixture.start_latency_ms.count;
    for (size_t i = 0; i < METRIC_BUCKETS; i++)
        latency.buckets[i] -= demo->before_mixture.start_latency_ms.buckets[i];
    if (demo->terminal)
        fputs("\r\033[K", stderr);
    int wrong = compare("enqueued", demo->sent, demo->total);
    wrong += compare("completed", counts->completed, demo->total - demo->expected_deadletters);
    wrong += compare("retried", counts->retried, demo->expected_retries);
    wrong += compare("dead-lettered", counts->deadlettered, demo->expected_deadletters);
    wrong += compare("lost or expired", counts->discarded + counts->expired, 0);
    printf("  %-18s %8.0f   (burst of %d short C tasks)\n", "tasks/s", demo->burst_rate,
           BURST_TASKS);
    char p50[16], p99[16];
    printf("  %-18s %8s ms p50, %s ms p99   (%llu starts at a steady %d tasks/s)\n",
           "enqueue to start", latency_text(p50, &latency, 0.5), latency_text(p99, &latency, 0.99),
           (unsigned long long)latency.count, 5 * 1000 / PACE_MS);
    puts(wrong ? "not every task ended as it should" : "every task ended as it should");
    return wrong ? -1 : 0;
}

static void stop_worker(struct demo *demo)
{
    if (demo->worker <= 0)
        return;
    kill(demo->worker, SIGTERM);
    int64_t until_ms = clock_boot_ms() + 10000;
    while (waitpid(demo->worker, NULL, WNOHANG) == 0) {
        if (clock_boot_ms() > until_ms)
            kill(-demo->worker, SIGKILL);
        poll(NULL, 0, 20);
    }
    demo->worker = 0;
}

static void remove_folder(const struct demo *demo)
{
    static const char *const names[] = {"demo.sqlite", "demo.sqlite-wal", "demo.sqlite-shm",
                                        "demo.sqlite.lock", "worker.log"};
    char path[sizeof demo->folder + 24];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", demo->folder, names[i]);
        unlink(path);
    }
    rmdir(demo->folder);
}

static int run(struct demo *demo)
{
    demo->total = BURST_TASKS;
    for (size_t i = 0; i < KINDS; i++)
        demo->total += mixture[i].count;
    if (start_broker(demo))
        return -1;
    struct rpc_client_options client = {.host = "127.0.0.1", .port = broker_port(demo->broker)};
    demo->client = rpc_client_new(&client);
    demo->start_ms = clock_boot_ms();
    if (start_worker(demo) || !run_burst(demo) || !run_mixture(demo))
        return -1;
    return print_table(demo);
}

static void clean_up(struct demo *demo)
{
    stop_worker(demo);
    if (demo->client)
        rpc_client_free(demo->client);
    broker_destroy(demo->broker);
    config_free(demo->cfg);
    if (!demo->failed)
        remove_folder(demo);
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int parse(struct demo *demo)
{
    enum { OPT_MODULE = 1, OPT_COMMANDS, OPT_CONCURRENCY };
    static const struct cli_option options[] = {{OPT_MODULE, "module", 'm', true},
                                                {OPT_COMMANDS, "commands", 0, true},
                                                {OPT_CONCURRENCY, "concurrency", 0, true},
                                                {0}};
    demo->concurrency = 8;
    for (;;) {
        switch (cli_next(&demo->args, options)) {
        case OPT_MODULE:
            demo->module = demo->args.value;
            break;
        case OPT_COMMANDS:
            demo->commands = demo->args.value;
            break;
        case OPT_CONCURRENCY:
            if (!cli_number(&demo->args, "--concurrency", 1, 256, &demo->concurrency))
                return CLI_USAGE;
            break;
        case CLI_HELP:
            fputs(help, stdout);
            return CLI_HELP;
        case CLI_END:
            if (demo->module && demo->commands)
                return 0;
            return cli_error(&demo->args, CLI_USAGE,
                             "--module and --commands are needed; ./dev demo gives both");
        case CLI_POSITIONAL:
            return cli_error(&demo->args, CLI_USAGE, "takes no '%s'", demo->args.value);
        default:
            return CLI_USAGE;
        }
    }
}

int cmd_demo(int argc, char **argv)
{
    struct demo demo = {.args = cli_args_init("taskmill demo", argc, argv)};
    int rc = parse(&demo);
    if (rc)
        return rc == CLI_HELP ? CLI_OK : CLI_USAGE;
    demo.terminal = isatty(STDERR_FILENO);
    log_init(LOG_TEXT, "error", NULL);
    const char *base = getenv("TMPDIR");
    snprintf(demo.folder, sizeof demo.folder, "%.200s/taskmill-demo-XXXXXX", base ? base : "/tmp");
    demo.signal_fd = open_signals();
    if (demo.signal_fd < 0 || !mkdtemp(demo.folder))
        return cli_error(&demo.args, CLI_FAILED, "%s: %s", demo.folder, strerror(errno));
    printf(
        "%s %s: a broker without Kafka, %llu worker processes, 10,500 tasks in three namespaces\n",
        "taskmill", TASKMILL_VERSION, (unsigned long long)demo.concurrency);
    if (fflush(stdout) != 0)
        return cli_error(&demo.args, CLI_FAILED, "standard output: %s", strerror(errno));
    rc = run(&demo);
    clean_up(&demo);
    if (demo.interrupted)
        fprintf(stderr, "%sstopped by a signal before the end\n", demo.terminal ? "\r\033[K" : "");
    return rc ? CLI_FAILED : CLI_OK;
}
