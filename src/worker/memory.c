/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/memory.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t resident_of(pid_t pid)
{
    char path[64];
    unsigned long long pages = 0;
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    file = fopen(path, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    (void)fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

struct found {
    pid_t pids[MEMORY_PROCESSES_MAX];
    size_t count;
};

/* The processes that one thread has started. */
static void add_children(struct found *found, pid_t pid, const char *thread)
{
    char path[320];
    FILE *file;
    int child;

    (void)snprintf(path, sizeof path, "/proc/%d/task/%s/children", (int)pid, thread);
    file = fopen(path, "re");
    if (file == NULL)
        return;
    while (found->count < MEMORY_PROCESSES_MAX && fscanf(file, "%d", &child) == 1)
        found->pids[found->count++] = child;
    (void)fclose(file);
}

static void add_children_of_all_threads(struct found *found, pid_t pid)
{
    char path[64];
    struct dirent *entry;
    DIR *threads;

    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    threads = opendir(path);
    if (threads == NULL)
        return;
    while ((entry = readdir(threads)) != NULL)
        if (entry->d_name[0] != '.')
            add_children(found, pid, entry->d_name);
    (void)closedir(threads);
}

uint64_t memory_resident(pid_t pid)
{
    struct found found = {.pids = {pid}, .count = 1};
    uint64_t bytes = 0;

    /* The list grows while it is walked. */
    for (size_t i = 0; i < found.count; i++) {
        bytes += resident_of(found.pids[i]);
        add_children_of_all_threads(&found, found.pids[i]);
    }
    return bytes;
}
