/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several schedulers in one model world: a storage that fails before or after it did what was
 * asked, a destination that fails, hangs or accepts without saying so, schedulers that die at any
 * call, stop for a while, and wake up, wall clocks that jump. Promises of run_storage.h: every due
 * run is sent at least once, all copies of a run have one id, and without faults each is sent once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "scheduler/tick.h"

#define START_S    1767225600 /* 2026-01-01 00:00:00 UTC */
#define ENTRIES    3
#define NODES      3
#define LEASE_MS   15000
#define LIMIT_MS   5000
#define RUNS_MAX   20000
#define FAIL_CALLS 1 /* bits of world.faults */
#define CRASHES    4
#define FAIL_SENDS 8
#define STEPS      16
#define STOPS      32

struct sent {
    int entry;
    int64_t due_s;
    char id[SCHEDULE_RUN_ID_SIZE];
    uint32_t copies;
};

struct stored {
    struct run_state state;
    int64_t lease_until_ms; /* boot */
    char value[RUN_VALUE_SIZE];
    int64_t value_until_ms; /* boot */
};

struct world {
    struct schedules schedules;
    struct schedules_entry entries[ENTRIES];
    char keys[ENTRIES][8];
    int64_t boot_ms, wall_ms;
    struct stored stored[ENTRIES];
    struct sent sent[RUNS_MAX];
    size_t sent_count;
    unsigned faults;
    bool calm, storage_down, target_down;
    uint64_t random;
};

struct node {
    struct run_storage storage; /* first: its functions find the node by it */
    struct world *world;
    struct tick *tick; /* NULL: not running */
    int number;
    uint32_t life;
    bool dead;
    int64_t wake_ms; /* boot */
};

static uint32_t chance(struct world *world, uint32_t below)
{
    world->random = world->random * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(world->random >> 33) % below;
}

static bool happens(struct world *world, unsigned fault, uint32_t one_in)
{
    return !world->calm && (world->faults & fault) != 0 && chance(world, one_in) == 0;
}

/* --- the model storage ----------------------------------------------------------------------- */

static size_t entry_of(const struct world *world, const struct run_key *key)
{
    for (size_t i = 0; i < ENTRIES; i++)
        if (strstr(key->forms[SCHEDULE_KEY], world->keys[i]) != NULL)
            return i;
    fail_msg("a key of no entry: %s", key->forms[SCHEDULE_KEY]);
    return 0;
}

static void read_stored(const struct world *world, const struct stored *stored,
                        struct run_record *out)
{
    char ours[RUN_VALUE_SIZE] = "";
    int64_t left = stored->lease_until_ms - world->boot_ms;

    *out = (struct run_record){
        .state = stored->state, .lease_ms = left > 0 ? left : 0, .foreign_s = SCHEDULE_NEVER_RAN};
    if (stored->state.known)
        run_value_print(ours, stored->state.last_s);
    if (stored->value_until_ms > world->boot_ms)
        memcpy(out->values[0], stored->value, sizeof stored->value);
    if (out->values[0][0] != '\0' && strcmp(out->values[0], ours) != 0)
        assert_int_equal(run_value_parse(out->values[0], &out->foreign_s), 0);
}

/* What a call meets: true means that it fails, *done whether it works before it does. */
static bool troubled(struct node *node, bool *done)
{
    struct world *world = node->world;

    *done = false;
    if (node->dead || world->storage_down)
        return true;
    if (happens(world, CRASHES, 60)) {
        node->dead = true;
        *done = chance(world, 2) == 0;
        return true;
    }
    if (happens(world, FAIL_CALLS, 20)) {
        *done = chance(world, 2) == 0;
        return true;
    }
    return false;
}

static int load(struct run_storage *storage, const struct run_key *const *keys, size_t count,
                struct run_record *out, struct err_text *why)
{
    struct node *node = (struct node *)storage;
    bool done;

    if (troubled(node, &done))
        return err_set(why, ERR_UNAVAILABLE, "model");
    for (size_t i = 0; i < count; i++)
        read_stored(node->world, &node->world->stored[entry_of(node->world, keys[i])], &out[i]);
    return 0;
}

static void swap_one(struct world *world, struct run_swap *swap, struct run_record *record)
{
    struct stored *stored = &world->stored[entry_of(world, swap->key)];
    struct run_record now;
    bool leased = swap->step == RUN_CLAIM || swap->step == RUN_TAKE || swap->step == RUN_RENEW;

    read_stored(world, stored, &now);
    swap->won = run_step_allowed(swap->step, swap->record, &now);
    if (swap->won) {
        stored->state = swap->next;
        stored->lease_until_ms = leased ? world->boot_ms + swap->lease_ms : 0;
    }
    if (swap->won && swap->step == RUN_CLAIM) {
        run_value_print(stored->value, swap->next.last_s);
        stored->value_until_ms = world->boot_ms + swap->value_ttl_ms;
    }
    read_stored(world, stored, record);
}

static int swap(struct run_storage *storage, struct run_swap *swaps, size_t count,
                struct err_text *why)
{
    struct node *node = (struct node *)storage;

    for (size_t i = 0; i < count; i++)
        swaps[i].settled = swaps[i].won = false;
    for (size_t i = 0; i < count; i++) {
        struct run_record record;
        bool done, fails = troubled(node, &done);

        if (!fails || done)
            swap_one(node->world, &swaps[i], &record);
        if (fails) {
            swaps[i].won = false;
            return err_set(why, ERR_TIMEOUT, "model");
        }
        *swaps[i].record = record;
        swaps[i].settled = true;
    }
    return 0;
}

static const char *name(const struct run_storage *storage)
{
    (void)storage;
    return "model";
}

static void close_storage(struct run_storage *storage)
{
    (void)storage;
}

static const struct run_storage_ops ops = {load, swap, name, close_storage};

/* --- the model destination ------------------------------------------------------------------- */

static void deliver(struct world *world, const struct tick_run *run)
{
    int entry = (int)(run->entry - world->entries);

    for (size_t i = world->sent_count; i-- > 0;)
        if (world->sent[i].entry == entry && world->sent[i].due_s == run->due_s) {
            assert_string_equal(world->sent[i].id, run->id);
            world->sent[i].copies++;
            return;
        }
    assert_true(world->sent_count < RUNS_MAX);
    world->sent[world->sent_count] =
        (struct sent){.entry = entry, .due_s = run->due_s, .copies = 1};
    memcpy(world->sent[world->sent_count++].id, run->id, sizeof run->id);
}

static void send_runs(void *ctx, struct tick_run *runs, size_t count)
{
    struct node *node = (struct node *)ctx;
    struct world *world = node->world;

    for (size_t i = 0; i < count; i++) {
        bool fails = node->dead || world->target_down || happens(world, FAIL_SENDS, 6);
        bool dies = !node->dead && happens(world, CRASHES, 40);

        if (!node->dead && !world->target_down && (!fails || chance(world, 2) == 0))
            deliver(world, &runs[i]);
        node->dead |= dies;
        runs[i].result = fails || node->dead ? ERR_TIMEOUT : 0;
        if (runs[i].result != 0)
            err_set(&runs[i].why, ERR_TIMEOUT, "model");
    }
    if (world->target_down)
        world->boot_ms += LIMIT_MS - 1, world->wall_ms += LIMIT_MS - 1;
}

static void now(void *ctx, int64_t *wall_ms, int64_t *boot_ms)
{
    struct node *node = (struct node *)ctx;

    *wall_ms = node->world->wall_ms;
    *boot_ms = node->world->boot_ms;
}

/* --- the world ------------------------------------------------------------------------------- */

static void make_world(struct world *world, uint64_t seed, unsigned faults)
{
    static const int64_t intervals[ENTRIES] = {2, 7, 0};

    *world = (struct world){.boot_ms = 1000000,
                            .wall_ms = START_S * 1000LL,
                            .random = seed * 2654435761 + 1,
                            .faults = faults};
    for (int i = 0; i < ENTRIES; i++) {
        struct schedules_entry *entry = &world->entries[i];

        (void)snprintf(world->keys[i], sizeof world->keys[i], "entry%d", i);
        *entry = (struct schedules_entry){.key = world->keys[i],
                                          .namespace = (char *)(uintptr_t) "ns",
                                          .task = (char *)(uintptr_t) "task",
                                          .id = (char *)(uintptr_t) "id"};
        entry->schedule.missed = SCHEDULE_MISSED_ALL;
        entry->schedule.missed_limit = SCHEDULE_MISSED_LIMIT_MAX;
        entry->schedule.interval_s = intervals[i];
        if (intervals[i] == 0) {
            entry->schedule.kind = SCHEDULE_CRONTAB;
            assert_int_equal(crontab_parse(&entry->schedule.crontab, bytes_str("* * * * *"), NULL),
                             0);
        }
    }
    world->schedules = (struct schedules){.entries = world->entries, .count = ENTRIES};
}

static void start_node(struct node *node)
{
    struct tick_options options = {.storage = &node->storage,
                                   .now = now,
                                   .send = send_runs,
                                   .ctx = node,
                                   .lease_ms = LEASE_MS,
                                   .send_limit_ms = LIMIT_MS,
                                   .seed = chance(node->world, UINT32_MAX)};

    node->storage.ops = &ops;
    node->dead = false;
    (void)snprintf(options.owner, sizeof options.owner, "node%d-%u", node->number, ++node->life);
    node->tick = tick_new(&options, &node->world->schedules);
    node->wake_ms = node->world->boot_ms;
}

static void stop_node(struct node *node, bool cleanly)
{
    if (cleanly)
        tick_release(node->tick);
    tick_free(node->tick);
    node->tick = NULL;
    node->wake_ms = node->world->boot_ms + 1000;
}

static void run_node(struct node *node)
{
    struct world *world = node->world;
    int64_t wait_ms;

    if (node->tick == NULL) {
        start_node(node);
        return;
    }
    wait_ms = tick_turn(node->tick);
    assert_true(wait_ms >= 0 && wait_ms <= TICK_SLEEP_MAX_MS);
    node->wake_ms = world->boot_ms + wait_ms + chance(world, 3);
    if (node->dead || happens(world, CRASHES, 400))
        stop_node(node, !node->dead);
    else if (happens(world, STOPS, 300))
        node->wake_ms += 40000; /* SIGSTOP, longer than a lease */
    if (happens(world, STEPS, 500))
        world->wall_ms += (int64_t)chance(world, 8000) - 4000;
}

static void run_world(struct world *world, struct node *nodes, size_t count, int64_t for_ms)
{
    int64_t until_ms = world->boot_ms + for_ms;
    uint32_t turns = 0;

    while (world->boot_ms < until_ms) {
        struct node *next = &nodes[0];

        for (size_t i = 1; i < count; i++)
            if (nodes[i].wake_ms < next->wake_ms)
                next = &nodes[i];
        if (next->wake_ms >= until_ms) {
            world->wall_ms += until_ms - world->boot_ms;
            world->boot_ms = until_ms;
            break;
        }
        if (next->wake_ms > world->boot_ms) {
            world->wall_ms += next->wake_ms - world->boot_ms;
            world->boot_ms = next->wake_ms;
        }
        run_node(next);
        if (++turns > 400000)
            fail_msg("a busy loop: %u turns in %" PRId64 " ms", turns, for_ms);
    }
}

static void make_nodes(struct node *nodes, size_t count, struct world *world)
{
    memset(nodes, 0, count * sizeof *nodes);
    for (size_t i = 0; i < count; i++)
        nodes[i] = (struct node){.world = world, .number = (int)i, .wake_ms = world->boot_ms};
}

static void end_nodes(struct node *nodes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        tick_free(nodes[i].tick);
}

static const struct sent *find(const struct world *world, int entry, int64_t due_s)
{
    for (size_t i = 0; i < world->sent_count; i++)
        if (world->sent[i].entry == entry && world->sent[i].due_s == due_s)
            return &world->sent[i];
    return NULL;
}

/* Each due time from the first one sent to `until_s` was sent; no other was. */
static void check_all_sent(const struct world *world, int64_t until_s, bool once, uint64_t seed)
{
    for (int entry = 0; entry < ENTRIES; entry++) {
        const struct schedule *schedule = &world->entries[entry].schedule;
        size_t expected = 0, found = 0;
        int64_t due_s = INT64_MAX;

        for (size_t i = 0; i < world->sent_count; i++)
            if (world->sent[i].entry == entry) {
                found++;
                due_s = world->sent[i].due_s < due_s ? world->sent[i].due_s : due_s;
                if (once && world->sent[i].copies != 1)
                    fail_msg("seed %" PRIu64 ": entry %d, due %" PRId64 ": sent %u times", seed,
                             entry, world->sent[i].due_s - START_S, world->sent[i].copies);
            }
        assert_true(found > 0);
        for (; due_s <= until_s; due_s = schedule_after(schedule, due_s), expected++)
            if (find(world, entry, due_s) == NULL)
                fail_msg("seed %" PRIu64 ": entry %d, due %" PRId64 ": lost", seed, entry,
                         due_s - START_S);
        for (size_t i = 0; i < world->sent_count; i++)
            expected += world->sent[i].entry == entry && world->sent[i].due_s > until_s;
        if (found != expected)
            fail_msg("seed %" PRIu64 ": entry %d: %zu runs, %zu of them due", seed, entry, found,
                     expected);
    }
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_once_without_faults(void **state)
{
    static struct world world;
    struct node nodes[NODES];

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        make_world(&world, seed, 0);
        make_nodes(nodes, NODES, &world);
        run_world(&world, nodes, NODES, 300000);
        check_all_sent(&world, START_S + 299, true, seed);
        end_nodes(nodes, NODES);
    }
}

static void test_clean_restarts(void **state)
{
    static struct world world;
    struct node nodes[NODES];

    (void)state;
    make_world(&world, 1, 0);
    make_nodes(nodes, NODES, &world);
    for (int i = 0; i < 60; i++) {
        run_world(&world, nodes, NODES, 3000 + (int64_t)chance(&world, 2000));
        if (nodes[i % NODES].tick != NULL)
            stop_node(&nodes[i % NODES], true);
    }
    run_world(&world, nodes, NODES, 10000);
    check_all_sent(&world, world.wall_ms / 1000 - 1, true, 1);
    end_nodes(nodes, NODES);
}

static void test_every_fault(void **state)
{
    static const unsigned kinds[] = {FAIL_CALLS,
                                     CRASHES,
                                     FAIL_SENDS,
                                     STOPS,
                                     FAIL_CALLS | CRASHES | FAIL_SENDS | STOPS,
                                     FAIL_CALLS | CRASHES | FAIL_SENDS | STOPS | STEPS};
    static struct world world;
    struct node nodes[NODES];

    (void)state;
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++)
        for (uint64_t seed = 1; seed <= 40; seed++) {
            make_world(&world, seed * 100 + kind, kinds[kind]);
            make_nodes(nodes, NODES, &world);
            run_world(&world, nodes, NODES, 300000);
            world.calm = true;
            run_world(&world, nodes, NODES, 120000);
            check_all_sent(&world, world.wall_ms / 1000 - 30, false, seed * 100 + kind);
            end_nodes(nodes, NODES);
        }
}

static size_t count_sent(const struct world *world, int entry)
{
    size_t count = 0;

    for (size_t i = 0; i < world->sent_count; i++)
        count += world->sent[i].entry == entry;
    return count;
}

static void test_client_weakness_29_storage_outage(void **state)
{
    static struct world world;
    struct node node;
    size_t before;

    (void)state;
    make_world(&world, 3, 0);
    make_nodes(&node, 1, &world);
    run_world(&world, &node, 1, 20000);
    before = world.sent_count;
    world.storage_down = true;
    run_world(&world, &node, 1, 100000);
    assert_int_equal(world.sent_count, before);
    assert_true(tick_storage_down(node.tick));
    /* Not a busy loop: the pauses reach 15 s. */
    assert_in_range(tick_counters(node.tick).storage_failures, 5, 25);
    world.storage_down = false;
    run_world(&world, &node, 1, 30000);
    assert_false(tick_storage_down(node.tick));
    check_all_sent(&world, world.wall_ms / 1000 - 3, true, 3);
    end_nodes(&node, 1);
}

static void test_missed_policies_after_outage(void **state)
{
    static struct world world;
    struct node node;

    (void)state;
    make_world(&world, 3, 0);
    world.entries[0].schedule.missed = SCHEDULE_MISSED_ONE;
    world.entries[1].schedule.missed_limit = 3;
    make_nodes(&node, 1, &world);
    run_world(&world, &node, 1, 9500);
    assert_int_equal(count_sent(&world, 0), 5); /* 0 2 4 6 8 */
    assert_int_equal(count_sent(&world, 1), 2); /* 0 7 */
    stop_node(&node, true);
    world.boot_ms += 60000, world.wall_ms += 60000;
    node.wake_ms = world.boot_ms;
    run_world(&world, &node, 1, 10);
    assert_int_equal(count_sent(&world, 0), 6);
    assert_non_null(find(&world, 0, START_S + 68)); /* the phase is kept */
    assert_int_equal(count_sent(&world, 1), 5);
    assert_non_null(find(&world, 1, START_S + 63));
    assert_null(find(&world, 1, START_S + 42));
    end_nodes(&node, 1);
}

static void test_client_weakness_30_target_outage(void **state)
{
    static struct world world;
    struct node nodes[2];

    (void)state;
    make_world(&world, 4, 0);
    make_nodes(nodes, 2, &world);
    world.target_down = true;
    run_world(&world, nodes, 2, 120000);
    assert_int_equal(world.sent_count, 0);
    world.target_down = false;
    run_world(&world, nodes, 2, 60000);
    check_all_sent(&world, world.wall_ms / 1000 - 3, true, 4);
    end_nodes(nodes, 2);
}

static void test_take_over_after_the_lease(void **state)
{
    static struct world world;
    struct node nodes[2];

    (void)state;
    make_world(&world, 5, 0);
    make_nodes(nodes, 2, &world);
    nodes[1].wake_ms = INT64_MAX;
    world.target_down = true;
    run_world(&world, nodes, 1, 1000); /* claims, cannot send */
    tick_free(nodes[0].tick);          /* killed */
    nodes[0] = (struct node){.world = &world, .wake_ms = INT64_MAX};
    nodes[1].wake_ms = world.boot_ms;
    world.target_down = false;
    run_world(&world, nodes + 1, 1, 5000);
    assert_int_equal(world.sent_count, 0);
    run_world(&world, nodes + 1, 1, LEASE_MS);
    assert_non_null(find(&world, 0, START_S));
    assert_int_equal(tick_counters(nodes[1].tick).take_overs, ENTRIES);
    end_nodes(nodes, 2);
}

/* Without the storage there is no new lease, and without a lease nothing is sent: by then another
 * scheduler may have taken over. */
static void test_nothing_is_sent_without_a_lease(void **state)
{
    static struct world world;
    struct node node;

    (void)state;
    make_world(&world, 9, 0);
    make_nodes(&node, 1, &world);
    world.target_down = true;
    run_world(&world, &node, 1, 2000);
    assert_true(world.stored[0].state.open);
    world.storage_down = true;
    run_world(&world, &node, 1, 2 * LEASE_MS);
    world.target_down = false;
    run_world(&world, &node, 1, 60000);
    assert_int_equal(world.sent_count, 0);
    world.storage_down = false;
    run_world(&world, &node, 1, 60000);
    check_all_sent(&world, world.wall_ms / 1000 - 3, true, 9);
    end_nodes(&node, 1);
}

static void test_release_spares_the_lease(void **state)
{
    static struct world world;
    struct node node;

    (void)state;
    make_world(&world, 6, 0);
    make_nodes(&node, 1, &world);
    world.target_down = true;
    run_world(&world, &node, 1, 1000);
    world.target_down = false;
    stop_node(&node, true);
    run_world(&world, &node, 1, 1100);
    assert_non_null(find(&world, 0, START_S));
    end_nodes(&node, 1);
}

/* No drift: a loop that is 150 ms late each time still sends each minute's run. */
static void test_client_weakness_32_no_drift(void **state)
{
    static struct world world;
    struct node node;
    int64_t until_ms;

    (void)state;
    make_world(&world, 7, 0);
    world.schedules.entries = &world.entries[2];
    world.schedules.count = 1;
    make_nodes(&node, 1, &world);
    start_node(&node);
    until_ms = world.boot_ms + 24LL * 3600 * 1000;
    while (world.boot_ms < until_ms) {
        int64_t wait_ms = tick_turn(node.tick) + 150;

        world.boot_ms += wait_ms;
        world.wall_ms += wait_ms;
    }
    assert_in_range(count_sent(&world, 2), 1440, 1441);
    end_nodes(&node, 1);
}

/* A scheduler of the original, by spec/client.md 7: whole seconds, SET NX, the time of sending. */
struct original {
    struct world *world;
    int64_t last_s, wake_ms;
};

static void run_original(struct original *python, int entry)
{
    struct world *world = python->world;
    struct stored *stored = &world->stored[entry];
    int64_t delta = world->entries[entry].schedule.interval_s, now_s = world->wall_ms / 1000;
    struct tick_run run = {.entry = &world->entries[entry], .due_s = now_s};

    if (python->last_s != 0 && now_s - python->last_s < delta) {
        python->wake_ms = world->boot_ms + (delta - (now_s - python->last_s)) * 1000;
        return;
    }
    if (stored->value_until_ms > world->boot_ms) {
        assert_int_equal(run_value_parse(stored->value, &python->last_s), 0);
        python->wake_ms = world->boot_ms + 1;
        return;
    }
    run_value_print(stored->value, now_s);
    /* The fraction makes it unlike anything that ours write. */
    memcpy(stored->value + 19, ".000500+00:00", sizeof ".000500+00:00");
    stored->value_until_ms = world->boot_ms + (delta > 1 ? delta - 1 : 1) * 1000;
    python->last_s = now_s;
    (void)snprintf(run.id, sizeof run.id, "python%" PRId64, now_s);
    deliver(world, &run);
    python->wake_ms = world->boot_ms + 1;
}

static void test_beside_the_original(void **state)
{
    static struct world world;
    struct node node;

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct original python = {.world = &world};
        int64_t until_ms;

        make_world(&world, seed, 0);
        world.schedules.count = 1;
        make_nodes(&node, 1, &world);
        /* A key of theirs lives a second less than the interval: whoever starts in that second
         * finds none and runs at once. */
        python.wake_ms = world.boot_ms + chance(&world, 900);
        start_node(&node);
        node.wake_ms = world.boot_ms + chance(&world, 900);
        until_ms = world.boot_ms + 100000;
        while (world.boot_ms < until_ms) {
            bool theirs = python.wake_ms < node.wake_ms;
            int64_t next_ms = theirs ? python.wake_ms : node.wake_ms;

            if (next_ms > world.boot_ms) {
                world.wall_ms += next_ms - world.boot_ms;
                world.boot_ms = next_ms;
            }
            if (theirs)
                run_original(&python, 0);
            else
                run_node(&node);
            if (!theirs) /* late, on a busy machine: else ours would always be first */
                node.wake_ms += chance(&world, 700);
        }
        /* Every two seconds one run, by whomever. */
        if (world.sent_count < 49 || world.sent_count > 51)
            fail_msg("seed %" PRIu64 ": %zu runs in 100 s", seed, world.sent_count);
        for (size_t i = 1; i < world.sent_count; i++)
            if (world.sent[i].due_s - world.sent[i - 1].due_s != 2)
                fail_msg("seed %" PRIu64 ": runs at %" PRId64 " and %" PRId64, seed,
                         world.sent[i - 1].due_s - START_S, world.sent[i].due_s - START_S);
        end_nodes(&node, 1);
    }
}

static void refuse_all(void *ctx, struct tick_run *runs, size_t count)
{
    (void)ctx;
    for (size_t i = 0; i < count; i++) {
        runs[i].result = err_set(&runs[i].why, ERR_TOO_LARGE, "model");
        runs[i].refused = true;
    }
}

static void test_refused_run_is_given_up(void **state)
{
    static struct world world;
    struct node node;
    struct tick_options options = {.now = now,
                                   .send = refuse_all,
                                   .ctx = &node,
                                   .owner = "me",
                                   .lease_ms = LEASE_MS,
                                   .send_limit_ms = LIMIT_MS};

    (void)state;
    make_world(&world, 8, 0);
    make_nodes(&node, 1, &world);
    node.storage.ops = &ops;
    options.storage = &node.storage;
    node.tick = tick_new(&options, &world.schedules);
    assert_in_range(tick_turn(node.tick), 1000, 2000);
    assert_int_equal(tick_counters(node.tick).refused, ENTRIES);
    assert_false(world.stored[0].state.open);
    end_nodes(&node, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_once_without_faults),
                                       cmocka_unit_test(test_clean_restarts),
                                       cmocka_unit_test(test_every_fault),
                                       cmocka_unit_test(test_client_weakness_29_storage_outage),
                                       cmocka_unit_test(test_missed_policies_after_outage),
                                       cmocka_unit_test(test_client_weakness_30_target_outage),
                                       cmocka_unit_test(test_take_over_after_the_lease),
                                       cmocka_unit_test(test_nothing_is_sent_without_a_lease),
                                       cmocka_unit_test(test_release_spares_the_lease),
                                       cmocka_unit_test(test_client_weakness_32_no_drift),
                                       cmocka_unit_test(test_beside_the_original),
                                       cmocka_unit_test(test_refused_run_is_given_up)};

    (void)log_init(LOG_TEXT, "off", NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
