/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/meters.h"

struct found {
    const char *name;
    struct bytes values[METRIC_LABELS_MAX];
    size_t series;
    uint64_t counter;
};

static void find(void *arg, const struct metric_view *view)
{
    struct found *found = arg;
    if (strcmp(view->def->name, found->name) != 0)
        return;
    found->series++;
    for (size_t i = 0; i < view->label_count; i++)
        if (!bytes_equal(view->values[i], found->values[i]))
            return;
    found->counter += view->counter;
}

static struct found look(const struct meters *meters, const char *name, const char *first,
                         const char *second)
{
    struct found found = {.name = name, .values = {bytes_str(first), bytes_str(second)}};
    metrics_visit(meters_registry(meters), find, &found);
    return found;
}

static void families_are_sound(void **state)
{
    (void)state;
    struct meters *meters = meters_new(); /* asserts that names are unique */
    for (int i = 0; i < METERS; i++) {
        const struct metric_def *def = meter_def((enum meter)i);
        assert_true(strlen(def->name) > 0 && strlen(def->help) > 0);
        assert_int_equal(strspn(def->name, "abcdefghijklmnopqrstuvwxyz_."), strlen(def->name));
        assert_true(def->scale == 1 || def->scale == METER_US || def->scale == METER_MS);
        assert_true(def->kind != METRIC_COUNTER || def->scale == 1);
    }
    meters_free(meters);
    meters_free(NULL);
}

static void known_counters_exist_from_the_start(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    assert_int_equal(look(meters, "upkeep.task.state_transition", "failed", "").series, 3);
    assert_int_equal(look(meters, "upkeep.cleanup_action", "removed_expired", "").series, 6);
    assert_int_equal(look(meters, "enqueue.activations", "", "").series, 1);
    assert_int_equal(look(meters, "filter.drop_task_killswitch", "", "").series, 0);
    meters_free(meters);
}

static void counts_with_and_without_tags(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    const struct bytes *tags = METER_TAGS(bytes_str("completed"));
    meter_add_tagged(meters, METER_TRANSITIONS, tags, 2);
    metric_add(meter_series(meters, METER_TRANSITIONS, tags), 3);
    assert_int_equal(look(meters, "upkeep.task.state_transition", "completed", "").counter, 5);
    meter_add(meters, METER_ENQUEUED, 7);
    assert_int_equal(look(meters, "enqueue.activations", "", "").counter, 7);
    meters_free(meters);
}

static void a_cache_finds_the_same_series(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    static struct meter_cache cache;
    char names[1000][8]; /* more than there are slots: they push each other out */
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(names[i], sizeof names[i], "n%d", i);
            const struct bytes *tags = METER_TAGS(bytes_str("ns"), bytes_str(names[i]));
            struct metric *cached = meter_cached(&cache, meters, METER_FORWARDED_TASK, tags);
            assert_ptr_equal(cached, meter_series(meters, METER_FORWARDED_TASK, tags));
            metric_add(cached, 1);
        }
    const char *name = "upkeep.forward_task_demoted_namespace";
    assert_int_equal(look(meters, name, "ns", "n17").counter, 2);
    assert_int_equal(look(meters, name, "ns", "n17").series, 1000);
    /* values that differ only in how they are cut into labels, or in the middle */
    assert_ptr_not_equal(meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                      METER_TAGS(bytes_str("a"), bytes_str("0123456701234567"))),
                         meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                      METER_TAGS(bytes_str("a"), bytes_str("9123456701234567"))));
    meters_free(meters);
}

static void strangers_cannot_make_endless_series(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    struct meter_cache cache = {{NULL}};
    for (int i = 0; i < METERS_SERIES_MAX + 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "task-%d", i);
        metric_add(meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                METER_TAGS(bytes_str("ns"), bytes_str(name))),
                   1);
    }
    struct found found = look(meters, "upkeep.forward_task_demoted_namespace", "other", "other");
    assert_in_range(found.series, METERS_SERIES_MAX - 200, METERS_SERIES_MAX + 1);
    assert_true(found.counter >= 10);
    assert_int_equal(found.counter + found.series - 1, METERS_SERIES_MAX + 10);
    meters_free(meters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_sound),
        cmocka_unit_test(known_counters_exist_from_the_start),
        cmocka_unit_test(counts_with_and_without_tags),
        cmocka_unit_test(a_cache_finds_the_same_series),
        cmocka_unit_test(strangers_cannot_make_endless_series),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
