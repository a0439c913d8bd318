/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which modules and command files a worker loads. They come, in this order, from
 *   1. its command line: --module FILE, --commands FILE,
 *   2. TASKMILL_MODULES and TASKMILL_COMMANDS: paths with colons between,
 *   3. a folder: /etc/taskmill/worker.d, or what TASKMILL_WORKER_D names: *.so are modules, *.yml
 *      and *.yaml command files, in the order of their names. Hidden and other files are left out.
 * None of them replaces another: all are loaded.
 */
#ifndef TASKMILL_WORKER_TASK_FILES_H
#define TASKMILL_WORKER_TASK_FILES_H

#include "worker/tasks.h"

#define TASK_FILES_MAX    256
#define TASK_FILES_FOLDER "/etc/taskmill/worker.d"

struct task_file {
    bool is_module;
    char *path;
    const char *from; /* "--module", "TASKMILL_MODULES", ...; lives as long as the program */
};

struct task_files {
    struct task_file items[TASK_FILES_MAX];
    size_t count;
};

/* ERR_TOO_LARGE if there are TASK_FILES_MAX already. */
int task_files_add(struct task_files *files, bool is_module, const char *path, const char *from,
                   struct err_text *why);
/* "a.so:b.so"; empty parts are left out, NULL is nothing. */
int task_files_add_list(struct task_files *files, bool is_module, const char *list,
                        const char *from, struct err_text *why);
/* The files of a folder. One that does not exist is ERR_NOT_FOUND if it `must_exist`, else empty.
 */
int task_files_add_folder(struct task_files *files, const char *folder, bool must_exist,
                          struct err_text *why);
/* 2. and 3. of the above. */
int task_files_add_environment(struct task_files *files, struct err_text *why);

/* Loads all of them and ends with tasks_finish. */
int task_files_load(const struct task_files *files, struct tasks *tasks, struct err_text *why);
void task_files_free(struct task_files *files);

#endif
