/* SPDX-License-Identifier: Apache-2.0 */
/* A call of a task, for tests of what runs tasks. Include after cmocka.h. */
#ifndef TESTS_COMMAND_CALL_HELP_H
#define TESTS_COMMAND_CALL_HELP_H

#include "client/call.h"
#include "client/params_build.h"

struct call_help {
    struct taskmill_call call;
    struct buf payload;
    struct taskmill_namespace ns;
    struct task_def task;
};

/* `json`: the parameters. The policy allows `times` attempts. Header k: v " w. */
static inline void call_help_open(struct call_help *help, const char *id, const char *json,
                                  uint32_t attempts, uint32_t times, uint64_t deadline_s)
{
    struct activation_header headers[] = {{bytes_str("k"), bytes_str("v \" w")}};
    struct taskmill_params *p = taskmill_params_from_json(json);
    struct buf packed = {0};
    struct err_text why;

    assert_non_null(p);
    memset(help, 0, sizeof *help);
    assert_int_equal(params_pack(p, &packed), 0);
    taskmill_params_free(p);
    activation_encode(&(struct activation){.id = bytes_str(id),
                                           .namespace = bytes_str("ns"),
                                           .taskname = bytes_str("task"),
                                           .has_application = true,
                                           .application = bytes_str("app"),
                                           .has_received_at = true,
                                           .received_at_s = 1700000000,
                                           .received_at_ns = 5000,
                                           .processing_deadline_duration = deadline_s,
                                           .parameters_bytes = buf_bytes(&packed),
                                           .retry_state = {.present = true, .attempts = attempts}},
                      headers, 1, &help->payload);
    buf_free(&packed);
    help->task.ns = &help->ns;
    help->task.options.retry.times = times;
    assert_int_equal(call_open(&help->call, NULL, &help->task, buf_bytes(&help->payload), &why), 0);
}

static inline void call_help_close(struct call_help *help)
{
    call_close(&help->call);
    buf_free(&help->payload);
}

#endif
