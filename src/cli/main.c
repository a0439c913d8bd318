/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill COMMAND ...`: finds the command's file. Under the name taskbroker it is `taskmill
 * broker`. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"broker", cmd_broker, "take tasks from Kafka or producers and hand them to workers"},
    {"worker", cmd_worker, "run tasks: C modules, or commands in any language"},
    {"scheduler", cmd_scheduler, "send tasks at their times: intervals and crontabs"},
    {"config", cmd_config, "check a broker's configuration, print it, list the keys"},
    {"send", cmd_send, "send a task"},
    {"store", cmd_store, "check a stopped broker's database, migrate it, give it back"},
    {"health", cmd_health, "ask a broker whether it serves"},
    {"demo", cmd_demo, "watch 10,000 tasks run, with nothing else installed"},
    {"run", cmd_run, "run taskworker, run taskworker-scheduler: the same as worker, scheduler"},
};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void print_help(FILE *out)
{
    fputs("usage: taskmill COMMAND [ARGUMENTS]      taskmill COMMAND --help tells more\n\n", out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
    fputs("  help      this list\n"
          "  version   print the version\n"
          "\nexample: taskmill send billing:billing.send_invoice 42 email=a@b.c --countdown 10\n",
          out);
}

int cmd_run(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill run", argc, argv);

    if (argc >= 2 && strcmp(argv[1], "taskworker") == 0)
        return cmd_worker(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "taskworker-scheduler") == 0)
        return cmd_scheduler(argc - 1, argv + 1);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        puts("usage: taskmill run taskworker [OPTIONS]\n"
             "       taskmill run taskworker-scheduler [OPTIONS]\n\n"
             "The same as taskmill worker and taskmill scheduler, spelled as in existing "
             "installations.\n\n"
             "example: taskmill run taskworker --rpc-host=taskbroker:50051 --module ./libtasks.so");
        return CLI_OK;
    }
    return cli_error(&args, CLI_USAGE, "can run 'taskworker' and 'taskworker-scheduler'%s%s",
                     argc >= 2 ? ", not " : "", argc >= 2 ? argv[1] : "");
}

static int run(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill", argc, argv);
    const char *name = argc >= 2 ? argv[1] : "";
    const struct command *command = find(name);

    if (command != NULL)
        return command->run(argc - 1, argv + 1);
    if (strcmp(name, "help") == 0 && argc >= 3 && (command = find(argv[2])) != NULL) {
        char help[] = "--help";
        char *words[] = {argv[2], help, NULL};
        return command->run(2, words);
    }
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        puts("taskmill " TASKMILL_VERSION);
        return CLI_OK;
    }
    if (name[0] == '\0') {
        print_help(stderr);
        return CLI_USAGE;
    }
    return cli_error(&args, CLI_USAGE, "there is no command '%s'; taskmill help lists them", name);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int main(int argc, char **argv)
{
    int code;

    if (argc >= 1 && strcmp(base_name(argv[0]), "taskbroker") == 0)
        return cmd_broker(argc, argv);
    code = run(argc, argv);
    if (fflush(stdout) != 0 && code == CLI_OK) {
        perror("taskmill: standard output");
        code = CLI_FAILED;
    }
    return code;
}
