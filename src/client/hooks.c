/* SPDX-License-Identifier: Apache-2.0 */
#include "client/hooks.h"

static enum taskmill_status known(struct taskmill_call *call, enum taskmill_status status,
                                  const char *whose)
{
    if (status == TASKMILL_COMPLETE || status == TASKMILL_FAILURE || status == TASKMILL_RETRY)
        return status;
    err_set(&call->error, 0, "%s returned %d, which is no status", whose, (int)status);
    return TASKMILL_FAILURE;
}

enum taskmill_status hooks_run_bare(struct taskmill_call *call)
{
    return known(call, call->task->handler(call), "the handler");
}

static enum taskmill_status enter(struct taskmill_call *call,
                                  const struct taskmill_context_hook_options *hook, size_t index)
{
    enum taskmill_status status = TASKMILL_COMPLETE;

    if (hook->on_execute != NULL)
        status = known(call, hook->on_execute(hook->arg, call), "a context hook");
    if (status != TASKMILL_COMPLETE && call->error.s[0] == '\0')
        err_set(&call->error, 0, "on_execute of context hook %zu returned %d", index, (int)status);
    return status;
}

enum taskmill_status hooks_run(struct taskmill_call *call)
{
    const struct taskmill_app *app = call->app;
    enum taskmill_status status = TASKMILL_COMPLETE;
    size_t entered;

    for (entered = 0; entered < app->hook_count; entered++) {
        status = enter(call, &app->hooks[entered], entered);
        if (status != TASKMILL_COMPLETE)
            break;
    }
    if (entered == app->hook_count)
        status = hooks_run_bare(call);
    while (entered-- > 0)
        if (app->hooks[entered].on_leave != NULL)
            app->hooks[entered].on_leave(app->hooks[entered].arg, call, status);
    return status;
}
