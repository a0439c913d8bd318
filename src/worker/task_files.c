/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int task_files_add(struct task_files *files, bool is_module, const char *path, const char *from,
                   struct err_text *why)
{
    if (files->count == TASK_FILES_MAX)
        return err_set(why, ERR_TOO_LARGE, "%s: more than %d modules and command files", from,
                       TASK_FILES_MAX);
    files->items[files->count++] = (struct task_file){is_module, mem_strdup(path), from};
    return 0;
}

int task_files_add_list(struct task_files *files, bool is_module, const char *list,
                        const char *from, struct err_text *why)
{
    int rv = 0;

    while (list != NULL && *list != '\0' && rv == 0) {
        size_t len = strcspn(list, ":");
        char *path = mem_strndup(list, len);

        if (len > 0)
            rv = task_files_add(files, is_module, path, from, why);
        mem_free(path);
        list += len + (list[len] == ':');
    }
    return rv;
}

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), end_len = strlen(end);

    return len > end_len && strcmp(name + len - end_len, end) == 0;
}

static bool is_module_name(const char *name)
{
    return ends_with(name, ".so");
}

static int is_task_file(const struct dirent *entry)
{
    const char *name = entry->d_name;

    return name[0] != '.' &&
           (is_module_name(name) || ends_with(name, ".yml") || ends_with(name, ".yaml"));
}

/* By bytes: the order must not depend on the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

int task_files_add_folder(struct task_files *files, const char *folder, bool must_exist,
                          struct err_text *why)
{
    struct dirent **entries;
    struct buf path = {0};
    int count = scandir(folder, &entries, is_task_file, by_name), rv = 0;

    if (count < 0 && errno == ENOENT && !must_exist)
        return 0;
    if (count < 0)
        return err_set(why, ERR_NOT_FOUND, "folder %s: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        buf_clear(&path);
        buf_printf(&path, "%s/%s", folder, entries[i]->d_name);
        if (rv == 0)
            rv = task_files_add(files, is_module_name(entries[i]->d_name), buf_cstr(&path),
                                "worker.d", why);
        free(entries[i]); /* tidy: free, scandir allocated it */
    }
    free(entries); /* tidy: free, scandir allocated it */
    buf_free(&path);
    return rv;
}

int task_files_add_environment(struct task_files *files, struct err_text *why)
{
    const char *folder = getenv("TASKMILL_WORKER_D");
    bool is_given = folder != NULL && folder[0] != '\0';
    int rv = task_files_add_list(files, true, getenv("TASKMILL_MODULES"), "TASKMILL_MODULES", why);

    if (rv == 0)
        rv = task_files_add_list(files, false, getenv("TASKMILL_COMMANDS"), "TASKMILL_COMMANDS",
                                 why);
    if (rv == 0)
        rv = task_files_add_folder(files, is_given ? folder : TASK_FILES_FOLDER, is_given, why);
    return rv;
}

int task_files_load(const struct task_files *files, struct tasks *tasks, struct err_text *why)
{
    for (size_t i = 0; i < files->count; i++) {
        const struct task_file *file = &files->items[i];
        int rv = file->is_module ? tasks_load_module(tasks, file->path, why)
                                 : tasks_load_commands(tasks, file->path, why);

        if (rv != 0)
            return rv;
        tasks_set_origin(tasks, file->path, file->from);
    }
    return tasks_finish(tasks, why);
}

void task_files_free(struct task_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        mem_free(files->items[i].path);
    files->count = 0;
}
