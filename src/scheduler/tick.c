/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/tick.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define TARGET        "taskmill::scheduler"
#define RETELL_MS     60000
#define CLOCK_STEP_MS 500
#define LOST_MAX      3
#define LOST_PAUSE_MS 1000
#define CHECK_JITTER  50
#define SLOT_RUNS_MAX 64 /* of one entry in one send */
#define ASK_NOW       INT64_MIN

/*
 *   UNREAD   the storage must be read first
 *   IDLE     nothing is open; ask at next_s whether a run is due
 *   THEIRS   another scheduler has an open claim; look again when its lease is over
 *   OURS     our claim: due_s is the next run to send; only while the lease lasts
 *   SENT     our claim, all is sent, the storage does not know it yet
 */
enum slot_state { SLOT_UNREAD, SLOT_IDLE, SLOT_THEIRS, SLOT_OURS, SLOT_SENT };

struct slot {
    const struct schedules_entry *entry;
    struct run_key key;
    struct run_record record;
    enum slot_state state;
    int64_t memory_s;  /* last run that we know of, should the storage forget */
    int64_t next_s;    /* wall */
    int64_t check_ms;  /* boot; THEIRS, and IDLE after lost claims */
    int64_t due_s;     /* OURS */
    int64_t lease_ms;  /* boot: we may send before this */
    int64_t retry_ms;  /* boot: no send before this */
    uint32_t pause_ms; /* after the last failed send; 0: none */
    uint32_t lost;     /* claims in a row */
};

/* Something that fails for a while: its pause, and what is said about it. */
struct outage {
    uint32_t pause_ms; /* 0: it works */
    int64_t retry_ms, told_ms, since_ms;
};

struct tick {
    struct tick_options options;
    struct slot *slots;
    size_t count;
    int64_t wall_ms, boot_ms; /* last reading of the clock */
    int64_t offset_ms;        /* wall - boot when the last turn began */
    bool turned;
    size_t cursor; /* where the next batch begins, so that no entry starves */
    struct outage storage, sending;
    struct tick_counters counters;
    uint32_t random;
    struct tick_run runs[TICK_BATCH];
    struct slot *run_slots[TICK_BATCH];
    struct run_swap swaps[TICK_BATCH];
    struct slot *swap_slots[TICK_BATCH];
};

/* --- small things ---------------------------------------------------------------------------- */

static uint32_t chance(struct tick *tick, uint32_t below)
{
    tick->random ^= tick->random << 13;
    tick->random ^= tick->random >> 17;
    tick->random ^= tick->random << 5;
    return tick->random % below;
}

static void read_clock(struct tick *tick)
{
    tick->options.now(tick->options.ctx, &tick->wall_ms, &tick->boot_ms);
}

static void tell(struct tick *tick, enum tick_event event, const struct slot *slot,
                 const struct tick_run *run)
{
    if (tick->options.event != NULL)
        tick->options.event(tick->options.ctx, event, slot->entry, run,
                            run != NULL ? tick->wall_ms - run->due_s * 1000 : 0);
}

/* The next pause of a thing that failed, doubled, and the moment after it: from half of it on. */
static int64_t back_off(struct tick *tick, uint32_t *pause_ms, uint32_t max_ms)
{
    *pause_ms = *pause_ms == 0 ? TICK_PAUSE_MIN_MS : *pause_ms * 2;
    if (*pause_ms > max_ms)
        *pause_ms = max_ms;
    return tick->boot_ms + *pause_ms / 2 + chance(tick, *pause_ms / 2 + 1);
}

static void tell_failure(struct tick *tick, struct outage *outage, const char *what,
                         const char *why)
{
    if (outage->since_ms == 0)
        outage->since_ms = tick->boot_ms;
    if (outage->told_ms != 0 && tick->boot_ms - outage->told_ms < RETELL_MS)
        return;
    outage->told_ms = tick->boot_ms;
    log_warn(TARGET, LOG_FIELDS(log_str("error", why)), "%s", what);
}

static void tell_end(struct tick *tick, struct outage *outage, const char *what)
{
    if (outage->told_ms != 0)
        log_info(TARGET, LOG_FIELDS(log_int("after_ms", tick->boot_ms - outage->since_ms)), "%s",
                 what);
    *outage = (struct outage){0};
}

static void storage_failed(struct tick *tick, const char *why)
{
    tick->counters.storage_failures++;
    tick->storage.retry_ms = back_off(tick, &tick->storage.pause_ms, TICK_STORAGE_PAUSE_MS);
    tell_failure(tick, &tick->storage, "the run storage fails: no run is started until it is back",
                 why);
}

static bool storage_ready(const struct tick *tick)
{
    return tick->storage.pause_ms == 0 || tick->boot_ms >= tick->storage.retry_ms;
}

static bool is_ours(const struct tick *tick, const struct slot *slot)
{
    return slot->record.state.open && strcmp(slot->record.state.owner, tick->options.owner) == 0;
}

/* --- what a record means --------------------------------------------------------------------- */

static int64_t last_run(const struct slot *slot)
{
    const struct run_record *record = &slot->record;
    int64_t last_s = record->state.known ? record->state.last_s : SCHEDULE_NEVER_RAN;

    if (record->foreign_s > last_s)
        last_s = record->foreign_s;
    return last_s == SCHEDULE_NEVER_RAN ? slot->memory_s : last_s;
}

/* The slot's state after its record was read. */
static void adopt(struct tick *tick, struct slot *slot)
{
    if (is_ours(tick, slot)) {
        /* Of a claim whose outcome we did not learn: the lease is renewed before anything. */
        slot->state = SLOT_OURS;
        slot->due_s = slot->record.state.first_s;
        slot->lease_ms = 0;
    } else if (slot->record.state.open) {
        slot->state = SLOT_THEIRS;
        slot->check_ms = tick->boot_ms + slot->record.lease_ms +
                         (slot->record.lease_ms > 0 ? chance(tick, CHECK_JITTER) : 0);
    } else {
        slot->state = SLOT_IDLE;
        slot->next_s = ASK_NOW;
        slot->memory_s = last_run(slot);
    }
}

static void load_unread(struct tick *tick)
{
    const struct run_key **keys = mem_calloc(tick->count ? tick->count : 1, sizeof(void *));
    struct run_record *records = mem_calloc(tick->count ? tick->count : 1, sizeof *records);
    struct run_storage *storage = tick->options.storage;
    struct err_text why = {{0}};
    size_t count = 0;
    int rv = 0;

    for (size_t i = 0; i < tick->count; i++)
        if (tick->slots[i].state == SLOT_UNREAD)
            keys[count++] = &tick->slots[i].key;
    if (count > 0)
        rv = storage->ops->load(storage, keys, count, records, &why);
    if (rv != 0)
        storage_failed(tick, why.s);
    for (size_t i = 0, at = 0; i < tick->count && rv == 0 && count > 0; i++) {
        struct slot *slot = &tick->slots[i];

        if (slot->state != SLOT_UNREAD)
            continue;
        slot->record = records[at++];
        adopt(tick, slot);
        if (!slot->record.state.known && slot->record.foreign_s == SCHEDULE_NEVER_RAN)
            tell(tick, TICK_UNKNOWN, slot, NULL);
    }
    mem_free(keys);
    mem_free(records);
}

/* --- steps: what to ask of the storage -------------------------------------------------------- */

static void want_claim(struct tick *tick, const struct schedule_due *due, struct run_swap *swap)
{
    swap->step = RUN_CLAIM;
    swap->next = (struct run_state){
        .known = true, .open = true, .first_s = due->first_s, .last_s = due->last_s};
    memcpy(swap->next.owner, tick->options.owner, sizeof swap->next.owner);
    swap->value_ttl_ms = schedule_ttl_ms(due->next_s, tick->wall_ms);
}

static void tell_dropped(struct tick *tick, const struct slot *slot)
{
    tick->counters.missed_dropped++;
    log_info(TARGET, LOG_FIELDS(log_str("entry", slot->entry->key)),
             "missed runs are dropped by the entry's policy");
}

/* A crontab that nobody has run yet: from now on missed runs are known as such. */
static void want_note(struct tick *tick, struct run_swap *swap)
{
    swap->step = RUN_NOTE;
    swap->next = (struct run_state){
        .known = true, .first_s = tick->wall_ms / 1000, .last_s = tick->wall_ms / 1000};
}

static bool ask_idle(struct tick *tick, struct slot *slot, struct run_swap *swap)
{
    const struct schedule *schedule = &slot->entry->schedule;
    int64_t last_s = last_run(slot);
    struct schedule_due due;

    if ((slot->next_s != ASK_NOW && slot->next_s * 1000 > tick->wall_ms) ||
        tick->boot_ms < slot->check_ms)
        return false;
    due = schedule_due(schedule, last_s, tick->wall_ms / 1000);
    if (due.from_future)
        log_warn(TARGET, LOG_FIELDS(log_str("entry", slot->entry->key), log_int("last", last_s)),
                 "the last run lies far in the future: a clock was wrong; it does not count");
    slot->next_s = due.next_s;
    if (due.dropped)
        tell_dropped(tick, slot);
    if (due.due)
        want_claim(tick, &due, swap);
    else if (last_s == SCHEDULE_NEVER_RAN && schedule->kind == SCHEDULE_CRONTAB)
        want_note(tick, swap);
    else
        return false;
    return true;
}

/* Is there time for a whole send before the lease ends? */
static bool may_send(const struct tick *tick, const struct slot *slot)
{
    return slot->lease_ms - tick->boot_ms >= (int64_t)tick->options.send_limit_ms;
}

static void want_ours(struct tick *tick, struct slot *slot, enum run_step step,
                      struct run_swap *swap)
{
    swap->step = step;
    swap->next = slot->record.state;
    memcpy(swap->next.owner, tick->options.owner, sizeof swap->next.owner);
    if (step == RUN_RENEW || step == RUN_RELEASE)
        swap->next.first_s = slot->due_s;
    swap->next.open = step != RUN_DONE;
}

static bool want_swap(struct tick *tick, struct slot *slot, struct run_swap *swap)
{
    switch (slot->state) {
    case SLOT_UNREAD:
        return false;
    case SLOT_IDLE:
        return ask_idle(tick, slot, swap);
    case SLOT_THEIRS:
        want_ours(tick, slot, RUN_TAKE, swap);
        return tick->boot_ms >= slot->check_ms;
    case SLOT_OURS:
        want_ours(tick, slot, RUN_RENEW, swap);
        return tick->boot_ms >= slot->retry_ms && !may_send(tick, slot);
    case SLOT_SENT:
        want_ours(tick, slot, RUN_DONE, swap);
        return true;
    }
    return false;
}

/* --- steps: what came of it ------------------------------------------------------------------ */

static void hold(struct tick *tick, struct slot *slot, enum run_step step)
{
    slot->state = SLOT_OURS;
    slot->lease_ms = tick->boot_ms + tick->options.lease_ms;
    slot->lost = 0;
    if (step == RUN_RENEW)
        return;
    slot->due_s = slot->record.state.first_s;
    slot->pause_ms = 0;
    slot->retry_ms = 0;
    if (step != RUN_TAKE)
        return;
    tick->counters.take_overs++;
    log_info(TARGET, LOG_FIELDS(log_str("entry", slot->entry->key), log_int("due", slot->due_s)),
             "took over a run that another scheduler claimed and did not finish");
}

static void lose(struct tick *tick, struct slot *slot, enum run_step step)
{
    adopt(tick, slot);
    if (step != RUN_CLAIM)
        return;
    tick->counters.claims_lost++;
    tell(tick, TICK_SYNCED, slot, NULL);
    /* Each loss brings a newer record; only something that writes without end gets here often. */
    if (++slot->lost >= LOST_MAX) {
        slot->check_ms = tick->boot_ms + LOST_PAUSE_MS;
        slot->lost = 0;
    }
}

static void settle(struct tick *tick, struct slot *slot, const struct run_swap *swap)
{
    if (!swap->settled) {
        if (swap->step != RUN_DONE)
            slot->state = SLOT_UNREAD;
    } else if (!swap->won) {
        lose(tick, slot, swap->step);
    } else if (swap->step == RUN_CLAIM || swap->step == RUN_TAKE || swap->step == RUN_RENEW) {
        hold(tick, slot, swap->step);
    } else {
        slot->lost = 0;
        slot->check_ms = 0;
        adopt(tick, slot);
    }
}

/* One batch of steps. True if there may be more to ask for. */
static bool swap_batch(struct tick *tick,
                       bool (*want)(struct tick *tick, struct slot *slot, struct run_swap *swap))
{
    struct run_storage *storage = tick->options.storage;
    struct err_text why = {{0}};
    size_t count = 0, seen = 0;
    int rv = 0;

    read_clock(
        tick); /* before the call: a lease runs for us from here, in the storage from later */
    for (; seen < tick->count && count < TICK_BATCH; seen++) {
        struct slot *slot = &tick->slots[(tick->cursor + seen) % tick->count];
        struct run_swap *swap = &tick->swaps[count];

        *swap = (struct run_swap){
            .key = &slot->key, .record = &slot->record, .lease_ms = tick->options.lease_ms};
        if (!want(tick, slot, swap))
            continue;
        swap->keep_ms = RUN_KEEP_MS;
        if (slot->next_s != ASK_NOW && slot->next_s < INT64_MAX / 4000)
            swap->keep_ms += 2 * (slot->next_s * 1000 - tick->wall_ms);
        tick->swap_slots[count++] = slot;
    }
    tick->cursor = tick->count ? (tick->cursor + seen) % tick->count : 0;
    if (count == 0)
        return false;
    rv = storage->ops->swap(storage, tick->swaps, count, &why);
    for (size_t i = 0; i < count; i++)
        settle(tick, tick->swap_slots[i], &tick->swaps[i]);
    if (rv != 0)
        storage_failed(tick, why.s);
    return rv == 0;
}

/* Bounded: an entry needs a few steps at most before it waits for a time or a send. */
static void use_storage(struct tick *tick)
{
    size_t rounds = 8 + 8 * tick->count / TICK_BATCH;
    uint64_t failures = tick->counters.storage_failures;

    if (!storage_ready(tick))
        return;
    load_unread(tick);
    while (tick->counters.storage_failures == failures && rounds-- > 0 &&
           swap_batch(tick, want_swap)) {
    }
    if (tick->counters.storage_failures == failures && tick->storage.pause_ms != 0)
        tell_end(tick, &tick->storage, "the run storage is back");
}

/* --- sending --------------------------------------------------------------------------------- */

static void add_runs(struct tick *tick, struct slot *slot, size_t *count)
{
    struct schedule_names names = schedules_names(slot->entry);
    size_t end = *count + SLOT_RUNS_MAX;

    for (int64_t due_s = slot->due_s;
         due_s <= slot->record.state.last_s && *count < TICK_BATCH && *count < end;
         due_s = schedule_after(&slot->entry->schedule, due_s)) {
        struct tick_run *run = &tick->runs[*count];

        *run = (struct tick_run){.entry = slot->entry, .due_s = due_s, .result = ERR_STATE};
        schedule_run_id(run->id, &names, due_s);
        tick->run_slots[(*count)++] = slot;
    }
}

static void run_ended(struct tick *tick, struct slot *slot, const struct tick_run *run)
{
    slot->due_s = schedule_after(&slot->entry->schedule, run->due_s);
    slot->pause_ms = 0;
    slot->retry_ms = 0;
    if (slot->due_s > slot->record.state.last_s)
        slot->state = SLOT_SENT;
    if (run->result == 0) {
        tick->counters.sent++;
        tell(tick, TICK_SENT, slot, run);
        return;
    }
    tick->counters.refused++;
    log_error(TARGET,
              LOG_FIELDS(log_str("entry", run->entry->key), log_str("id", run->id),
                         log_int("due", run->due_s), log_str("error", run->why.s)),
              "a run can never be sent and is given up; mend the entry");
}

/* The runs of one entry stand together and in order: the first that fails ends its turn. */
static bool count_results(struct tick *tick, size_t count)
{
    struct slot *failed = NULL;
    bool any_failed = false;

    for (size_t i = 0; i < count; i++) {
        struct slot *slot = tick->run_slots[i];
        const struct tick_run *run = &tick->runs[i];

        if (slot == failed)
            continue;
        if (run->result == 0 || run->refused) {
            run_ended(tick, slot, run);
            continue;
        }
        failed = slot;
        any_failed = true;
        tick->counters.failed_sends++;
        slot->retry_ms = back_off(tick, &slot->pause_ms, TICK_SEND_PAUSE_MS);
        tell_failure(tick, &tick->sending, "runs cannot be sent; they are tried again", run->why.s);
    }
    return any_failed;
}

/* True if there was something to send. */
static bool send_batch(struct tick *tick)
{
    size_t count = 0;
    bool failed;

    read_clock(tick);
    for (size_t i = 0; i < tick->count && count < TICK_BATCH; i++) {
        struct slot *slot = &tick->slots[(tick->cursor + i) % tick->count];

        if (slot->state == SLOT_OURS && tick->boot_ms >= slot->retry_ms && may_send(tick, slot))
            add_runs(tick, slot, &count);
    }
    if (count == 0)
        return false;
    tick->options.send(tick->options.ctx, tick->runs, count);
    read_clock(tick);
    failed = count_results(tick, count);
    if (!failed && tick->sending.since_ms != 0) {
        bool waiting = false;

        for (size_t i = 0; i < tick->count; i++)
            waiting |= tick->slots[i].pause_ms != 0;
        if (!waiting)
            tell_end(tick, &tick->sending, "runs are sent again");
    }
    return true;
}

/* --- turns ----------------------------------------------------------------------------------- */

static void look_at_clock(struct tick *tick)
{
    int64_t moved;

    read_clock(tick);
    moved = tick->wall_ms - tick->boot_ms - tick->offset_ms;
    tick->offset_ms += moved;
    if (!tick->turned || (moved < CLOCK_STEP_MS && moved > -CLOCK_STEP_MS)) {
        tick->turned = true;
        return;
    }
    log_warn(TARGET, LOG_FIELDS(log_int("by_ms", moved)), "the wall clock was set");
    for (size_t i = 0; i < tick->count; i++)
        if (tick->slots[i].state == SLOT_IDLE)
            tick->slots[i].next_s = ASK_NOW;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ms until this slot wants something; the storage's pause counts for what needs it. */
static int64_t slot_wait(const struct tick *tick, const struct slot *slot)
{
    int64_t storage_ms =
        tick->storage.pause_ms == 0 ? 0 : later(tick->storage.retry_ms - tick->boot_ms, 0);
    int64_t own_ms = 0;

    if (slot->state == SLOT_IDLE && slot->next_s != ASK_NOW)
        own_ms = slot->next_s > tick->wall_ms / 1000 + TICK_SLEEP_MAX_MS
                     ? TICK_SLEEP_MAX_MS
                     : slot->next_s * 1000 - tick->wall_ms;
    if (slot->state == SLOT_IDLE || slot->state == SLOT_THEIRS)
        own_ms = later(own_ms, slot->check_ms - tick->boot_ms);
    if (slot->state == SLOT_OURS)
        own_ms = later(slot->retry_ms - tick->boot_ms, 0);
    if (slot->state == SLOT_OURS &&
        slot->lease_ms - tick->boot_ms - own_ms >= (int64_t)tick->options.send_limit_ms)
        return own_ms;
    return later(own_ms, storage_ms);
}

static int64_t shortest_wait(const struct tick *tick)
{
    int64_t wait_ms = TICK_SLEEP_MAX_MS;

    for (size_t i = 0; i < tick->count; i++) {
        int64_t slot_ms = slot_wait(tick, &tick->slots[i]);

        wait_ms = slot_ms < wait_ms ? slot_ms : wait_ms;
    }
    return later(wait_ms, 0);
}

int64_t tick_turn(struct tick *tick)
{
    look_at_clock(tick);
    use_storage(tick);
    if (send_batch(tick))
        use_storage(tick);
    return shortest_wait(tick);
}

/* --- life ------------------------------------------------------------------------------------ */

static void free_slots(struct tick *tick)
{
    for (size_t i = 0; i < tick->count; i++)
        run_key_free(&tick->slots[i].key);
    mem_free(tick->slots);
    tick->slots = NULL;
    tick->count = 0;
}

static void fill_slots(struct tick *tick, const struct schedules *schedules)
{
    tick->slots = mem_calloc(schedules->count ? schedules->count : 1, sizeof *tick->slots);
    tick->count = schedules->count;
    tick->cursor = 0;
    for (size_t i = 0; i < tick->count; i++) {
        struct schedule_names names = schedules_names(&schedules->entries[i]);
        struct slot *slot = &tick->slots[i];

        *slot = (struct slot){.entry = &schedules->entries[i],
                              .memory_s = SCHEDULE_NEVER_RAN,
                              .next_s = ASK_NOW,
                              .record.foreign_s = SCHEDULE_NEVER_RAN};
        run_key_make(&slot->key, &names);
    }
}

struct tick *tick_new(const struct tick_options *options, const struct schedules *schedules)
{
    struct tick *tick = mem_zalloc(sizeof *tick);

    assert(options->lease_ms > 2 * options->send_limit_ms && options->owner[0] != '\0');
    tick->options = *options;
    tick->random = options->seed | 1;
    fill_slots(tick, schedules);
    return tick;
}

void tick_free(struct tick *tick)
{
    if (tick == NULL)
        return;
    free_slots(tick);
    mem_free(tick);
}

static bool want_release(struct tick *tick, struct slot *slot, struct run_swap *swap)
{
    if (slot->state == SLOT_SENT)
        want_ours(tick, slot, RUN_DONE, swap);
    else if (slot->state == SLOT_OURS)
        want_ours(tick, slot, RUN_RELEASE, swap);
    return slot->state == SLOT_SENT || slot->state == SLOT_OURS;
}

void tick_release(struct tick *tick)
{
    size_t rounds = 2 + tick->count / TICK_BATCH;

    for (size_t i = 0; i < rounds; i++)
        if (!swap_batch(tick, want_release))
            return;
}

void tick_replace(struct tick *tick, const struct schedules *schedules)
{
    tick_release(tick);
    free_slots(tick);
    fill_slots(tick, schedules);
}

struct tick_counters tick_counters(const struct tick *tick)
{
    return tick->counters;
}

bool tick_storage_down(const struct tick *tick)
{
    return tick->storage.pause_ms != 0;
}
