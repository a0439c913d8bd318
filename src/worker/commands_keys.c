/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/commands_keys.h"

#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"

#define DAY_S 86400

/* What is being built; `text` is a command for the shell. */
struct draft {
    struct command *command;
    const char *text;
    yaml_node_t *command_node;
};

typedef int (*key_fn)(struct reader *reader, const char *key, yaml_node_t *value,
                      struct draft *draft);

/* Says `why` at the place where the value stands. */
static int told(struct reader *reader, const char *key, yaml_node_t *value, int rv,
                const struct err_text *why)
{
    return rv == 0 ? 0 : reader_fault(reader, value, "%s: %s", key, why->s);
}

/* --- what runs ------------------------------------------------------------------------------- */

static int add_word(struct reader *reader, const char *text, yaml_node_t *value, void *ctx)
{
    (void)reader;
    (void)value;
    command_add_word((struct command *)ctx, text);
    return 0;
}

static int read_command(struct reader *reader, const char *key, yaml_node_t *value,
                        struct draft *draft)
{
    command_clear_words(draft->command);
    draft->command_node = value;
    draft->text = reader_text(value);
    if (draft->text != NULL && draft->text[0] != '\0')
        return 0;
    if (value->type != YAML_SEQUENCE_NODE ||
        value->data.sequence.items.start == value->data.sequence.items.top)
        return reader_fault(reader, value,
                            "%s must be a list: the program and its arguments; or, with shell: "
                            "true, a text",
                            key);
    return reader_each_item(reader, value, key, add_word, draft->command);
}

static int read_shell(struct reader *reader, const char *key, yaml_node_t *value,
                      struct draft *draft)
{
    return reader_bool(reader, key, value, &draft->command->shell);
}

static int read_mode(struct reader *reader, const char *key, yaml_node_t *value,
                     struct draft *draft)
{
    static const char *const names[] = {"process", "persistent", NULL};
    int chosen;
    int rv = reader_choice(reader, key, value, names, &chosen);

    if (rv == 0)
        draft->command->mode = (enum command_mode)chosen;
    return rv;
}

static int read_folder(struct reader *reader, const char *key, yaml_node_t *value,
                       struct draft *draft)
{
    const char *text = reader_text(value);
    struct stat info;

    if (text == NULL || text[0] == '\0')
        return reader_fault(reader, value, "%s must be a path", key);
    command_set_folder(draft->command, reader->folder, text);
    if (stat(draft->command->folder, &info) != 0 || !S_ISDIR(info.st_mode))
        return reader_fault(reader, value, "%s: there is no folder %s", key,
                            draft->command->folder);
    return 0;
}

/* --- environment, user ----------------------------------------------------------------------- */

static int add_variable(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    const char *text = reader_text(value);
    struct err_text why;

    if (text == NULL)
        return reader_fault(reader, value, "environment: %s must be a text", key);
    return told(reader, "environment", value,
                command_set_env((struct command *)ctx, key, text, &why), &why);
}

static int read_environment(struct reader *reader, const char *key, yaml_node_t *value,
                            struct draft *draft)
{
    return reader_each_entry(reader, value, key, add_variable, draft->command);
}

static int read_clear(struct reader *reader, const char *key, yaml_node_t *value,
                      struct draft *draft)
{
    return reader_bool(reader, key, value, &draft->command->clear_environment);
}

static int read_user(struct reader *reader, const char *key, yaml_node_t *value,
                     struct draft *draft)
{
    const char *text = reader_text(value);
    struct err_text why;

    if (text == NULL || text[0] == '\0')
        return reader_fault(reader, value, "%s must be a name or a number", key);
    return told(reader, key, value,
                strcmp(key, "user") == 0 ? command_set_user(draft->command, text, &why)
                                         : command_set_group(draft->command, text, &why),
                &why);
}

static int add_group(struct reader *reader, const char *text, yaml_node_t *value, void *ctx)
{
    struct err_text why;

    return told(reader, "groups", value, command_add_group((struct command *)ctx, text, &why),
                &why);
}

static int read_groups(struct reader *reader, const char *key, yaml_node_t *value,
                       struct draft *draft)
{
    struct err_text why;
    int rv = told(reader, key, value, command_clear_groups(draft->command, &why), &why);

    return rv == 0 ? reader_each_item(reader, value, key, add_group, draft->command) : rv;
}

/* --- limits ---------------------------------------------------------------------------------- */

static const char *const limit_names[COMMAND_LIMIT_COUNT] = {
    [COMMAND_LIMIT_MEMORY] = "memory",
    [COMMAND_LIMIT_CPU] = "cpu_seconds",
    [COMMAND_LIMIT_OPEN_FILES] = "open_files",
    [COMMAND_LIMIT_FILE_SIZE] = "file_size",
    [COMMAND_LIMIT_CORE] = "core",
};

static int read_limit(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    uint64_t number = 0;
    struct err_text why;
    int limit = 0, rv;

    while (limit < COMMAND_LIMIT_COUNT && strcmp(key, limit_names[limit]) != 0)
        limit++;
    if (limit == COMMAND_LIMIT_COUNT)
        return reader_fault(reader, reader->key,
                            "limits has no key %s; it has memory, cpu_seconds, open_files, "
                            "file_size, core",
                            key);
    if (limit == COMMAND_LIMIT_CPU)
        rv = reader_number(reader, key, value, 1, UINT32_MAX, &number);
    else if (limit == COMMAND_LIMIT_OPEN_FILES)
        rv = reader_number(reader, key, value, 8, UINT32_MAX, &number);
    else
        rv = reader_size(reader, key, value, &number);
    if (rv != 0)
        return rv;
    return told(reader, key, value,
                command_set_limit((struct command *)ctx, (enum command_limit)limit, number, &why),
                &why);
}

static int read_limits(struct reader *reader, const char *key, yaml_node_t *value,
                       struct draft *draft)
{
    return reader_each_entry(reader, value, key, read_limit, draft->command);
}

static int read_terminate(struct reader *reader, const char *key, yaml_node_t *value,
                          struct draft *draft)
{
    uint64_t number;
    int rv = reader_number(reader, key, value, 0, DAY_S, &number);

    if (rv == 0)
        draft->command->terminate_before_s = (uint32_t)number;
    return rv;
}

/* --- streams and ends ------------------------------------------------------------------------ */

static int read_stdin(struct reader *reader, const char *key, yaml_node_t *value,
                      struct draft *draft)
{
    static const char *const names[] = {"json", "msgpack", "none", NULL};
    int chosen;
    int rv = reader_choice(reader, key, value, names, &chosen);

    if (rv == 0)
        draft->command->in = (enum command_stdin)chosen;
    return rv;
}

static int read_stream(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    static const char *const names[] = {"log", "discard", "inherit", NULL};
    struct command *command = (struct command *)ctx;
    uint64_t size = 0;
    int chosen = 0, rv;

    if (strcmp(key, "limit") == 0) {
        rv = reader_size(reader, key, value, &size);
        command->output_limit = (size_t)size;
        return rv;
    }
    if (strcmp(key, "stdout") != 0 && strcmp(key, "stderr") != 0)
        return reader_fault(reader, reader->key,
                            "output has no key %s; it has stdout, stderr, limit", key);
    rv = reader_choice(reader, key, value, names, &chosen);
    if (rv == 0 && strcmp(key, "stdout") == 0)
        command->out = (enum command_output)chosen;
    else if (rv == 0)
        command->err = (enum command_output)chosen;
    return rv;
}

static int read_output(struct reader *reader, const char *key, yaml_node_t *value,
                       struct draft *draft)
{
    return reader_each_entry(reader, value, key, read_stream, draft->command);
}

static bool exit_code(const char *key, int *out)
{
    int code = 0;

    if (strcmp(key, "*") == 0) {
        *out = -1;
        return true;
    }
    for (size_t i = 0; key[i] != '\0'; i++) {
        if (key[i] < '0' || key[i] > '9' || i == 3)
            return false;
        code = code * 10 + (key[i] - '0');
    }
    *out = code;
    return code < COMMAND_EXIT_CODES;
}

static int read_exit_code(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    static const char *const names[] = {"complete", "retry", "failure", NULL};
    static const enum attempt_end ends[] = {ATTEMPT_COMPLETE, ATTEMPT_RETRY, ATTEMPT_FAILURE};
    int code, chosen, rv;

    if (!exit_code(key, &code))
        return reader_fault(reader, reader->key,
                            "exit_codes: %s is no exit code; they are 0 to 255, and \"*\" for all "
                            "others",
                            key);
    rv = reader_choice(reader, key, value, names, &chosen);
    if (rv == 0)
        command_set_exit_code((struct command *)ctx, code, ends[chosen]);
    return rv;
}

static int read_exit_codes(struct reader *reader, const char *key, yaml_node_t *value,
                           struct draft *draft)
{
    return reader_each_entry(reader, value, key, read_exit_code, draft->command);
}

/* --- persistent ------------------------------------------------------------------------------ */

static int read_ready(struct reader *reader, const char *key, yaml_node_t *value,
                      struct draft *draft)
{
    return reader_bool(reader, key, value, &draft->command->wait_ready);
}

static int read_start_timeout(struct reader *reader, const char *key, yaml_node_t *value,
                              struct draft *draft)
{
    uint64_t number;
    int rv = reader_number(reader, key, value, 1, DAY_S, &number);

    if (rv == 0)
        draft->command->start_time_s = (uint32_t)number;
    return rv;
}

static int read_max_tasks(struct reader *reader, const char *key, yaml_node_t *value,
                          struct draft *draft)
{
    return reader_u32(reader, key, value, 0, &draft->command->max_tasks);
}

/* --- all of them ----------------------------------------------------------------------------- */

static const struct {
    const char *name;
    key_fn read;
    bool of_persistent; /* means nothing to others */
} keys[COMMANDS_KEYS] = {
    {"command", read_command, false},
    {"shell", read_shell, false},
    {"mode", read_mode, false},
    {"folder", read_folder, false},
    {"environment", read_environment, false},
    {"clear_environment", read_clear, false},
    {"user", read_user, false},
    {"group", read_user, false},
    {"groups", read_groups, false},
    {"limits", read_limits, false},
    {"terminate_before", read_terminate, false},
    {"stdin", read_stdin, false},
    {"output", read_output, false},
    {"exit_codes", read_exit_codes, false},
    {"ready", read_ready, true},
    {"start_timeout", read_start_timeout, true},
    {"max_tasks", read_max_tasks, true},
};

bool commands_key_take(struct command_level *level, const char *key, yaml_node_t *value)
{
    for (size_t i = 0; i < COMMANDS_KEYS; i++)
        if (strcmp(keys[i].name, key) == 0) {
            level->values[i] = value;
            return true;
        }
    return false;
}

static int apply(struct reader *reader, const struct command_level *level, struct draft *draft)
{
    int rv = level->outer ? apply(reader, level->outer, draft) : 0;

    for (size_t i = 0; i < COMMANDS_KEYS && rv == 0; i++)
        if (level->values[i] != NULL)
            rv = keys[i].read(reader, keys[i].name, level->values[i], draft);
    return rv;
}

int commands_key_check(struct reader *reader, const struct command_level *level)
{
    struct draft draft = {.command = command_new(reader->folder)};
    int rv = apply(reader, level, &draft);

    command_free(draft.command);
    return rv;
}

static int settle_words(struct reader *reader, yaml_node_t *node, struct draft *draft)
{
    struct command *command = draft->command;

    if (draft->command_node == NULL)
        return reader_fault(reader, node, "it has no command");
    if (!command->shell && draft->text != NULL)
        return reader_fault(reader, draft->command_node,
                            "command must be a list, the program and its arguments, which pass "
                            "through no shell; for a shell's text say shell: true");
    if (!command->shell)
        return 0;
    if (draft->text == NULL)
        return reader_fault(reader, draft->command_node,
                            "with shell: true, command must be one text for /bin/sh -c");
    command_add_word(command, "/bin/sh");
    command_add_word(command, "-c");
    command_add_word(command, draft->text);
    return 0;
}

static int settle(struct reader *reader, const struct command_level *level, yaml_node_t *node,
                  struct draft *draft)
{
    struct err_text why;
    int rv = settle_words(reader, node, draft);

    if (rv != 0)
        return rv;
    for (size_t i = 0; i < COMMANDS_KEYS; i++)
        if (keys[i].of_persistent && level->values[i] != NULL &&
            draft->command->mode != COMMAND_PERSISTENT)
            return reader_fault(reader, level->values[i], "%s needs mode: persistent",
                                keys[i].name);
    rv = command_finish(draft->command, &why);
    return rv == 0 ? 0 : reader_fault(reader, node, "%s", why.s);
}

int commands_key_build(struct reader *reader, const struct command_level *level, yaml_node_t *node,
                       const struct command **out)
{
    struct draft draft = {.command = command_new(reader->folder)};
    int rv = apply(reader, level, &draft);

    if (rv == 0)
        rv = settle(reader, level, node, &draft);
    if (rv != 0) {
        command_free(draft.command);
        return rv;
    }
    for (size_t i = 0; i < reader->tasks->command_count; i++)
        if (command_same(reader->tasks->commands[i], draft.command)) {
            command_free(draft.command);
            *out = reader->tasks->commands[i];
            return 0;
        }
    tasks_add_command(reader->tasks, draft.command);
    *out = draft.command;
    return 0;
}
