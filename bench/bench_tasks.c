/* SPDX-License-Identifier: Apache-2.0 */
/* The task of taskmill-load's activations, for a worker whose own cost is measured. */
#include <taskmill.h>

static enum taskmill_status nothing(struct taskmill_call *call)
{
    (void)call;
    return TASKMILL_COMPLETE;
}

TASKMILL_MODULE(app)
{
    struct taskmill_namespace *bench;

    taskmill_application(app, "bench");
    bench = taskmill_namespace(app, "bench");
    taskmill_task(bench, "bench.nothing", nothing);
}
