/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The task of load.py for Taskmill's own worker. A run appends to the file $LOAD_LOG
 *
 *     run KEY ATTEMPT             before anything else; KEY is the task's header "key"
 *     returned KEY STATUS         at the end; the worker reports it afterwards
 *
 * each in one write(2), and takes $LOAD_MS between. A task with the header "retries" = N asks for a
 * retry on its first N attempts.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <taskmill.h>

/* The values of the protocol. */
#define COMPLETE 5
#define RETRY    4

static int append(const char *word, const char *key, uint32_t number)
{
    const char *path = getenv("LOAD_LOG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    char line[128];
    int len = snprintf(line, sizeof line, "%s %s %" PRIu32 "\n", word, key, number);
    int rv = -1;

    if (fd < 0)
        return -1;
    if (len > 0 && (size_t)len < sizeof line && write(fd, line, (size_t)len) == len)
        rv = 0;
    close(fd);
    return rv;
}

static void pause_ms(const char *text)
{
    long ms = text ? strtol(text, NULL, 10) : 0;
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    while (nanosleep(&left, &left) != 0)
        continue;
}

static enum taskmill_status load(struct taskmill_call *call)
{
    const char *key = taskmill_call_header(call, "key");
    const char *retries = taskmill_call_header(call, "retries");
    uint32_t attempt = taskmill_call_attempt(call);
    bool again = retries != NULL && attempt < strtoul(retries, NULL, 10);

    if (key == NULL || append("run", key, attempt) != 0)
        return taskmill_fail(call, "no header 'key', or cannot write $LOAD_LOG");
    pause_ms(getenv("LOAD_MS"));
    if (append("returned", key, again ? RETRY : COMPLETE) != 0)
        return taskmill_fail(call, "cannot write $LOAD_LOG");
    return again ? taskmill_retry(call, "as it should") : TASKMILL_COMPLETE;
}

TASKMILL_MODULE(app)
{
    struct taskmill_namespace *ns;

    taskmill_application(app, "app");
    ns = taskmill_namespace(app, "ns");
    taskmill_task(ns, "load", load, .retry = {.times = 3});
}
