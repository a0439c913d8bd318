/* SPDX-License-Identifier: Apache-2.0 */
/* A module and its test in one file, which is C and C++ alike: test_install.py builds it from an
 * installed tree alone. */
#include <stdio.h>
#include <string.h>

#include <taskmill.h>

static enum taskmill_status twice(struct taskmill_call *call)
{
    int64_t number;
    struct taskmill_params *p;

    if (taskmill_arg_int(call, 0, &number))
        return taskmill_fail(call, "needs (number)");
    p = taskmill_params_new();
    taskmill_params_int(p, 2 * number);
    return taskmill_send(taskmill_call_app(call), "n", "result", p, .countdown_s = 3)
               ? taskmill_fail(call, "%s", taskmill_last_error())
               : TASKMILL_COMPLETE;
}

TASKMILL_MODULE(app)
{
    struct taskmill_namespace *ns = taskmill_namespace(app, "n", .processing_deadline_s = 5);

    (void)taskmill_task(ns, "twice", twice);
    (void)taskmill_task(ns, "result", NULL);
}

int main(void)
{
    struct taskmill_app *app = taskmill_test_app(taskmill_module_init, "installed");
    struct taskmill_params *p = taskmill_params_new();
    struct taskmill_test_result result;
    const struct taskmill_test_sent *sent;

    taskmill_params_int(p, 21);
    if (app == NULL || taskmill_test_capture(app, true) ||
        taskmill_test_run(app, "n", "twice", p, &result, .attempt = 1)) {
        fprintf(stderr, "%s\n", taskmill_last_error());
        return 1;
    }
    sent = taskmill_test_sent(app, 0);
    printf("%d %s%s\n", (int)result.status, sent ? sent->params_json : "nothing sent",
           result.error);
    taskmill_app_free(app);
    return 0;
}
