/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The demo's tasks in C. Each shows one thing:
 *   math.primes      works a little and completes
 *   mail.send        fails until its third attempt
 *   mail.bounce      always fails: its policy sends it to the dead letter topic
 *   mail.remind      like any other; the demo sends it with a countdown
 */
#include <taskmill.h>

/* primes(limit): counts them, the slow way. */
static enum taskmill_status primes(struct taskmill_call *call)
{
    int64_t limit, found = 0;

    if (taskmill_arg_int(call, 0, &limit) || limit < 0 || limit > 100000)
        return taskmill_fail(call, "needs a limit from 0 to 100000");
    for (int64_t n = 2; n < limit; n++) {
        int64_t d = 2;

        while (d * d <= n && n % d != 0)
            d++;
        found += d * d > n;
    }
    return found >= 0 ? TASKMILL_COMPLETE : TASKMILL_FAILURE;
}

/* send(to=...): the mail server is busy twice. */
static enum taskmill_status send_mail(struct taskmill_call *call)
{
    const char *to;

    if (taskmill_kwarg_str(call, "to", &to))
        return taskmill_fail(call, "needs to=ADDRESS");
    if (taskmill_call_attempt(call) < 2)
        return taskmill_retry(call, "the mail server is busy");
    return TASKMILL_COMPLETE;
}

static enum taskmill_status bounce(struct taskmill_call *call)
{
    return taskmill_fail(call, "no such address");
}

static enum taskmill_status remind(struct taskmill_call *call)
{
    const char *text;

    if (taskmill_kwarg_str(call, "text", &text))
        return taskmill_fail(call, "needs text=...");
    return TASKMILL_COMPLETE;
}

TASKMILL_MODULE(app)
{
    struct taskmill_namespace *math, *mail;

    taskmill_application(app, "demo");
    math = taskmill_namespace(app, "math", .processing_deadline_s = 5);
    taskmill_task(math, "math.primes", primes);

    mail = taskmill_namespace(app, "mail", .retry = {.times = 3});
    taskmill_task(mail, "mail.send", send_mail);
    taskmill_task(mail, "mail.bounce", bounce,
                  .retry = {.times = 1, .times_exceeded = TASKMILL_DEADLETTER});
    taskmill_task(mail, "mail.remind", remind);
}
