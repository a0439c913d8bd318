/* SPDX-License-Identifier: Apache-2.0 */
#include "core/task.h"

#include "core/queues.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

const char *task_end_name(enum task_end end)
{
    static const char *const names[] = {
#define X(name, text) text,
        TASK_END_MAP(X)
#undef X
    };
    return (size_t)end < COUNT(names) ? names[end] : "unknown end";
}

const char *task_failure_name(enum task_failure failure)
{
    static const char *const names[] = {
#define X(name, text) text,
        TASK_FAILURE_MAP(X)
#undef X
    };
    return (size_t)failure < COUNT(names) ? names[failure] : "unknown failure";
}

struct bytes task_application(const struct task *task)
{
    return task->queue->application->by_name.key;
}

struct bytes task_namespace(const struct task *task)
{
    return task->queue->by_name.key;
}
