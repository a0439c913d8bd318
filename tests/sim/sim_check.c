/* SPDX-License-Identifier: Apache-2.0 */
/* What was promised, checked against every image of a disk that a crash could leave. */
#include "sim.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* --- ledger ----------------------------------------------------------------------------------- */

struct fact *sim_fact(const struct sim *sim, struct bytes id)
{
    struct map_node *node = map_find(&sim->facts, id);
    return node ? container_of(node, struct fact, by_id) : NULL;
}

static struct fact *fact_new(struct sim *sim, const struct activation *activation)
{
    struct fact *fact = mem_zalloc(sizeof *fact);
    snprintf(fact->id, sizeof fact->id, "%.*s", BYTES_FMT_ARG(activation->id));
    fact->at_most_once = activation->retry_state.at_most_once;
    fact->on_attempts_exceeded = (uint8_t)activation->retry_state.on_attempts_exceeded;
    fact->attempts = activation->retry_state.attempts;
    fact->has_expires = activation->has_expires;
    fact->has_delay = activation->has_delay;
    fact->second_name = bytes_equal_str(activation->taskname, "task2");
    fact->second_namespace = bytes_equal_str(activation->namespace, "b");
    fact->arg = activation->parameters_bytes.ptr[activation->parameters_bytes.len - 1];
    fact->expires_first_ms = fact->delay_until_ms = INT64_MAX;
    map_insert(&sim->facts, &fact->by_id, bytes_str(fact->id));
    return fact;
}

struct fact *sim_fact_arrived(struct sim *sim, const struct activation *activation)
{
    struct fact *fact = sim_fact(sim, activation->id);
    if (!fact)
        fact = fact_new(sim, activation);
    sim_rules_see(sim, fact);
    int64_t received_ms = activation->received_at_s * 1000 + activation->received_at_ns / 1000000;
    int64_t expires_ms = received_ms + (int64_t)activation->expires * 1000;
    int64_t delay_ms = received_ms + (int64_t)activation->delay * 1000;
    if (expires_ms < fact->expires_first_ms)
        fact->expires_first_ms = expires_ms;
    if (expires_ms > fact->expires_last_ms)
        fact->expires_last_ms = expires_ms;
    if (delay_ms < fact->delay_until_ms)
        fact->delay_until_ms = delay_ms;
    return fact;
}

void sim_forwarded(struct sim *sim, struct fact *fact)
{
    if (fact->at_most_once)
        sim_violation(sim, "INV-4: at-most-once task %s was forwarded", fact->id);
    if (fact->refused)
        sim_violation(sim, "INV-7: task %s was refused and is forwarded", fact->id);
    sim_trace(sim, "%s arrived where demoted tasks go", fact->id);
    fact->forwarded = true;
}

struct garbage *sim_garbage_at(const struct sim *sim, int32_t partition, int64_t offset)
{
    for (size_t i = 0; i < sim->garbage_count; i++)
        if (sim->garbage[i]->partition == partition && sim->garbage[i]->offset == offset)
            return sim->garbage[i];
    return NULL;
}

static bool retry_arrived(const struct sim *sim, const struct fact *fact)
{
    char id[IDENT_DASHED_LEN + 1];
    ident_retry(id, bytes_str(fact->id), fact->attempts);
    const struct fact *retry = sim_fact(sim, bytes_str(id));
    if (sim->embedded) /* the log of this image, or of all to come, has it */
        return retry && (retry->kept || retry->stamp == sim->stamp);
    return retry != NULL;
}

/* INV-3: the ways in which a task may be gone from every broker. */
bool sim_check_may_be_gone(const struct sim *sim, const struct fact *fact)
{
    if (fact->complete_sent || fact->deadlettered || fact->forwarded || fact->killable)
        return true;
    if (fact->has_expires && sim->wall_ms + sim->error_high_ms >= fact->expires_first_ms)
        return true;
    if (fact->retry_sent && !fact->at_most_once && retry_arrived(sim, fact))
        return true;
    if (fact->on_attempts_exceeded == ON_ATTEMPTS_EXCEEDED_DEADLETTER)
        return false;
    return fact->failure_sent ||
           (fact->at_most_once && (fact->granted || fact->claimed_at_crash)) ||
           fact->granted + fact->claimed_at_crash >= SIM_MAX_ATTEMPTS;
}

/* --- one image -------------------------------------------------------------------------------- */

struct image {
    struct sim_node *node;
    struct store *store;
    uint64_t stamp;
    uint64_t rows;
};

static int note_row(void *ctx, const struct store_row *row)
{
    struct image *image = ctx;
    struct fact *fact = sim_fact(image->node->sim, row->id);
    if (!fact)
        sim_violation(image->node->sim, "a row nobody produced: %.*s", BYTES_FMT_ARG(row->id));
    if (fact->refused)
        sim_violation(image->node->sim, "INV-7: task %s was refused and is a row", fact->id);
    fact->stamp = image->stamp;
    fact->status = row->status;
    image->rows++;
    return 0;
}

static int64_t outbox_number(const struct store_outbox *entry, const char *key)
{
    for (size_t i = 0; i < entry->header_count; i++) {
        if (!bytes_equal_str(entry->headers[i].key, key))
            continue;
        char text[32] = "";
        memcpy(text, entry->headers[i].value.ptr, entry->headers[i].value.len);
        return strtoll(text, NULL, 10);
    }
    return -1;
}

/* A task is a row or an entry, not both; a message from Kafka may have been read twice. */
static int note_forward(struct image *image, const struct store_outbox *entry)
{
    struct sim *sim = image->node->sim;
    struct activation activation;
    struct blob *payload;
    const char *why;
    int rc = store_read_outbox(image->store, entry->entry, &payload);
    if (rc)
        return rc;
    struct fact *fact = activation_parse(blob_bytes(payload), &activation, &why)
                            ? NULL
                            : sim_fact(sim, activation.id);
    blob_unref(payload);
    if (!fact)
        sim_violation(sim, "a forwarded task nobody produced");
    if (sim->embedded && fact->stamp == image->stamp && fact->attempts == 0)
        sim_violation(sim, "task %s is a row and forwarded", fact->id);
    fact->outbox_stamp = image->stamp;
    return 0;
}

static int note_outbox(void *ctx, const struct store_outbox *entry)
{
    struct image *image = ctx;
    if (entry->header_count == 0)
        return note_forward(image, entry);
    struct garbage *garbage =
        sim_garbage_at(image->node->sim, (int32_t)outbox_number(entry, "taskmill-partition"),
                       outbox_number(entry, "taskmill-offset"));
    if (!garbage)
        sim_violation(image->node->sim, "an outbox entry nobody produced");
    garbage->stamp = image->stamp;
    return 0;
}

static void check_integrity(struct sim *sim, struct crash_vfs *disk)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    const char *answer = "no answer";
    if (sqlite3_open_v2("sim.sqlite", &db, SQLITE_OPEN_READONLY, crash_vfs_name(disk)) ==
            SQLITE_OK &&
        sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        answer = (const char *)sqlite3_column_text(statement, 0);
    if (strcmp(answer, "ok") != 0)
        sim_violation(sim, "INV-11: integrity_check: %s", answer);
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

/* Opens the disk as a start would and marks everything it holds with a new stamp. */
static uint64_t read_disk(struct sim_node *node, struct crash_vfs *disk, bool integrity)
{
    struct sim *sim = node->sim;
    struct image image = {.node = node, .stamp = ++sim->stamp};
    struct store_options options = {
        .path = "sim.sqlite", .vfs = crash_vfs_name(disk), .no_lock = true};
    struct store *store;
    struct err_text why;
    if (store_open(&store, &options, &why))
        sim_violation(sim, "INV-11: a crash image does not open: %s", why.s);
    image.store = store;
    if (store_load_rows(store, note_row, &image) || store_load_outbox(store, note_outbox, &image))
        sim_violation(sim, "INV-11: a crash image does not load: %s", store_why(store));
    if (sim->embedded)
        sim_embedded_note_log(sim, store, image.stamp);
    if (integrity)
        check_integrity(sim, disk);
    store_close(store);
    return image.stamp;
}

static bool held_elsewhere(const struct sim *sim, const struct fact *fact, int except)
{
    for (int n = 0; n < sim->node_count; n++) {
        if (n == except)
            continue;
        if (fact->in_outbox[n])
            return true;
        if (!sim->nodes[n].engine) {
            if (fact->on_disk[n])
                return true;
            continue;
        }
        const struct task *task =
            inflight_find(sim->nodes[n].engine->inflight, bytes_str(fact->id));
        if (task && task->stored)
            return true;
    }
    return false;
}

static bool outbox_elsewhere(const struct sim *sim, const struct garbage *garbage, int except)
{
    for (int n = 0; n < sim->node_count; n++) {
        if (n == except)
            continue;
        if (!sim->nodes[n].engine) {
            if (garbage->on_disk[n])
                return true;
            continue;
        }
        list_foreach (&sim->nodes[n].engine->outbox, it) {
            const struct outbox_entry *entry = container_of(it, struct outbox_entry, link);
            struct store_header headers[8];
            struct store_outbox row = {.headers = headers, .header_count = entry->header_count};
            for (size_t i = 0; i < entry->header_count; i++)
                headers[i] = (struct store_header){.key = entry->headers[i].key,
                                                   .value = entry->headers[i].value};
            if (outbox_number(&row, "taskmill-partition") == garbage->partition &&
                outbox_number(&row, "taskmill-offset") == garbage->offset)
                return true;
        }
    }
    return false;
}

/* INV-1, INV-2: everything below a committed offset is somewhere. */
static void check_offsets(const struct sim_node *node, uint64_t stamp)
{
    struct sim *sim = node->sim;
    for (int p = 0; p < SIM_PARTITIONS; p++) {
        const struct sim_partition *partition = &sim->tasks[p];
        for (int64_t o = 0; o < partition->committed; o++) {
            const struct sim_record *record = &partition->records[o];
            const struct fact *fact = record->fact;
            const struct garbage *garbage = record->garbage;
            if (fact && fact->stamp != stamp && fact->outbox_stamp != stamp &&
                !sim_check_may_be_gone(sim, fact) && !held_elsewhere(sim, fact, node->index))
                sim_violation(sim,
                              "INV-1/INV-2: task %s of partition %d offset %lld is lost (committed "
                              "%lld; image of node %d)",
                              fact->id, p, (long long)o, (long long)partition->committed,
                              node->index);
            if (garbage && garbage->stamp != stamp && !garbage->deadlettered &&
                !outbox_elsewhere(sim, garbage, node->index))
                sim_violation(sim, "INV-2: bad message of partition %d offset %lld is lost", p,
                              (long long)o);
        }
    }
}

static bool could_run(enum store_status status)
{
    return status == STORE_PENDING || status == STORE_DELAY || status == STORE_PROCESSING;
}

/* INV-7 and INV-4, for what this broker said. */
static void check_words(const struct sim_node *node, uint64_t stamp)
{
    struct sim *sim = node->sim;
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it)) {
        const struct fact *fact = container_of(it, struct fact, by_id);
        if (fact->stamp != stamp)
            continue;
        if (fact->complete_acked[node->index] && could_run(fact->status))
            sim_violation(sim, "INV-7: task %s is back though its completion was acknowledged",
                          fact->id);
        if (fact->at_most_once && fact->with_worker[node->index] &&
            (fact->status == STORE_PENDING || fact->status == STORE_DELAY))
            sim_violation(sim, "INV-4: at-most-once task %s is with a worker and claimable again",
                          fact->id);
    }
}

void sim_check_image(struct sim_node *node, enum crash_mode mode)
{
    struct sim *sim = node->sim;
    if (node->checking)
        return;
    node->checking = true;
    struct crash_vfs *image = crash_vfs_image(node->disk, mode, sim_next(sim));
    uint64_t stamp = read_disk(node, image, true);
    sim->result->images++;
    check_offsets(node, stamp);
    check_words(node, stamp);
    if (sim->embedded)
        sim_embedded_check(sim, stamp);
    crash_vfs_free(image);
    node->checking = false;
}

static void trace_disk(const struct sim_node *node, uint64_t stamp)
{
    const struct sim *sim = node->sim;
    for (struct map_node *it = map_first(&sim->facts); sim->trace && it;
         it = map_next(&sim->facts, it)) {
        const struct fact *fact = container_of(it, struct fact, by_id);
        if (fact->stamp == stamp)
            sim_trace(sim, "node %d went down with %s in status %d", node->index, fact->id,
                      fact->status);
    }
}

void sim_check_note_disk(struct sim_node *node)
{
    struct sim *sim = node->sim;
    struct crash_vfs *image = crash_vfs_image(node->disk, CRASH_KILL, sim_next(sim));
    uint64_t stamp = read_disk(node, image, false);
    crash_vfs_free(image);
    trace_disk(node, stamp);
    if (sim->embedded)
        sim_embedded_check(sim, stamp);
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it)) {
        struct fact *fact = container_of(it, struct fact, by_id);
        fact->on_disk[node->index] = fact->stamp == stamp;
        fact->in_outbox[node->index] = fact->outbox_stamp == stamp;
        if (fact->stamp == stamp && fact->status == STORE_PROCESSING)
            fact->claimed_at_crash++;
    }
    for (size_t i = 0; i < sim->garbage_count; i++)
        sim->garbage[i]->on_disk[node->index] = sim->garbage[i]->stamp == stamp;
}

/* --- the end ---------------------------------------------------------------------------------- */

bool sim_check_settled(const struct sim *sim)
{
    for (int p = 0; p < SIM_PARTITIONS; p++)
        if (sim->tasks[p].committed < (int64_t)sim->tasks[p].count && sim->tasks[p].count)
            return false;
    for (int n = 0; n < sim->node_count; n++) {
        struct inflight_counts counts;
        if (!sim->nodes[n].engine)
            return false;
        inflight_get_counts(sim->nodes[n].engine->inflight, &counts);
        if (counts.tasks || sim->nodes[n].engine->outbox.count ||
            sim->nodes[n].engine->outbox_new.count || sim->nodes[n].sink.open.count)
            return false;
        if (sim->embedded && embedded_log_waiting(sim->nodes[n].log.log))
            return false;
    }
    return list_empty(&sim->jobs);
}

/* INV-5: once faults stop, every task ends. */
void sim_check_final(struct sim *sim)
{
    if (!sim_check_settled(sim)) {
        struct inflight_counts a, b;
        inflight_get_counts(sim->nodes[0].engine->inflight, &a);
        inflight_get_counts(sim->nodes[sim->node_count - 1].engine->inflight, &b);
        sim_violation(
            sim,
            "INV-5: not settled long after all faults stopped: %zu and %zu tasks, %zu and "
            "%zu unconfirmed, offsets %lld/%zu %lld/%zu %lld/%zu",
            a.tasks, b.tasks, a.unconfirmed, b.unconfirmed, (long long)sim->tasks[0].committed,
            sim->tasks[0].count, (long long)sim->tasks[1].committed, sim->tasks[1].count,
            (long long)sim->tasks[2].committed, sim->tasks[2].count);
    }
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it)) {
        const struct fact *fact = container_of(it, struct fact, by_id);
        bool known = !sim->embedded || fact->kept; /* else nobody said that it was taken in */
        if (known && !sim_check_may_be_gone(sim, fact))
            sim_violation(sim, "INV-2: task %s is gone without an ending", fact->id);
    }
    for (size_t i = 0; i < sim->garbage_count; i++)
        if (!sim->garbage[i]->deadlettered)
            sim_violation(sim, "INV-2: bad message of partition %d offset %lld never dead-lettered",
                          sim->garbage[i]->partition, (long long)sim->garbage[i]->offset);
}
