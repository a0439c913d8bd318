/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli_meters.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/http.h"

#define ONCE_TIMEOUT_MAX_S 31536000

/* NULL if it is empty, too. */
static const char *from_environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* As Datadog's own libraries understand it; an IPv6 address comes without brackets. */
static char *agent_address(void)
{
    const char *host = from_environment("DD_AGENT_HOST");
    const char *port = from_environment("DD_DOGSTATSD_PORT");
    struct buf text = {0};
    char *copy;

    if (host == NULL)
        return NULL;
    buf_printf(&text, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port ? port : "8125");
    copy = mem_strdup(buf_cstr(&text));
    buf_free(&text);
    return copy;
}

struct cli_meters cli_meters_init(void)
{
    return (struct cli_meters){.redis_url = from_environment("TASKMILL_REDIS"),
                               .statsd_addr = from_environment("TASKMILL_STATSD_ADDR"),
                               .agent_addr = agent_address(),
                               .prometheus_host = "127.0.0.1",
                               .once_timeout_s = ONCE_TIMEOUT_S};
}

bool cli_meters_take(const struct cli_args *args, int option, struct cli_meters *meters, int *code)
{
    *code = CLI_OK;
    switch (option) {
    case CLI_METERS_REDIS:
        meters->redis_url = args->value;
        return true;
    case CLI_METERS_ONCE_TIMEOUT:
        if (!cli_number(args, "--at-most-once-timeout", 1, ONCE_TIMEOUT_MAX_S,
                        &meters->once_timeout_s))
            *code = CLI_USAGE;
        return true;
    case CLI_METERS_STATSD_ADDR:
        meters->statsd_addr = args->value;
        return true;
    case CLI_METERS_STATSD_PREFIX:
        meters->statsd_prefix = args->value;
        return true;
    case CLI_METERS_PROMETHEUS_PORT:
        if (!cli_number(args, "--prometheus-port", 1, UINT16_MAX, &meters->prometheus_port))
            *code = CLI_USAGE;
        return true;
    case CLI_METERS_PROMETHEUS_HOST:
        meters->prometheus_host = args->value;
        return true;
    default:
        return false;
    }
}

static int find_http_addr(struct cli_meters *meters, struct err_text *why)
{
    const char *host = meters->prometheus_host;
    struct buf text = {0};

    if (meters->prometheus_port == 0)
        return 0;
    buf_printf(&text, strchr(host, ':') && host[0] != '[' ? "[%s]:%u" : "%s:%u", host,
               (unsigned)meters->prometheus_port);
    meters->http_addr = mem_strdup(buf_cstr(&text));
    buf_free(&text);
    if (http_check(meters->http_addr))
        return 0;
    return err_set(why, ERR_INVALID,
                   "--prometheus-host '%s': needs an IP address, such as 0.0.0.0 for all", host);
}

int cli_meters_finish(struct cli_meters *meters, struct worker_options *worker,
                      struct err_text *why)
{
    int rv = find_http_addr(meters, why);

    if (rv != 0)
        return rv;
    worker->watch.http_addr = meters->http_addr;
    if (meters->statsd_addr == NULL)
        meters->statsd_addr = meters->agent_addr;
    worker->watch.statsd_addr = meters->statsd_addr;
    worker->watch.statsd_prefix = meters->statsd_prefix;
    if (meters->redis_url == NULL)
        return 0;
    rv = redis_address_parse(&meters->redis, meters->redis_url, why);
    if (rv != 0)
        return rv;
    worker->once.redis = &meters->redis;
    worker->once.timeout_s = meters->once_timeout_s;
    return 0;
}

void cli_meters_free(struct cli_meters *meters)
{
    redis_address_free(&meters->redis);
    mem_free(meters->agent_addr);
    mem_free(meters->http_addr);
}
