/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/canary.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/ident.h"
#include "wire/params.h"

static void put_parameters(struct buf *out)
{
    msgpack_put_map(out, 2);
    msgpack_put_str(out, bytes_str("args"));
    msgpack_put_array(out, 0);
    msgpack_put_str(out, bytes_str("kwargs"));
    msgpack_put_map(out, 0);
}

/* As the original writes those that it makes itself. */
static void make_id(char out[IDENT_DASHED_LEN + 1], const uint8_t random[16])
{
    char hex[IDENT_HEX_LEN + 1];
    ident_random(hex, random);
    snprintf(out, IDENT_DASHED_LEN + 1, "%.8s-%.4s-%.4s-%.4s-%s", hex, hex + 8, hex + 12, hex + 16,
             hex + 20);
}

static int make(const char *application, struct blob **out, struct err_text *why)
{
    char id[IDENT_DASHED_LEN + 1];
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) < 0)
        return err_set(why, ERR_SYSTEM, "getrandom: %s", strerror(errno));
    make_id(id, random);
    struct buf parameters = {0}, payload = {0};
    put_parameters(&parameters);
    int64_t now_ms = clock_wall_ms();
    struct activation activation = {
        .id = bytes_str(id),
        .namespace = bytes_str(CANARY_NAMESPACE),
        .taskname = bytes_str(CANARY_TASKNAME),
        .has_application = true,
        .application = bytes_str(application),
        .parameters_bytes = buf_bytes(&parameters),
        .has_received_at = true,
        .received_at_s = now_ms / 1000,
        .received_at_ns = (int32_t)(now_ms % 1000) * 1000000,
        .processing_deadline_duration = CANARY_DEADLINE_S,
    };
    activation_encode(&activation, NULL, 0, &payload);
    *out = blob_copy(buf_bytes(&payload));
    buf_free(&payload);
    buf_free(&parameters);
    return 0;
}

static int turn(struct engine *engine, struct err_text *why)
{
    int rc = engine_turn(engine, NULL, clock_boot_ms(), clock_wall_ms());
    return rc ? err_set(why, rc, "%s", engine_failure(engine)) : 0;
}

static int add(struct engine *engine, const char *application, int64_t offset, struct err_text *why)
{
    struct blob *payload = NULL;
    int rc = make(application, &payload, why);
    if (rc)
        return rc;
    engine_add_task(engine, payload, offset);
    blob_unref(payload);
    return 0;
}

int canary_store(struct engine *engine, const struct config *cfg, struct err_text *why)
{
    if (cfg->canary_tasks == 0)
        return 0;
    int rc = 0;
    uint64_t count = 0;
    for (size_t i = 0; rc == 0 && i < cfg->worker_map.count; i++)
        for (uint32_t j = 0; rc == 0 && j < cfg->canary_tasks; j++) {
            rc = add(engine, cfg->worker_map.pairs[i].key, j, why);
            if (rc == 0 && ++count % CANARY_BATCH == 0)
                rc = turn(engine, why);
        }
    if (rc == 0)
        rc = turn(engine, why);
    if (rc == 0)
        log_info("taskmill::broker", LOG_FIELDS(log_int("tasks", (int64_t)count)),
                 "Stored startup canary tasks");
    return rc;
}
