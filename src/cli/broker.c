/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill broker`, also under the name `taskbroker`, with the flags of spec/broker.md 1.1. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "broker/broker.h"
#include "cli/cli.h"

extern char **environ;

static const char usage[] =
    "usage: taskmill broker [-c FILE] [-r broker|migrations]\n"
    "       taskmill broker config check|print|keys [FILE]      (the same as taskmill config)\n"
    "\n"
    "Takes task activations from Kafka or from producers, keeps them in a local SQLite file and\n"
    "hands them to workers over gRPC.\n"
    "\n"
    "  -c, --config FILE   configuration in YAML; without it defaults and TASKBROKER_* variables\n"
    "  -r, --run MODE      broker (default), or migrations (nothing to do for SQLite)\n"
    "  -h, --help          this text\n"
    "\n"
    "example: taskmill broker -c config.yml\n"
    "         TASKBROKER_EMBEDDED=true taskmill broker      (without Kafka)\n"
    "exit: 0 stopped by a signal, 1 failure (the last ERROR says why), 2 usage\n";

static int usage_error(void)
{
    fputs(usage, stderr);
    return 2;
}

static int run(const char *path)
{
    struct config *cfg = NULL;
    struct config_warnings warnings = {0};
    struct err_text why;
    int rc = config_load(&cfg, path, environ, &warnings, &why);
    if (rc) {
        fprintf(stderr, "Error: %s\n", why.s);
        config_warnings_free(&warnings);
        return 1;
    }
    struct err_text filter_why = {""};
    bool bad_filter = log_init(cfg->log_format, cfg->log_filter, &filter_why) != 0;
    if (bad_filter)
        log_warn("taskmill::config", NULL, "log_filter: %s", filter_why.s);
    for (size_t i = 0; i < warnings.count; i++)
        log_warn("taskmill::config", NULL, "%s", warnings.lines[i]);
    config_warnings_free(&warnings);
    int exit_code = broker_run(cfg);
    config_free(cfg);
    return exit_code;
}

int cmd_broker(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "config") == 0)
        return cmd_config(argc - 1, argv + 1);
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"run", required_argument, NULL, 'r'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *path = NULL;
    bool migrations = false;
    int option;
    optind = 1;
    while ((option = getopt_long(argc, argv, "c:r:h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            path = optarg;
            break;
        case 'r':
            migrations = strcmp(optarg, "migrations") == 0;
            if (!migrations && strcmp(optarg, "broker") != 0)
                return usage_error();
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            return usage_error();
        }
    }
    if (optind < argc)
        return usage_error();
    if (!migrations)
        return run(path);
    log_warn("taskmill::store", NULL,
             "Standalone migration not supported for SQLite: the broker migrates at its start");
    return 0;
}
