/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli_meters.h"

#include <stdlib.h>

#define ONCE_TIMEOUT_MAX_S 31536000

/* NULL if it is empty, too. */
static const char *from_environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

struct cli_meters cli_meters_init(void)
{
    return (struct cli_meters){.redis_url = from_environment("TASKMILL_REDIS"),
                               .once_timeout_s = ONCE_TIMEOUT_S};
}

bool cli_meters_take(const struct cli_args *args, int option, struct cli_meters *meters, int *code)
{
    *code = CLI_OK;
    switch (option) {
    case CLI_METERS_REDIS:
        meters->redis_url = args->value;
        return true;
    case CLI_METERS_ONCE_TIMEOUT:
        if (!cli_number(args, "--at-most-once-timeout", 1, ONCE_TIMEOUT_MAX_S,
                        &meters->once_timeout_s))
            *code = CLI_USAGE;
        return true;
    default:
        return false;
    }
}

int cli_meters_finish(struct cli_meters *meters, struct worker_options *worker,
                      struct err_text *why)
{
    int rv;

    if (meters->redis_url == NULL)
        return 0;
    rv = redis_address_parse(&meters->redis, meters->redis_url, why);
    if (rv != 0)
        return rv;
    worker->once.redis = &meters->redis;
    worker->once.timeout_s = meters->once_timeout_s;
    return 0;
}

void cli_meters_free(struct cli_meters *meters)
{
    redis_address_free(&meters->redis);
}
