/* SPDX-License-Identifier: Apache-2.0 */
/* Options of `taskmill worker` about what it tells the outside, and about Redis. Each has an
 * environment variable, for containers. */
#ifndef TASKMILL_CLI_CLI_METERS_H
#define TASKMILL_CLI_CLI_METERS_H

#include "cli/cli.h"
#include "worker/worker.h"

/* Beside the numbers that a subcommand gives its own options. */
enum {
    CLI_METERS_REDIS = 300,
    CLI_METERS_ONCE_TIMEOUT,
    CLI_METERS_STATSD_ADDR,
    CLI_METERS_STATSD_PREFIX,
    CLI_METERS_PROMETHEUS_PORT,
    CLI_METERS_PROMETHEUS_HOST
};

#define CLI_METERS_OPTIONS                                                                  \
    {CLI_METERS_REDIS, "redis", 0, true}, {CLI_METERS_STATSD_ADDR, "statsd-addr", 0, true}, \
        {CLI_METERS_PROMETHEUS_PORT, "prometheus-port", 0, true},                           \
        {CLI_METERS_PROMETHEUS_HOST, "prometheus-host", 0, true},                           \
        {CLI_METERS_STATSD_PREFIX, "statsd-prefix", 0, true},                               \
    {                                                                                       \
        CLI_METERS_ONCE_TIMEOUT, "at-most-once-timeout", 0, true                            \
    }

#define CLI_METERS_HELP                                                                            \
    "  --redis URL                guards at-most-once tasks across workers: "                      \
    "redis://[user:password@]\n"                                                                   \
    "                             host:port/db or unix:///path. Default: TASKMILL_REDIS; without " \
    "it such tasks\n"                                                                              \
    "                             always run\n"                                                    \
    "  --at-most-once-timeout S   how long Redis remembers them; default 86400, as Sentry's run "  \
    "taskworker\n"                                                                                 \
    "                             (the Python library alone: 60)\n"                                \
    "  --statsd-addr H:P          sends metrics there (DogStatsD, UDP). Default: "                 \
    "TASKMILL_STATSD_ADDR, then\n"                                                                 \
    "                             DD_AGENT_HOST:DD_DOGSTATSD_PORT (8125)\n"                        \
    "  --statsd-prefix P          before each name; default: none\n"                               \
    "  --prometheus-port N        /metrics, /healthz, /readyz over HTTP; default: none\n"          \
    "  --prometheus-host A        the address it is bound to; default 127.0.0.1\n"

struct cli_meters {
    const char *redis_url; /* NULL: not given */
    const char *statsd_addr, *statsd_prefix;
    char *agent_addr; /* made of DD_AGENT_HOST */
    const char *prometheus_host;
    uint64_t prometheus_port; /* 0: none */
    char *http_addr;          /* made of them */
    uint64_t once_timeout_s;
    struct redis_address redis;
};

/* With what the environment says. */
struct cli_meters cli_meters_init(void);
/* True if the option is one of these; *code is CLI_OK or what cli_error returned. */
bool cli_meters_take(const struct cli_args *args, int option, struct cli_meters *meters, int *code);
/* Checks, and fills in what the worker needs; `meters` outlives it. */
int cli_meters_finish(struct cli_meters *meters, struct worker_options *worker,
                      struct err_text *why);
void cli_meters_free(struct cli_meters *meters);

#endif
