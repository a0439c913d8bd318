/* SPDX-License-Identifier: Apache-2.0 */
#include "command/command.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "command/process.h"

extern char **environ;

#define LOOKUP_MAX (1u << 20) /* bytes of one entry of the user database */

/* --- lists of texts that end with NULL ------------------------------------------------------- */

static size_t list_len(char *const *list)
{
    size_t n = 0;

    while (list != NULL && list[n] != NULL)
        n++;
    return n;
}

static void list_add(char ***list, char *text)
{
    size_t n = list_len(*list);

    *list = mem_realloc(*list, (n + 2) * sizeof **list);
    (*list)[n] = text;
    (*list)[n + 1] = NULL;
}

static void list_free(char **list)
{
    for (size_t n = 0; list != NULL && list[n] != NULL; n++)
        mem_free(list[n]);
    mem_free(list);
}

static bool list_same(char *const *a, char *const *b)
{
    size_t n = list_len(a);

    if (list_len(b) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (strcmp(a[i], b[i]) != 0)
            return false;
    return true;
}

static char *joined(const char *a, const char *between, const char *b)
{
    struct buf text = {0};
    char *result;

    buf_printf(&text, "%s%s%s", a, between, b);
    result = mem_strdup(buf_cstr(&text));
    buf_free(&text);
    return result;
}

/* --- simple settings ------------------------------------------------------------------------- */

struct command *command_new(const char *folder)
{
    struct command *command = mem_zalloc(sizeof *command);

    command->folder = mem_strdup(folder);
    command->argv = mem_zalloc(sizeof *command->argv);
    command->output_limit = COMMAND_OUTPUT_LIMIT;
    command->start_time_s = COMMAND_START_TIME_S;
    for (size_t i = 0; i < COMMAND_LIMIT_COUNT; i++)
        command->limits[i] = COMMAND_LIMIT_NONE;
    for (size_t i = 0; i < COMMAND_EXIT_CODES; i++)
        command->exit_codes[i] = ATTEMPT_FAILURE;
    command_set_exit_code(command, 0, ATTEMPT_COMPLETE);
    command_set_exit_code(command, COMMAND_EXIT_RETRY, ATTEMPT_RETRY);
    return command;
}

void command_free(struct command *command)
{
    list_free(command->argv);
    list_free(command->env);
    list_free(command->own_env);
    list_free(command->paths);
    mem_free(command->groups);
    mem_free(command->user);
    mem_free(command->home);
    mem_free(command->folder);
    mem_free(command);
}

void command_add_word(struct command *command, const char *word)
{
    list_add(&command->argv, mem_strdup(word));
}

void command_clear_words(struct command *command)
{
    list_free(command->argv);
    command->argv = mem_zalloc(sizeof *command->argv);
}

void command_set_folder(struct command *command, const char *base, const char *folder)
{
    char *full = folder[0] == '/' ? mem_strdup(folder) : joined(base, "/", folder);

    mem_free(command->folder);
    command->folder = full;
}

void command_set_exit_code(struct command *command, int code, enum attempt_end end)
{
    if (code >= 0) {
        command->exit_codes[code] = (uint8_t)end;
        command->named_codes[code] = true;
        return;
    }
    for (size_t i = 0; i < COMMAND_EXIT_CODES; i++)
        if (!command->named_codes[i])
            command->exit_codes[i] = (uint8_t)end;
}

const char *command_name(const struct command *command)
{
    return command->shell ? command->argv[2] : command->argv[0];
}

/* --- limits ---------------------------------------------------------------------------------- */

int command_set_limit(struct command *command, enum command_limit limit, uint64_t value,
                      struct err_text *why)
{
    struct rlimit now;

    command->limits[limit] = value;
    if (value == COMMAND_LIMIT_NONE || geteuid() == 0)
        return 0;
    if (getrlimit(process_resource(limit), &now) == 0 && now.rlim_max != RLIM_INFINITY &&
        value > now.rlim_max)
        return err_set(why, ERR_DENIED,
                       "%llu is above this worker's own limit of %llu, which only root may exceed",
                       (unsigned long long)value, (unsigned long long)now.rlim_max);
    return 0;
}

/* --- environment ----------------------------------------------------------------------------- */

/* The entry of `name`, or NULL. */
static char **find_env(char **env, const char *name, size_t len)
{
    for (; env != NULL && *env != NULL; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return env;
    return NULL;
}

/* Takes `entry` over; without `replace`, one that is there stays. */
static void put_env(char ***env, char *entry, bool replace)
{
    char **old = find_env(*env, entry, strcspn(entry, "="));

    if (old == NULL) {
        list_add(env, entry);
        return;
    }
    if (replace) {
        char *gone = *old;

        *old = entry;
        entry = gone;
    }
    mem_free(entry);
}

int command_set_env(struct command *command, const char *name, const char *value,
                    struct err_text *why)
{
    if (name[0] == '\0' || strchr(name, '=') != NULL)
        return err_set(why, ERR_INVALID, "'%s' is no name of an environment variable", name);
    if (strncmp(name, COMMAND_ENV_PREFIX, strlen(COMMAND_ENV_PREFIX)) == 0)
        return err_set(why, ERR_INVALID,
                       "%s: names with " COMMAND_ENV_PREFIX " are set for each task", name);
    put_env(&command->own_env, joined(name, "=", value), true);
    return 0;
}

static void add_user_env(struct command *command)
{
    if (!command->has_user)
        return;
    if (command->home != NULL)
        put_env(&command->env, joined("HOME", "=", command->home), true);
    put_env(&command->env, joined("USER", "=", command->user), true);
    put_env(&command->env, joined("LOGNAME", "=", command->user), true);
}

static void make_env(struct command *command)
{
    for (char **env = environ; !command->clear_environment && *env != NULL; env++)
        if (strncmp(*env, COMMAND_ENV_PREFIX, strlen(COMMAND_ENV_PREFIX)) != 0)
            list_add(&command->env, mem_strdup(*env));
    put_env(&command->env, joined("PATH", "=", COMMAND_PATH_DEFAULT), false);
    add_user_env(command);
    for (char **own = command->own_env; own != NULL && *own != NULL; own++)
        put_env(&command->env, mem_strdup(*own), true);
}

/* As a shell looks a program up: in the PATH that it will have. */
static void make_paths(struct command *command)
{
    const char *path = *find_env(command->env, "PATH", 4) + 5;

    if (strchr(command->argv[0], '/') != NULL) {
        list_add(&command->paths, mem_strdup(command->argv[0]));
        return;
    }
    for (;;) {
        size_t len = strcspn(path, ":");
        char *folder = len == 0 ? mem_strdup(".") : mem_strndup(path, len);

        list_add(&command->paths, joined(folder, "/", command->argv[0]));
        mem_free(folder);
        if (path[len] == '\0')
            break;
        path += len + 1;
    }
}

/* --- users and groups ------------------------------------------------------------------------ */

static bool as_number(const char *text, uint32_t *out)
{
    char *end;
    unsigned long long number;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    number = strtoull(text, &end, 10);
    *out = (uint32_t)number;
    /* The greatest one means "leave it as it is" to the system. */
    return *end == '\0' && errno == 0 && number < UINT32_MAX;
}

/* Both lookups want memory of a size that only trying tells. */
static int look_up_user(const char *name, bool by_number, uid_t uid, struct passwd *entry,
                        struct buf *room)
{
    struct passwd *found = NULL;
    int rv;

    for (size_t size = 4096; size <= LOOKUP_MAX; size *= 2) {
        buf_reserve(room, size);
        rv = by_number ? getpwuid_r(uid, entry, (char *)room->ptr, size, &found)
                       : getpwnam_r(name, entry, (char *)room->ptr, size, &found);
        if (rv != ERANGE)
            break;
    }
    return found != NULL ? 0 : ERR_NOT_FOUND;
}

static void take_groups_of_user(struct command *command)
{
    int count = 0;
    gid_t *groups;

    (void)getgrouplist(command->user, command->gid, NULL, &count);
    groups = mem_calloc(count > 0 ? (size_t)count : 1, sizeof *groups);
    if (getgrouplist(command->user, command->gid, groups, &count) < 0)
        count = 0; /* it grew in between: none is the safe side */
    mem_free(command->groups);
    command->groups = groups;
    command->group_count = (size_t)count;
}

static int need_root(struct err_text *why, const char *what)
{
    return geteuid() == 0
               ? 0
               : err_set(why, ERR_DENIED,
                         "%s needs a worker that is started as root; this one is not", what);
}

int command_set_user(struct command *command, const char *user, struct err_text *why)
{
    struct passwd entry = {0};
    struct buf room = {0};
    uint32_t number = 0;
    bool by_number = as_number(user, &number);
    int rv = need_root(why, "user");

    if (rv != 0)
        return rv;
    rv = look_up_user(user, by_number, number, &entry, &room);
    if (rv != 0 && !by_number) {
        buf_free(&room);
        return err_set(why, rv, "there is no user %s on this machine", user);
    }
    mem_free(command->user);
    mem_free(command->home);
    command->change_ids = command->has_user = true;
    command->uid = rv == 0 ? entry.pw_uid : number;
    command->user = mem_strdup(rv == 0 ? entry.pw_name : user);
    command->home = rv == 0 ? mem_strdup(entry.pw_dir) : NULL;
    if (!command->has_gid)
        command->gid = rv == 0 ? entry.pw_gid : number;
    buf_free(&room);
    return 0;
}

static int find_group(const char *group, gid_t *out, struct err_text *why)
{
    struct group entry, *found = NULL;
    struct buf room = {0};
    int rv = 0;

    if (as_number(group, out))
        return 0;
    for (size_t size = 4096; size <= LOOKUP_MAX; size *= 2) {
        buf_reserve(&room, size);
        rv = getgrnam_r(group, &entry, (char *)room.ptr, size, &found);
        if (rv != ERANGE)
            break;
    }
    if (found != NULL)
        *out = found->gr_gid;
    buf_free(&room);
    return found != NULL
               ? 0
               : err_set(why, ERR_NOT_FOUND, "there is no group %s on this machine", group);
}

int command_set_group(struct command *command, const char *group, struct err_text *why)
{
    int rv = need_root(why, "group");

    if (rv == 0)
        rv = find_group(group, &command->gid, why);
    if (rv == 0)
        command->has_gid = command->change_ids = true;
    return rv;
}

int command_clear_groups(struct command *command, struct err_text *why)
{
    command->has_groups = command->change_ids = true;
    command->group_count = 0;
    return need_root(why, "groups");
}

int command_add_group(struct command *command, const char *group, struct err_text *why)
{
    gid_t gid = 0;
    int rv = find_group(group, &gid, why);

    if (rv != 0)
        return rv;
    command->groups =
        mem_realloc(command->groups, (command->group_count + 1) * sizeof *command->groups);
    command->groups[command->group_count++] = gid;
    return 0;
}

static void finish_ids(struct command *command)
{
    if (!command->change_ids)
        return;
    if (!command->has_user)
        command->uid = geteuid();
    if (!command->has_user && !command->has_gid)
        command->gid = getegid();
    if (command->has_user && !command->has_groups)
        take_groups_of_user(command);
}

/* --- the whole ------------------------------------------------------------------------------- */

static int check(const struct command *command, struct err_text *why)
{
    if (command->argv[0] == NULL)
        return err_set(why, ERR_INVALID, "it has no command");
    if (command->mode != COMMAND_PERSISTENT)
        return 0;
    if (command->in != COMMAND_STDIN_JSON)
        return err_set(why, ERR_INVALID, "a persistent command reads JSON lines; leave stdin out");
    if (command->out != COMMAND_OUTPUT_LOG)
        return err_set(
            why, ERR_INVALID,
            "stdout of a persistent command carries its answers; leave it out of output");
    if (command->limits[COMMAND_LIMIT_CPU] != COMMAND_LIMIT_NONE)
        return err_set(why, ERR_INVALID,
                       "cpu_seconds would count all tasks of a persistent process; "
                       "processing_deadline limits one task, max_tasks the process");
    return 0;
}

int command_finish(struct command *command, struct err_text *why)
{
    int rv = check(command, why);

    if (rv != 0)
        return rv;
    finish_ids(command);
    make_env(command);
    make_paths(command);
    return 0;
}

static bool same_ids(const struct command *a, const struct command *b)
{
    if (a->change_ids != b->change_ids)
        return false;
    return !a->change_ids ||
           (a->uid == b->uid && a->gid == b->gid && a->group_count == b->group_count &&
            (a->group_count == 0 ||
             memcmp(a->groups, b->groups, a->group_count * sizeof *a->groups) == 0));
}

bool command_same(const struct command *a, const struct command *b)
{
    return a->mode == b->mode && a->shell == b->shell && a->in == b->in && a->out == b->out &&
           a->err == b->err && a->output_limit == b->output_limit &&
           a->terminate_before_s == b->terminate_before_s && a->wait_ready == b->wait_ready &&
           a->start_time_s == b->start_time_s && a->max_tasks == b->max_tasks &&
           memcmp(a->limits, b->limits, sizeof a->limits) == 0 &&
           memcmp(a->exit_codes, b->exit_codes, sizeof a->exit_codes) == 0 && same_ids(a, b) &&
           strcmp(a->folder, b->folder) == 0 && list_same(a->argv, b->argv) &&
           list_same(a->env, b->env);
}
