/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill worker`, also `taskmill run taskworker`: reads the options of spec/client.md 5.1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/cli_meters.h"
#include "cli/cli_tls.h"
#include "client/dispatch.h"
#include "worker/worker.h"

static const char help[] =
    "usage: taskmill worker --rpc-host-list H:P[,H:P...] [--module FILE]... [--commands FILE]...\n"
    "\n"
    "Runs tasks in child processes. SIGTERM lets running tasks finish; a second one kills them.\n"
    "\n"
    "  --module FILE              shared object with TASKMILL_MODULE; repeatable\n"
    "  --commands FILE            YAML file of commands; repeatable\n"
    "  --application A            of modules and files that name none; default: 'default'\n"
    "  --namespace N              run tasks of this namespace only\n"
    "  --rpc-host-list H:P,...    brokers; also --rpc-host H:P (default 127.0.0.1:50051), and "
    "with\n"
    "  --num-brokers N            name:port stands for name-0:port ... name-(N-1):port\n"
    "  --concurrency N            children; default 1\n"
    "  --max-child-task-count N   replace a child after N tasks; default: never\n"
    "  --health-check-file-path P touch this file, also while busy\n"
    "  --health-check-sec-per-touch S   default 1\n"
    "  --rebalance-after N        with several brokers, ask the others after N tasks; default 32\n"
    "  --drain-timeout S          how long reports may take at the end; default 30\n"
    "  --log-filter F             default: TASKMILL_LOG, then info\n" CLI_TLS_HELP CLI_METERS_HELP
    "\n"
    "TASKMILL_RPC_SECRET signs the calls. Accepted without effect, for existing command lines:\n"
    "--processing-pool-name, --result-queue-maxsize, --child-tasks-queue-maxsize.\n"
    "\n"
    "example: taskmill worker --rpc-host-list 127.0.0.1:50051 --concurrency 8 --module "
    "./libtasks.so\n";

enum {
    OPT_MODULE = 1,
    OPT_COMMANDS,
    OPT_APPLICATION,
    OPT_NAMESPACE,
    OPT_RPC_HOST_LIST,
    OPT_RPC_HOST,
    OPT_NUM_BROKERS,
    OPT_CONCURRENCY,
    OPT_MAX_CHILD_TASKS,
    OPT_HEALTH_PATH,
    OPT_HEALTH_SEC,
    OPT_REBALANCE,
    OPT_DRAIN_TIMEOUT,
    OPT_LOG_FILTER,
    OPT_IGNORED
};

static const struct cli_option options[] = {{OPT_MODULE, "module", 'm', true},
                                            {OPT_COMMANDS, "commands", 0, true},
                                            {OPT_APPLICATION, "application", 0, true},
                                            {OPT_NAMESPACE, "namespace", 0, true},
                                            {OPT_RPC_HOST_LIST, "rpc-host-list", 0, true},
                                            {OPT_RPC_HOST, "rpc-host", 0, true},
                                            {OPT_NUM_BROKERS, "num-brokers", 0, true},
                                            {OPT_CONCURRENCY, "concurrency", 0, true},
                                            {OPT_MAX_CHILD_TASKS, "max-child-task-count", 0, true},
                                            {OPT_HEALTH_PATH, "health-check-file-path", 0, true},
                                            {OPT_HEALTH_SEC, "health-check-sec-per-touch", 0, true},
                                            {OPT_REBALANCE, "rebalance-after", 0, true},
                                            {OPT_DRAIN_TIMEOUT, "drain-timeout", 0, true},
                                            {OPT_LOG_FILTER, "log-filter", 0, true},
                                            {OPT_IGNORED, "processing-pool-name", 0, true},
                                            {OPT_IGNORED, "result-queue-maxsize", 0, true},
                                            {OPT_IGNORED, "child-tasks-queue-maxsize", 0, true},
                                            CLI_TLS_OPTIONS,
                                            CLI_METERS_OPTIONS,
                                            {0}};

#define CONCURRENCY_MAX 4096
#define FILES_MAX       256

struct settings {
    const char *modules[FILES_MAX], *commands[FILES_MAX];
    size_t module_count, command_count;
    const char *application, *rpc_host, *rpc_host_list, *log_filter;
    uint64_t num_brokers, concurrency, max_tasks, rebalance_after, drain_timeout_s;
    double health_every_s;
    struct worker_options worker;
    struct cli_meters meters;
};

static int add_file(const struct cli_args *args, const char **files, size_t *count)
{
    if (*count == FILES_MAX)
        return cli_error(args, CLI_USAGE, "more than %d files", FILES_MAX);
    files[(*count)++] = args->value;
    return CLI_OK;
}

static int take_period(const struct cli_args *args, double *out)
{
    char *end;

    *out = strtod(args->value, &end);
    if (end == args->value || *end != '\0' || !(*out >= 0.01 && *out <= 3600))
        return cli_error(args, CLI_USAGE,
                         "--health-check-sec-per-touch '%s': needs seconds from 0.01 to 3600",
                         args->value);
    return CLI_OK;
}

static int take_number(const struct cli_args *args, int option, struct settings *s)
{
    switch (option) {
    case OPT_NUM_BROKERS:
        return cli_number(args, "--num-brokers", 0, HOSTS_MAX, &s->num_brokers) ? CLI_OK
                                                                                : CLI_USAGE;
    case OPT_CONCURRENCY:
        return cli_number(args, "--concurrency", 1, CONCURRENCY_MAX, &s->concurrency) ? CLI_OK
                                                                                      : CLI_USAGE;
    case OPT_MAX_CHILD_TASKS:
        return cli_number(args, "--max-child-task-count", 0, UINT32_MAX, &s->max_tasks) ? CLI_OK
                                                                                        : CLI_USAGE;
    case OPT_REBALANCE:
        return cli_number(args, "--rebalance-after", 1, UINT32_MAX, &s->rebalance_after)
                   ? CLI_OK
                   : CLI_USAGE;
    case OPT_DRAIN_TIMEOUT:
        return cli_number(args, "--drain-timeout", 0, 86400, &s->drain_timeout_s) ? CLI_OK
                                                                                  : CLI_USAGE;
    default:
        return CLI_OK;
    }
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
        return add_file(args, s->modules, &s->module_count);
    case OPT_COMMANDS:
        return add_file(args, s->commands, &s->command_count);
    case OPT_APPLICATION:
        s->application = args->value;
        return CLI_OK;
    case OPT_NAMESPACE:
        s->worker.namespace = args->value;
        return CLI_OK;
    case OPT_RPC_HOST_LIST:
        s->rpc_host_list = args->value;
        return CLI_OK;
    case OPT_RPC_HOST:
        s->rpc_host = args->value;
        return CLI_OK;
    case OPT_HEALTH_PATH:
        s->worker.health_path = args->value;
        return CLI_OK;
    case OPT_HEALTH_SEC:
        return take_period(args, &s->health_every_s);
    case OPT_LOG_FILTER:
        s->log_filter = args->value;
        return CLI_OK;
    default:
        return take_number(args, option, s);
    }
}

static int find_hosts(const struct settings *s, struct host_list *hosts, struct err_text *why)
{
    if (s->rpc_host_list != NULL)
        return hosts_from_list(s->rpc_host_list, hosts, why);
    if (s->num_brokers > 0)
        return hosts_numbered(s->rpc_host, (uint32_t)s->num_brokers, hosts, why);
    return hosts_from_list(s->rpc_host, hosts, why);
}

static int load_tasks(const struct settings *s, struct tasks *tasks, struct err_text *why)
{
    int rv = 0;

    for (size_t i = 0; i < s->module_count && rv == 0; i++)
        rv = tasks_load_module(tasks, s->modules[i], why);
    for (size_t i = 0; i < s->command_count && rv == 0; i++)
        rv = tasks_load_commands(tasks, s->commands[i], why);
    return rv == 0 ? tasks_finish(tasks, why) : rv;
}

static int run(const struct settings *s, const struct host_list *hosts, const struct tasks *tasks,
               const char *secret)
{
    struct worker_options worker = s->worker;

    worker.hosts = hosts;
    worker.secret = secret;
    worker.tasks = tasks;
    worker.concurrency = (uint32_t)s->concurrency;
    worker.max_child_task_count = (uint32_t)s->max_tasks;
    worker.rebalance_after = (uint32_t)s->rebalance_after;
    worker.health_every_ms = (uint32_t)(s->health_every_s * 1000);
    worker.drain_timeout_ms = (uint32_t)s->drain_timeout_s * 1000;
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
    if (log_init(LOG_TEXT, s->log_filter, &why) != 0 || find_hosts(s, &hosts, &why) != 0 ||
        cli_meters_finish(&s->meters, &s->worker, &why) != 0)
        code = cli_error(args, CLI_USAGE, "%s", why.s);
    else if (dispatch_secret(getenv("TASKMILL_RPC_SECRET"), &secret) != 0)
        code = cli_error(args, CLI_FAILED, "TASKMILL_RPC_SECRET: %s", error_text()->s);
    else if (load_tasks(s, &tasks, &why) != 0)
        code = cli_error(args, CLI_FAILED, "%s", why.s);
    else
        code = run(s, &hosts, &tasks, secret);
    tasks_free(&tasks);
    hosts_free(&hosts);
    cli_meters_free(&s->meters);
    mem_free(secret);
    return code;
}

int cmd_worker(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill worker", argc, argv);
    const char *filter = getenv("TASKMILL_LOG");
    struct settings s = {.application = "default",
                         .rpc_host = "127.0.0.1:50051",
                         .log_filter = filter && filter[0] ? filter : "info",
                         .concurrency = 1,
                         .rebalance_after = 32,
                         .drain_timeout_s = 30,
                         .health_every_s = 1.0,
                         .meters = cli_meters_init()};
    int option, code = CLI_OK;

    while (code == CLI_OK && (option = cli_next(&args, options)) != CLI_END) {
        if (option == CLI_HELP)
            return fputs(help, stdout) < 0 ? CLI_FAILED : CLI_OK;
        code = take_option(&args, option, &s);
    }
    return code == CLI_OK ? start(&args, &s) : code;
}
