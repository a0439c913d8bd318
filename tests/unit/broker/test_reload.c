/* SPDX-License-Identifier: Apache-2.0 */
/* When the runtime configuration is read, what stays in force, and where demoted tasks go. */
#include "config_fixture.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "broker/reload.h"

#define NONE  "drop_task_killswitch: []\ndemoted_namespaces: []\n"
#define OTHER "drop_task_killswitch: [t]\ndemoted_namespaces: [n]\n"

struct place {
    char folder[64], path[96];
    struct loaded loaded;
    struct reload *reload;
};

static void write_file(const struct place *place, const char *text)
{
    FILE *file = fopen(place->path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void open_place(struct place *place, const char *config)
{
    struct buf text = {0};
    log_init(LOG_TEXT, "off", NULL);
    snprintf(place->folder, sizeof place->folder, "/tmp/test_reload.XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    snprintf(place->path, sizeof place->path, "%s/r.yml", place->folder);
    buf_printf(&text, "%sruntime_config_path: %s\n", config, place->path);
    place->loaded = load_ok(buf_cstr(&text), NO_ENV);
    buf_free(&text);
    place->reload = reload_new(place->loaded.cfg);
}

static void close_place(struct place *place)
{
    reload_free(place->reload);
    unload(&place->loaded);
    unlink(place->path);
    assert_int_equal(rmdir(place->folder), 0);
}

static void drop(struct engine_rules *rules)
{
    runtime_unref(rules->runtime);
    mem_free(rules->forward_topic);
    mem_free(rules->forward_cluster);
    mem_free(rules);
}

static void expect_rules(struct engine_rules *rules, size_t count)
{
    assert_non_null(rules);
    assert_int_equal(rules->event.kind, EVENT_RULES);
    assert_int_equal(runtime_rule_count(rules->runtime), count);
    drop(rules);
}

static void only_news_reach_the_engine(void **state)
{
    (void)state;
    struct place place;
    open_place(&place, KAFKA);
    assert_null(reload_read(place.reload, 0)); /* no file yet: no rules */
    write_file(&place, NONE);
    expect_rules(reload_read(place.reload, 0), 0);
    assert_null(reload_read(place.reload, 0));
    write_file(&place, OTHER);
    expect_rules(reload_read(place.reload, 0), 1);
    write_file(&place, "# the same\n" OTHER);
    assert_null(reload_read(place.reload, 0));
    write_file(&place, "drop_task_killswitch: [\n"); /* broken: what was read stays */
    assert_null(reload_read(place.reload, 0));
    write_file(&place, OTHER);
    assert_null(reload_read(place.reload, 0));
    unlink(place.path);
    assert_null(reload_read(place.reload, 0));
    write_file(&place, NONE);
    expect_rules(reload_read(place.reload, 0), 0);
    close_place(&place);
}

static void polled_every_minute(void **state)
{
    (void)state;
    struct place place;
    open_place(&place, KAFKA);
    write_file(&place, NONE);
    expect_rules(reload_read(place.reload, 1000), 0);
    write_file(&place, OTHER);
    assert_null(reload_poll(place.reload, 60999));
    expect_rules(reload_poll(place.reload, 61000), 1);
    write_file(&place, NONE);
    assert_null(reload_poll(place.reload, 120999));
    expect_rules(reload_poll(place.reload, 121000), 0);
    close_place(&place);
}

static void without_a_path(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(KAFKA, NO_ENV);
    struct reload *reload = reload_new(loaded.cfg);
    assert_null(reload_read(reload, 0));
    assert_null(reload_poll(reload, 1000000));
    reload_free(reload);
    unload(&loaded);
}

/* --- where demoted tasks go ------------------------------------------------------------------- */

#define CLUSTERS                                                                   \
    "kafka_clusters: {main: {address: \"k:9092\"}, dead: {address: \"d:9092\"}}\n" \
    "kafka_topics:\n"                                                              \
    "  work: {cluster: main, consumer_group: g}\n"                                 \
    "  slow: {cluster: dead, consumer_group: g}\n"                                 \
    "  off: {cluster: dead, consumer_group: g, consumer_disabled: true}\n"         \
    "  taskworker-dlq: {cluster: dead, consumer_group: g, produce_only: true}\n"   \
    "kafka_retry_topic: taskworker-dlq\n"

static void targets(void **state)
{
    (void)state;
    static const struct {
        const char *keys, *topic, *cluster;
        bool forwards;
    } cases[] = {
        {"", "taskworker-long", NULL, true},
        {"demoted_topic: far\n", "far", NULL, true},
        {"demoted_topic: slow\n", "slow", NULL, false}, /* consumed here */
        {"demoted_topic: work\n", "work", NULL, true},  /* consumed, but on another cluster */
        {"demoted_topic: work\ndemoted_topic_cluster: k:9092\n", "work", "k:9092", false},
        {"demoted_topic: slow\ndemoted_topic_cluster: k:9092\n", "slow", "k:9092", true},
        {"demoted_topic: slow\ndemoted_topic_cluster: x:1,y:2\n", "slow", "x:1,y:2", true},
        {"demoted_topic_cluster: d:9092\n", "taskworker-long", NULL, true},
        {"demoted_topic: off\n", "off", NULL, true}, /* nobody reads it here */
        {"demoted_topic: taskworker-dlq\n", "taskworker-dlq", NULL, true},
    };
    struct place place;
    open_place(&place, CLUSTERS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf text = {0};
        buf_printf(&text, OTHER "%s# case %zu\n", cases[i].keys, i);
        write_file(&place, buf_cstr(&text));
        buf_free(&text);
        struct engine_rules *rules = reload_read(place.reload, 0);
        assert_non_null(rules);
        assert_string_equal(rules->forward_topic, cases[i].topic);
        assert_int_equal(rules->forwards, cases[i].forwards);
        if (cases[i].cluster)
            assert_string_equal(rules->forward_cluster, cases[i].cluster);
        else
            assert_null(rules->forward_cluster);
        drop(rules);
    }
    close_place(&place);
}

static void embedded_has_one_cluster(void **state)
{
    (void)state;
    struct place place;
    open_place(&place, "embedded: true\nkafka_long_topic: later\n");
    write_file(&place, OTHER "demoted_topic_cluster: k:9092\n");
    struct engine_rules *rules = reload_read(place.reload, 0);
    assert_non_null(rules);
    assert_true(rules->forwards);
    assert_string_equal(rules->forward_topic, "later");
    assert_null(rules->forward_cluster);
    drop(rules);
    write_file(&place, OTHER "demoted_topic: taskworker\n");
    rules = reload_read(place.reload, 0);
    assert_non_null(rules);
    assert_false(rules->forwards);
    drop(rules);
    close_place(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_news_reach_the_engine),
        cmocka_unit_test(polled_every_minute),
        cmocka_unit_test(without_a_path),
        cmocka_unit_test(targets),
        cmocka_unit_test(embedded_has_one_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
