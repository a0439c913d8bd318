/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill scheduler`, also `taskmill run taskworker-scheduler`; scheduler_list.c has `list`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/cli_tls.h"
#include "cli/scheduler_cli.h"
#include "scheduler/scheduler.h"
#include "scheduler/schedules_file.h"

static const char help[] =
    "usage: taskmill scheduler --schedules FILE [OPTIONS]        sends tasks when they are due\n"
    "       taskmill scheduler list --schedules FILE [OPTIONS]   shows last and next runs\n"
    "       taskmill scheduler check FILE                        is the file right?\n"
    "\n"
    "  -s, --schedules FILE       default: TASKMILL_SCHEDULES, then /etc/taskmill/schedules.yml\n"
    "\n"
    "Schedulers that share a storage fire each run once. A local file is for those of one "
    "machine;\n"
    "schedulers on several machines need Redis:\n"
    "  --redis URL                redis://[user:password@]host:port/db or unix:///path/to.sock;\n"
    "                             also TASKMILL_REDIS\n"
    "  --old-keys                 schedulers of taskbroker-client 26.5.0 use the same Redis\n"
    "  --state-file FILE          default: TASKMILL_STATE_FILE, then taskmill-scheduler.sqlite in\n"
    "                             STATE_DIRECTORY, XDG_STATE_HOME or the current folder\n"
    "  --takeover-after S         when a scheduler dies between claiming a run and sending it,\n"
    "                             another one sends it after S seconds; default 15, at least 11\n"
    "\n"
    "Where tasks go:\n"
    "  --rpc-host H:P             a broker; default: TASKMILL_BROKER, then 127.0.0.1:50051\n"
    "  --kafka H:P,...            to Kafka instead; also TASKMILL_KAFKA\n"
    "  --topic T                  default: TASKWORKER_ROUTES, TASKWORKER_DEFAULT_TOPIC, then the\n"
    "                             broker's, in Kafka 'taskworker'\n" CLI_TLS_HELP "\n"
    "  --health-check-file-path P touch this file while it runs\n"
    "  --health-check-sec-per-touch S   default 1\n"
    "  --statsd-addr H:P          also TASKMILL_STATSD_ADDR; default: no statsd\n"
    "  --statsd-prefix P          before the metrics' names\n"
    "  --log-filter F             default: TASKMILL_LOG, then info\n"
    "  --json, --count N          of list: as JSON; N next runs (default 3)\n"
    "\n"
    "TASKMILL_RPC_SECRET signs the calls. SIGHUP reads the schedules again. As taskmill run\n"
    "taskworker-scheduler it uses Redis at REDIS_HOST (localhost), REDIS_PORT (6379) unless told\n"
    "otherwise, and accepts --redis-cluster without effect.\n"
    "\n"
    "example: taskmill scheduler --schedules schedules.yml --kafka kafka:9092 --redis "
    "redis://redis:6379/0\n";

enum {
    OPT_SCHEDULES = 1,
    OPT_REDIS,
    OPT_OLD_KEYS,
    OPT_STATE_FILE,
    OPT_TAKEOVER,
    OPT_RPC_HOST,
    OPT_KAFKA,
    OPT_TOPIC,
    OPT_HEALTH_PATH,
    OPT_HEALTH_SEC,
    OPT_STATSD_ADDR,
    OPT_STATSD_PREFIX,
    OPT_LOG_FILTER,
    OPT_JSON,
    OPT_COUNT,
    OPT_IGNORED
};

static const struct cli_option options[] = {{OPT_SCHEDULES, "schedules", 's', true},
                                            {OPT_REDIS, "redis", 0, true},
                                            {OPT_OLD_KEYS, "old-keys", 0, false},
                                            {OPT_STATE_FILE, "state-file", 0, true},
                                            {OPT_TAKEOVER, "takeover-after", 0, true},
                                            {OPT_RPC_HOST, "rpc-host", 0, true},
                                            {OPT_KAFKA, "kafka", 0, true},
                                            {OPT_TOPIC, "topic", 0, true},
                                            {OPT_HEALTH_PATH, "health-check-file-path", 0, true},
                                            {OPT_HEALTH_SEC, "health-check-sec-per-touch", 0, true},
                                            {OPT_STATSD_ADDR, "statsd-addr", 0, true},
                                            {OPT_STATSD_PREFIX, "statsd-prefix", 0, true},
                                            {OPT_LOG_FILTER, "log-filter", 0, true},
                                            {OPT_JSON, "json", 0, false},
                                            {OPT_COUNT, "count", 0, true},
                                            {OPT_IGNORED, "redis-cluster", 0, true},
                                            CLI_TLS_OPTIONS,
                                            {0}};

#define COUNT_MAX      1000
#define TAKEOVER_MIN_S (2 * SCHEDULER_SEND_LIMIT_S + 1)
#define TAKEOVER_MAX_S 600

struct settings {
    struct scheduler_cli at; /* what list needs, too */
    struct scheduler_options run;
    struct rpc_tls_options tls;
    const char *verb, *check_path, *log_filter;
    double health_every_s;
    struct buf redis_default;
};

static const char *env_or(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : otherwise;
}

/* --- the command line ------------------------------------------------------------------------ */

static int take_positional(const struct cli_args *args, struct settings *s)
{
    if (s->verb == NULL &&
        (strcmp(args->value, "list") == 0 || strcmp(args->value, "check") == 0)) {
        s->verb = args->value;
        return CLI_OK;
    }
    if (s->verb != NULL && strcmp(s->verb, "check") == 0 && s->check_path == NULL) {
        s->check_path = args->value;
        return CLI_OK;
    }
    return cli_error(args, CLI_USAGE, "'%s': what is that? --help tells more", args->value);
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

static int take_takeover(const struct cli_args *args, struct settings *s)
{
    uint64_t value;

    if (!cli_number(args, "--takeover-after", TAKEOVER_MIN_S, TAKEOVER_MAX_S, &value))
        return CLI_USAGE;
    s->run.lease_s = (uint32_t)value;
    return CLI_OK;
}

static int take_text(const char *value, const char **out)
{
    *out = value;
    return CLI_OK;
}

static int take_destination(const struct cli_args *args, int option, struct settings *s)
{
    if (option == OPT_RPC_HOST)
        return take_text(args->value, &s->run.app.broker);
    if (option == OPT_KAFKA)
        return take_text(args->value, &s->run.app.kafka);
    return take_text(args->value, &s->run.app.topic);
}

static int take_option(const struct cli_args *args, int option, struct settings *s)
{
    if (cli_tls_take(args, option, &s->tls))
        return CLI_OK;
    switch (option) {
    case CLI_POSITIONAL:
        return take_positional(args, s);
    case OPT_SCHEDULES:
        return take_text(args->value, &s->at.schedules_path);
    case OPT_REDIS:
        return take_text(args->value, &s->at.redis_url);
    case OPT_OLD_KEYS:
        s->at.old_keys = true;
        return CLI_OK;
    case OPT_STATE_FILE:
        return take_text(args->value, &s->at.state_path);
    case OPT_TAKEOVER:
        return take_takeover(args, s);
    case OPT_RPC_HOST:
    case OPT_KAFKA:
    case OPT_TOPIC:
        return take_destination(args, option, s);
    case OPT_HEALTH_PATH:
        return take_text(args->value, &s->run.health_path);
    case OPT_HEALTH_SEC:
        return take_period(args, &s->health_every_s);
    case OPT_STATSD_ADDR:
        return take_text(args->value, &s->run.statsd_address);
    case OPT_STATSD_PREFIX:
        return take_text(args->value, &s->run.statsd_prefix);
    case OPT_LOG_FILTER:
        return take_text(args->value, &s->log_filter);
    case OPT_JSON:
        s->at.json = true;
        return CLI_OK;
    case OPT_COUNT:
        return cli_number(args, "--count", 1, COUNT_MAX, &s->at.count) ? CLI_OK : CLI_USAGE;
    case OPT_IGNORED:
        return CLI_OK;
    default:
        return CLI_USAGE;
    }
}

/* --- defaults -------------------------------------------------------------------------------- */

static void default_state_file(struct settings *s)
{
    const char *folder = env_or("STATE_DIRECTORY", env_or("XDG_STATE_HOME", NULL));

    s->at.state_path = env_or("TASKMILL_STATE_FILE", NULL);
    if (s->at.state_path != NULL)
        return;
    if (folder != NULL)
        buf_printf(&s->at.state_default, "%s/taskmill-scheduler.sqlite", folder);
    else
        buf_append_str(&s->at.state_default, "taskmill-scheduler.sqlite");
    s->at.state_path = buf_cstr(&s->at.state_default);
}

static int choose_storage(const struct cli_args *args, struct settings *s, bool as_original)
{
    if (s->at.redis_url != NULL && s->at.state_path != NULL)
        return cli_error(args, CLI_USAGE, "--redis and --state-file exclude each other");
    if (s->at.redis_url == NULL && s->at.state_path == NULL)
        s->at.redis_url = env_or("TASKMILL_REDIS", NULL);
    if (s->at.redis_url == NULL && s->at.state_path == NULL && as_original) {
        buf_printf(&s->redis_default, "redis://%s:%s/0", env_or("REDIS_HOST", "localhost"),
                   env_or("REDIS_PORT", "6379"));
        s->at.redis_url = buf_cstr(&s->redis_default);
    }
    if (s->at.redis_url == NULL && s->at.state_path == NULL)
        default_state_file(s);
    if (s->at.old_keys && s->at.redis_url == NULL)
        return cli_error(args, CLI_USAGE, "--old-keys is for --redis");
    return CLI_OK;
}

static void choose_destination(struct settings *s)
{
    struct taskmill_app_options *app = &s->run.app;

    app->size = sizeof *app;
    if (app->broker == NULL && app->kafka == NULL && env_or("TASKMILL_KAFKA", NULL) == NULL)
        app->broker = env_or("TASKMILL_BROKER", "127.0.0.1:50051");
    app->tls_ca = s->tls.ca_path;
    app->tls_cert = s->tls.certificate_path;
    app->tls_key = s->tls.key_path;
    app->tls_name = s->tls.name;
}

int scheduler_cli_storage(const struct scheduler_cli *at, struct run_storage **out,
                          struct err_text *why)
{
    struct redis_address address;
    int rv;

    if (at->redis_url == NULL)
        return run_storage_file(out, at->state_path, why);
    rv = redis_address_parse(&address, at->redis_url, why);
    if (rv != 0)
        return rv;
    *out = run_storage_redis(&address, 0, at->old_keys);
    redis_address_free(&address);
    return 0;
}

/* --- verbs ----------------------------------------------------------------------------------- */

static int check(const struct cli_args *args, const struct settings *s)
{
    const char *path = s->check_path != NULL ? s->check_path : s->at.schedules_path;
    struct schedules *schedules = NULL;
    struct err_text why = {{0}};
    int code = CLI_OK;

    if (schedules_read(&schedules, path, &why) != 0)
        code = cli_error(args, CLI_FAILED, "%s", why.s);
    else if (scheduler_check(schedules, &why) != 0)
        code = cli_error(args, CLI_FAILED, "%s: %s", path, why.s);
    else
        printf("%s: %zu schedules of application %s\n", path, schedules->count,
               schedules->application);
    schedules_free(schedules);
    return code;
}

static int run(const struct cli_args *args, struct settings *s)
{
    struct err_text why = {{0}};
    int code = CLI_OK;

    choose_destination(s);
    s->run.schedules_path = s->at.schedules_path;
    s->run.health_every_ms = (uint32_t)(s->health_every_s * 1000);
    if (scheduler_cli_storage(&s->at, &s->run.storage, &why) != 0)
        return cli_error(args, CLI_FAILED, "%s", why.s);
    if (s->at.redis_url == NULL)
        log_info("taskmill::scheduler", NULL,
                 "the runs are kept in the file %s, for the schedulers of this machine; schedulers "
                 "on several machines need --redis",
                 s->at.state_path);
    if (scheduler_run(&s->run, &why) != 0)
        code = cli_error(args, CLI_FAILED, "%s", why.s);
    s->run.storage->ops->close(s->run.storage);
    return code;
}

static int start(const struct cli_args *args, struct settings *s, bool as_original)
{
    struct err_text why = {{0}};
    int code = choose_storage(args, s, as_original);

    if (code != CLI_OK)
        return code;
    if (s->at.schedules_path == NULL)
        s->at.schedules_path = env_or("TASKMILL_SCHEDULES", "/etc/taskmill/schedules.yml");
    if (log_init(LOG_TEXT, s->log_filter, &why) != 0)
        return cli_error(args, CLI_USAGE, "%s", why.s);
    if (s->verb == NULL)
        return run(args, s);
    return strcmp(s->verb, "list") == 0 ? scheduler_list(args, &s->at) : check(args, s);
}

int cmd_scheduler(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill scheduler", argc, argv);
    struct settings s = {.at.count = 3,
                         .log_filter = env_or("TASKMILL_LOG", "info"),
                         .run.statsd_address = env_or("TASKMILL_STATSD_ADDR", NULL),
                         .health_every_s = 1.0};
    int option, code = CLI_OK;

    while (code == CLI_OK && (option = cli_next(&args, options)) != CLI_END) {
        if (option == CLI_HELP)
            return fputs(help, stdout) < 0 ? CLI_FAILED : CLI_OK;
        code = take_option(&args, option, &s);
    }
    if (code == CLI_OK)
        code = start(&args, &s, strcmp(argv[0], "taskworker-scheduler") == 0);
    buf_free(&s.redis_default);
    buf_free(&s.at.state_default);
    return code;
}
