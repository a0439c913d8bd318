/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill worker`, also `taskmill run taskworker`: reads the options of spec/client.md 5.1. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/cli_meters.h"
#include "cli/cli_tls.h"
#include "client/dispatch.h"
#include "worker/claims.h"
#include "worker/task_files.h"
#include "worker/worker.h"

#define TARGET "taskmill::worker"

static const char help[] =
    "usage: taskmill worker --rpc-host-list H:P[,H:P...] [--module FILE]... [--commands FILE]...\n"
    "       taskmill run taskworker ...   the same; replaces children after 10000 tasks\n"
    "\n"
    "Runs tasks in child processes. SIGTERM and SIGINT: no new tasks, running ones end, those not\n"
    "started go back to their brokers, reports are delivered, exit 0. A second signal kills what\n"
    "runs, exit 1.\n"
    "\n"
    "what it runs\n"
    "  -m, --module FILE          shared object with TASKMILL_MODULE; repeatable\n"
    "  --commands FILE            YAML file of commands; repeatable\n"
    "                             Also TASKMILL_MODULES and TASKMILL_COMMANDS (colons between), "
    "and\n"
    "                             *.so, *.yml, *.yaml of " TASK_FILES_FOLDER "\n"
    "                             (another folder: TASKMILL_WORKER_D). All are loaded\n"
    "  --application A            of modules and files that name none; default: 'default'\n"
    "  --namespace N              run tasks of this namespace only\n"
    "brokers\n"
    "  --rpc-host-list H:P,...    all of them; wins over the next two\n"
    "  --broker-host H:P          one of them; repeatable\n"
    "  --rpc-host H:P             one broker; default 127.0.0.1:50051. With\n"
    "  --num-brokers N            name:port stands for name-0:port ... name-(N-1):port\n"
    "  --rebalance-after N        with several brokers, ask the others after N tasks; default 32\n"
    "  --result-queue-maxsize N   so many undelivered reports of a broker stop claims from it;\n"
    "                             default 1000\n" CLI_TLS_HELP "children\n"
    "  --concurrency N            children, each runs one task at a time; default 1\n"
    "  --min-concurrency N        so many stay when worn-out children leave; below --concurrency;\n"
    "                             default 0\n"
    "  --max-child-task-count N   replace a child after N tasks; 0: never, the default of worker\n"
    "  --max-child-memory-mb N    replace a child that, with its processes, has more resident "
    "memory\n"
    "                             after a task; 0: never, the default\n"
    "  --child-tasks-queue-maxsize N   tasks that may wait here for a child; default: up to 7 a\n"
    "                             child while tasks take less than 5 ms, else none\n"
    "  --start-timeout S          a child that is not ready by then is killed; default 90, 0: "
    "never\n"
    "  --no-skip-awaiting-futures report a task only when what it sent with no_wait is delivered\n"
    "end and health\n"
    "  --shutdown-timeout S       kill what still runs so long after the signal; default: let it\n"
    "                             run, each task to its deadline\n"
    "  --drain-timeout S          how long reports may take at the end; default 30, and 5 for a\n"
    "                             broker that cannot be reached\n"
    "  --health-check-file-path P touch this file, also while busy\n"
    "  --health-check-sec-per-touch S   default 1\n"
    "  --processing-pool-name N   tag of metrics; default 'unknown'\n"
    "  --log-filter F             default: TASKMILL_LOG, then info; -v, --verbose: "
    "debug\n" CLI_METERS_HELP "\n"
    "TASKMILL_RPC_SECRET signs the calls: the secret, or a JSON array whose first signs. Accepted\n"
    "without effect, for existing command lines: --process-type, --future-checking-frequency,\n"
    "--skip-awaiting-futures (the default), --track-producer-futures, and --app-module when "
    "modules\n"
    "come from elsewhere.\n"
    "\n"
    "example: taskmill worker --rpc-host-list 127.0.0.1:50051 --concurrency 8 --module "
    "./libtasks.so\n";

enum {
    OPT_MODULE = 1,
    OPT_COMMANDS,
    OPT_APPLICATION,
    OPT_NAMESPACE,
    OPT_RPC_HOST_LIST,
    OPT_BROKER_HOST,
    OPT_RPC_HOST,
    OPT_NUM_BROKERS,
    OPT_REBALANCE,
    OPT_RESULT_QUEUE,
    OPT_CONCURRENCY,
    OPT_MIN_CONCURRENCY,
    OPT_MAX_CHILD_TASKS,
    OPT_MAX_CHILD_MEMORY,
    OPT_CHILD_TASKS_QUEUE,
    OPT_START_TIMEOUT,
    OPT_SHUTDOWN_TIMEOUT,
    OPT_DRAIN_TIMEOUT,
    OPT_HEALTH_PATH,
    OPT_HEALTH_SEC,
    OPT_FUTURE_FREQUENCY,
    OPT_SKIP_FUTURES,
    OPT_NO_SKIP_FUTURES,
    OPT_POOL_NAME,
    OPT_PROCESS_TYPE,
    OPT_APP_MODULE,
    OPT_LOG_FILTER,
    OPT_VERBOSE,
    OPT_IGNORED,
    OPT_PUSH
};

static const struct cli_option options[] = {
    {OPT_MODULE, "module", 'm', true},
    {OPT_COMMANDS, "commands", 0, true},
    {OPT_APPLICATION, "application", 0, true},
    {OPT_NAMESPACE, "namespace", 0, true},
    {OPT_RPC_HOST_LIST, "rpc-host-list", 0, true},
    {OPT_BROKER_HOST, "broker-host", 0, true},
    {OPT_RPC_HOST, "rpc-host", 0, true},
    {OPT_NUM_BROKERS, "num-brokers", 0, true},
    {OPT_REBALANCE, "rebalance-after", 0, true},
    {OPT_RESULT_QUEUE, "result-queue-maxsize", 0, true},
    {OPT_CONCURRENCY, "concurrency", 0, true},
    {OPT_MIN_CONCURRENCY, "min-concurrency", 0, true},
    {OPT_MAX_CHILD_TASKS, "max-child-task-count", 0, true},
    {OPT_MAX_CHILD_MEMORY, "max-child-memory-mb", 0, true},
    {OPT_CHILD_TASKS_QUEUE, "child-tasks-queue-maxsize", 0, true},
    {OPT_START_TIMEOUT, "start-timeout", 0, true},
    {OPT_SHUTDOWN_TIMEOUT, "shutdown-timeout", 0, true},
    {OPT_DRAIN_TIMEOUT, "drain-timeout", 0, true},
    {OPT_HEALTH_PATH, "health-check-file-path", 0, true},
    {OPT_HEALTH_SEC, "health-check-sec-per-touch", 0, true},
    {OPT_FUTURE_FREQUENCY, "future-checking-frequency", 0, true},
    {OPT_SKIP_FUTURES, "skip-awaiting-futures", 0, false},
    {OPT_NO_SKIP_FUTURES, "no-skip-awaiting-futures", 0, false},
    {OPT_POOL_NAME, "processing-pool-name", 0, true},
    {OPT_PROCESS_TYPE, "process-type", 0, true},
    {OPT_APP_MODULE, "app-module", 0, true},
    {OPT_LOG_FILTER, "log-filter", 0, true},
    {OPT_VERBOSE, "verbose", 'v', false},
    {OPT_IGNORED, "track-producer-futures", 0, false},
    {OPT_IGNORED, "no-track-producer-futures", 0, false},
    {OPT_PUSH, "push-mode", 0, false},
    {OPT_PUSH, "broker-service", 0, true},
    {OPT_PUSH, "pod-name", 0, true},
    {OPT_PUSH, "grpc-port", 0, true},
    {OPT_PUSH, "grpc-max-message-size", 0, true},
    {OPT_PUSH, "push-task-timeout", 0, true},
    {OPT_PUSH, "warmup-timeout", 0, true},
    CLI_TLS_OPTIONS,
    CLI_METERS_OPTIONS,
    {0}};

#define CONCURRENCY_MAX      4096
#define SECONDS_MAX          86400
#define DRAIN_GONE_S         5 /* of the default drain time-out, for a broker that is not there */
#define NEVER                UINT64_MAX
#define TASKWORKER_MAX_TASKS 10000       /* what `run taskworker` has by default */
#define SPELLED_MAX          (16u << 10) /* of all --broker-host together */

struct settings {
    struct task_files files;
    const char *application, *rpc_host, *rpc_host_list, *log_filter, *process_type, *app_module;
    struct buf broker_hosts; /* with commas between */
    uint64_t num_brokers, concurrency, min_concurrency, max_tasks, max_memory_mb;
    uint64_t tasks_ahead, unreported, rebalance_after;
    uint64_t start_timeout_s, drain_timeout_s, shutdown_timeout_s;
    bool is_drain_given;
    double health_every_s, future_frequency_s;
    struct worker_options worker;
    struct cli_meters meters;
};

struct number_option {
    int id;
    const char *name;
    uint64_t min, max;
    size_t offset; /* of its uint64_t in struct settings */
};

#define NUMBER(id, name, min, max, field)                    \
    {                                                        \
        id, name, min, max, offsetof(struct settings, field) \
    }

static const struct number_option numbers[] = {
    NUMBER(OPT_NUM_BROKERS, "--num-brokers", 0, HOSTS_MAX, num_brokers),
    NUMBER(OPT_REBALANCE, "--rebalance-after", 1, UINT32_MAX, rebalance_after),
    NUMBER(OPT_RESULT_QUEUE, "--result-queue-maxsize", 1, UINT32_MAX, unreported),
    NUMBER(OPT_CONCURRENCY, "--concurrency", 1, CONCURRENCY_MAX, concurrency),
    NUMBER(OPT_MIN_CONCURRENCY, "--min-concurrency", 0, CONCURRENCY_MAX, min_concurrency),
    NUMBER(OPT_MAX_CHILD_TASKS, "--max-child-task-count", 0, UINT32_MAX, max_tasks),
    NUMBER(OPT_MAX_CHILD_MEMORY, "--max-child-memory-mb", 0, UINT32_MAX, max_memory_mb),
    NUMBER(OPT_CHILD_TASKS_QUEUE, "--child-tasks-queue-maxsize", 0, UINT32_MAX, tasks_ahead),
    NUMBER(OPT_START_TIMEOUT, "--start-timeout", 0, SECONDS_MAX, start_timeout_s),
    NUMBER(OPT_SHUTDOWN_TIMEOUT, "--shutdown-timeout", 0, SECONDS_MAX, shutdown_timeout_s),
    NUMBER(OPT_DRAIN_TIMEOUT, "--drain-timeout", 0, SECONDS_MAX, drain_timeout_s),
};

static int take_period(const struct cli_args *args, const char *option, double *out)
{
    char *end;

    *out = strtod(args->value, &end);
    if (end == args->value || *end != '\0' || !(*out >= 0.01 && *out <= 3600))
        return cli_error(args, CLI_USAGE, "%s '%s': needs seconds from 0.01 to 3600", option,
                         args->value);
    return CLI_OK;
}

static int take_number(const struct cli_args *args, int option, struct settings *s)
{
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const struct number_option *it = &numbers[i];
        uint64_t value;

        if (it->id != option)
            continue;
        if (!cli_number(args, it->name, it->min, it->max, &value))
            return CLI_USAGE;
        memcpy((char *)s + it->offset, &value, sizeof value);
    }
    return CLI_OK;
}

static int take_file(const struct cli_args *args, bool is_module, struct settings *s)
{
    struct err_text why;

    if (task_files_add(&s->files, is_module, args->value, is_module ? "--module" : "--commands",
                       &why) != 0)
        return cli_error(args, CLI_USAGE, "%s", why.s);
    return CLI_OK;
}

static int take_broker_host(const struct cli_args *args, struct settings *s)
{
    if (strchr(args->value, ',') != NULL || s->broker_hosts.len > SPELLED_MAX)
        return cli_error(args, CLI_USAGE,
                         "--broker-host '%s': one host:port each; --rpc-host-list takes several",
                         args->value);
    buf_printf(&s->broker_hosts, "%s%s", s->broker_hosts.len > 0 ? "," : "", args->value);
    return CLI_OK;
}

static int take_process_type(const struct cli_args *args, struct settings *s)
{
    static const char *const known[] = {"fork", "spawn", "forkserver"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(args->value, known[i]) == 0) {
            s->process_type = known[i];
            return CLI_OK;
        }
    return cli_error(args, CLI_USAGE, "--process-type '%s': one of fork, spawn, forkserver",
                     args->value);
}

static int take_option(const struct cli_args *args, int option, struct settings *s)
{
    int code;

    if (cli_tls_take(args, option, &s->worker.tls))
        return CLI_OK;
    if (cli_meters_take(args, option, &s->meters, &code))
        return code;
    switch (option) {
    case CLI_BAD:
        return CLI_USAGE;
    case CLI_POSITIONAL:
        return cli_error(args, CLI_USAGE, "'%s': takes only options; --help lists them",
                         args->value);
    case OPT_MODULE:
    case OPT_COMMANDS:
        return take_file(args, option == OPT_MODULE, s);
    case OPT_APPLICATION:
        s->application = args->value;
        return CLI_OK;
    case OPT_NAMESPACE:
        s->worker.namespace = args->value;
        return CLI_OK;
    case OPT_RPC_HOST_LIST:
        s->rpc_host_list = args->value;
        return CLI_OK;
    case OPT_BROKER_HOST:
        return take_broker_host(args, s);
    case OPT_RPC_HOST:
        s->rpc_host = args->value;
        return CLI_OK;
    case OPT_DRAIN_TIMEOUT:
        s->is_drain_given = true;
        return take_number(args, option, s);
    case OPT_HEALTH_PATH:
        s->worker.health_path = args->value;
        return CLI_OK;
    case OPT_HEALTH_SEC:
        return take_period(args, "--health-check-sec-per-touch", &s->health_every_s);
    case OPT_FUTURE_FREQUENCY:
        return take_period(args, "--future-checking-frequency", &s->future_frequency_s);
    case OPT_SKIP_FUTURES:
    case OPT_NO_SKIP_FUTURES:
        s->worker.await_sends = option == OPT_NO_SKIP_FUTURES;
        return CLI_OK;
    case OPT_POOL_NAME:
        s->worker.processing_pool = args->value;
        return CLI_OK;
    case OPT_PROCESS_TYPE:
        return take_process_type(args, s);
    case OPT_APP_MODULE:
        s->app_module = args->value;
        return CLI_OK;
    case OPT_LOG_FILTER:
        s->log_filter = args->value;
        return CLI_OK;
    case OPT_VERBOSE:
        s->log_filter = "debug";
        return CLI_OK;
    case OPT_PUSH:
        return cli_error(
            args, CLI_USAGE,
            "%s is an option of push mode, which is not supported: give the brokers by "
            "--rpc-host-list, the worker fetches its tasks there",
            args->word);
    default:
        return take_number(args, option, s);
    }
}

static int find_hosts(struct settings *s, struct host_list *hosts, struct err_text *why)
{
    if (s->rpc_host_list != NULL)
        return hosts_from_list(s->rpc_host_list, hosts, why);
    if (s->broker_hosts.len > 0)
        return hosts_from_list(buf_cstr(&s->broker_hosts), hosts, why);
    if (s->num_brokers > 0)
        return hosts_numbered(s->rpc_host, (uint32_t)s->num_brokers, hosts, why);
    return hosts_from_list(s->rpc_host, hosts, why);
}

/* What existing command lines name and we take from elsewhere, or do otherwise. */
static int check_module_words(const struct cli_args *args, const struct settings *s)
{
    if (s->process_type != NULL && strcmp(s->process_type, "fork") != 0)
        log_info(TARGET, LOG_FIELDS(log_str("process_type", s->process_type)),
                 "children are forked, whatever --process-type says");
    if (s->app_module == NULL)
        return CLI_OK;
    if (s->files.count == 0)
        return cli_error(args, CLI_USAGE,
                         "--app-module '%s' names a Python application, which this worker cannot "
                         "load: give --module FILE.so or --commands FILE.yml, or put them into "
                         "TASKMILL_MODULES, TASKMILL_COMMANDS or " TASK_FILES_FOLDER,
                         s->app_module);
    log_warn(TARGET, LOG_FIELDS(log_str("app_module", s->app_module)),
             "--app-module is ignored: tasks come from modules and command files");
    return CLI_OK;
}

static int run(const struct settings *s, const struct host_list *hosts, const struct tasks *tasks,
               const char *secret)
{
    struct worker_options worker = s->worker;

    worker.hosts = hosts;
    worker.secret = secret;
    worker.tasks = tasks;
    worker.concurrency = (uint32_t)s->concurrency;
    worker.min_concurrency = (uint32_t)s->min_concurrency;
    worker.max_child_task_count = (uint32_t)s->max_tasks;
    worker.max_child_memory_bytes = s->max_memory_mb << 20;
    worker.tasks_ahead = (uint32_t)s->tasks_ahead;
    worker.unreported_max = (uint32_t)s->unreported;
    worker.rebalance_after = (uint32_t)s->rebalance_after;
    worker.health_every_ms = (uint32_t)(s->health_every_s * 1000);
    worker.start_timeout_ms = (uint32_t)s->start_timeout_s * 1000;
    worker.drain_timeout_ms = (uint32_t)s->drain_timeout_s * 1000;
    worker.drain_gone_ms = s->drain_timeout_s < DRAIN_GONE_S || s->is_drain_given
                               ? worker.drain_timeout_ms
                               : DRAIN_GONE_S * 1000;
    worker.has_shutdown_timeout = s->shutdown_timeout_s != NEVER;
    worker.shutdown_timeout_ms =
        worker.has_shutdown_timeout ? (uint32_t)s->shutdown_timeout_s * 1000 : 0;
    return worker_run(&worker);
}

static int start(const struct cli_args *args, struct settings *s)
{
    struct host_list hosts = {0};
    struct tasks tasks;
    struct err_text why = {{0}};
    char *secret = NULL;
    int code;

    tasks_init(&tasks, s->application);
    if (s->min_concurrency >= s->concurrency)
        code =
            cli_error(args, CLI_USAGE, "--min-concurrency %llu must be below --concurrency %llu",
                      (unsigned long long)s->min_concurrency, (unsigned long long)s->concurrency);
    else if (log_init(LOG_TEXT, s->log_filter, &why) != 0 || find_hosts(s, &hosts, &why) != 0 ||
             cli_meters_finish(&s->meters, &s->worker, &why) != 0)
        code = cli_error(args, CLI_USAGE, "%s", why.s);
    else if (dispatch_secret(getenv("TASKMILL_RPC_SECRET"), &secret) != 0)
        code = cli_error(args, CLI_FAILED, "TASKMILL_RPC_SECRET: %s", error_text()->s);
    else if (task_files_add_environment(&s->files, &why) != 0)
        code = cli_error(args, CLI_FAILED, "%s", why.s);
    else if ((code = check_module_words(args, s)) == CLI_OK)
        code = task_files_load(&s->files, &tasks, &why) == 0
                   ? run(s, &hosts, &tasks, secret)
                   : cli_error(args, CLI_FAILED, "%s", why.s);
    tasks_free(&tasks);
    hosts_free(&hosts);
    cli_meters_free(&s->meters);
    mem_free(secret);
    return code;
}

int cmd_worker(int argc, char **argv)
{
    bool is_taskworker = strcmp(argv[0], "taskworker") == 0;
    struct cli_args args =
        cli_args_init(is_taskworker ? "taskmill run taskworker" : "taskmill worker", argc, argv);
    const char *filter = getenv("TASKMILL_LOG");
    struct settings s = {.application = "default",
                         .rpc_host = "127.0.0.1:50051",
                         .log_filter = filter && filter[0] ? filter : "info",
                         .concurrency = 1,
                         .max_tasks = is_taskworker ? TASKWORKER_MAX_TASKS : 0,
                         .tasks_ahead = UINT32_MAX,
                         .unreported = CLAIMS_UNREPORTED,
                         .rebalance_after = 32,
                         .start_timeout_s = 90,
                         .drain_timeout_s = 30,
                         .shutdown_timeout_s = NEVER,
                         .health_every_s = 1.0,
                         .meters = cli_meters_init()};
    int option, code = CLI_OK;

    while (code == CLI_OK && (option = cli_next(&args, options)) != CLI_END) {
        if (option == CLI_HELP) {
            code = fputs(help, stdout) < 0 ? CLI_FAILED : CLI_OK;
            goto out;
        }
        code = take_option(&args, option, &s);
    }
    if (code == CLI_OK)
        code = start(&args, &s);
out:
    task_files_free(&s.files);
    buf_free(&s.broker_hosts);
    return code;
}
