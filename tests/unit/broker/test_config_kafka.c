/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of spec/broker.md 2.5, by number, and the embedded mode. */
#include "config_fixture.h"

static const struct config_topic *topic(const struct loaded *l, const char *name)
{
    const struct config_topic *found = config_topic_find(l->cfg, name);

    assert_non_null(found);
    return found;
}

static const struct config_cluster *cluster_of(const struct loaded *l, const char *name)
{
    return &l->cfg->clusters[topic(l, name)->cluster];
}

static void nothing_configured_is_the_legacy_default(void **state)
{
    (void)state;
    struct loaded l = load_ok("", NO_ENV);

    assert_int_equal(l.cfg->topic_count, 2);
    assert_int_equal(l.cfg->cluster_count, 2);
    assert_string_equal(topic(&l, "taskworker")->consumer_group, "taskworker");
    assert_false(topic(&l, "taskworker")->produce_only);
    assert_true(config_topic_is_consumed(topic(&l, "taskworker")));
    assert_string_equal(cluster_of(&l, "taskworker")->name, "default");
    assert_string_equal(cluster_of(&l, "taskworker")->address, "127.0.0.1:9092");
    assert_true(topic(&l, "taskworker-dlq")->produce_only);
    assert_string_equal(cluster_of(&l, "taskworker-dlq")->name, "deadletter");
    assert_string_equal(cluster_of(&l, "taskworker-dlq")->address, "127.0.0.1:9092");
    assert_string_equal(l.cfg->kafka_retry_topic, "taskworker");
    assert_int_equal(config_origin(l.cfg, "kafka_retry_topic").source, CONFIG_FROM_DERIVED);
    assert_int_equal(topic(&l, "taskworker")->session_timeout_ms, 6000);
    assert_int_equal(topic(&l, "taskworker")->auto_commit_interval_ms, 5000);
    assert_string_equal(topic(&l, "taskworker")->auto_offset_reset, "latest");
    unload(&l);
}

static void a_broker_of_a_pool_starts_from_three_variables(void **state)
{
    (void)state;
    struct loaded l = load_ok("", ENV("TASKBROKER_KAFKA_CLUSTER=kafka:9092",
                                      "TASKBROKER_KAFKA_DEADLETTER_CLUSTER=kafka:9092",
                                      "TASKBROKER_DB_PATH=/opt/sqlite/taskbroker-beta.sqlite"));

    assert_string_equal(cluster_of(&l, "taskworker")->address, "kafka:9092");
    assert_string_equal(cluster_of(&l, "taskworker-dlq")->address, "kafka:9092");
    assert_string_equal(l.cfg->store.sqlite.path, "/opt/sqlite/taskbroker-beta.sqlite");
    struct config_origin from = config_origin(l.cfg, "kafka_clusters.default.address");
    assert_string_equal(from.name, "TASKBROKER_KAFKA_CLUSTER");
    assert_string_equal(from.deprecated, "kafka_cluster");
    unload(&l);
}

static void legacy_security_is_not_inherited(void **state)
{
    (void)state;
    struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
    struct loaded l = load_ok("kafka_cluster: a:1\nkafka_topic: t\nkafka_consumer_group: g\n"
                              "kafka_security_protocol: sasl_ssl\nkafka_sasl_mechanism: PLAIN\n"
                              "kafka_sasl_username: u\nkafka_sasl_password: p\n"
                              "kafka_ssl_ca_location: /ca\nkafka_ssl_certificate_location: /c\n"
                              "kafka_ssl_key_location: /k\nkafka_deadletter_sasl_username: d\n",
                              NO_ENV);

    assert_int_equal(config_kafka_properties(cluster_of(&l, "t"), properties), 7);
    assert_string_equal(properties[0].name, "security.protocol");
    assert_string_equal(properties[0].value, "sasl_ssl");
    assert_string_equal(properties[3].name, "sasl.password");
    assert_string_equal(properties[3].value, "p");
    assert_string_equal(properties[6].name, "ssl.key.location");
    assert_int_equal(config_kafka_properties(cluster_of(&l, "taskworker-dlq"), properties), 1);
    assert_string_equal(properties[0].name, "sasl.username");
    assert_string_equal(properties[0].value, "d");
    assert_string_equal(topic(&l, "t")->consumer_group, "g");
    unload(&l);
}

static void rule_1_formats_do_not_mix(void **state)
{
    (void)state;
    expect_error(KAFKA "kafka_topic: x\n", NO_ENV, ERR_INVALID,
                 "c.yml:5: cannot mix the deprecated key kafka_topic with kafka_topics");
    expect_error(KAFKA, ENV("TASKBROKER_RAW_MODE=false"), ERR_INVALID,
                 "environment TASKBROKER_RAW_MODE: cannot mix the deprecated key raw_mode");
    struct loaded l = load_ok(KAFKA "kafka_topic: null\nraw_namespace: x\n", NO_ENV);
    assert_int_equal(l.cfg->topic_count, 2);
    unload(&l);
}

static void rule_2_topics_need_clusters(void **state)
{
    (void)state;
    expect_error("kafka_clusters: {a: {address: x}}", NO_ENV, ERR_INVALID,
                 "kafka_clusters is set but kafka_topics is empty");
    expect_error("kafka_topics: {a: {cluster: x, consumer_group: g}}", NO_ENV, ERR_INVALID,
                 "kafka_topics is set but kafka_clusters is empty");
    expect_error("kafka_clusters: {a: {}}\nkafka_topics: {t: {cluster: a, consumer_group: g}}",
                 NO_ENV, ERR_INVALID, "c.yml:1: kafka_clusters.a needs an address");
    expect_error(KAFKA "  t: {consumer_group: g}", NO_ENV, ERR_INVALID,
                 "kafka_topics.t needs a cluster");
    expect_error(KAFKA "  t: {cluster: main}", NO_ENV, ERR_INVALID,
                 "c.yml:5: kafka_topics.t needs a consumer_group");
    expect_error(KAFKA "  \"a b\": {cluster: main, consumer_group: g}", NO_ENV, ERR_INVALID,
                 "is no name for a topic");
    expect_error("kafka_cluster: \"\"", NO_ENV, ERR_INVALID, "needs an address");
}

static void rule_3_legacy_names_differ(void **state)
{
    (void)state;
    expect_error("kafka_topic: taskworker-dlq", NO_ENV, ERR_INVALID, "must differ");
    expect_error("kafka_retry_topic: taskworker-dlq", NO_ENV, ERR_INVALID, "must differ");
    struct loaded l = load_ok("kafka_retry_topic: again", NO_ENV);
    assert_true(topic(&l, "again")->produce_only);
    assert_string_equal(cluster_of(&l, "again")->name, "deadletter");
    unload(&l);
}

static void rule_4_clusters_exist(void **state)
{
    (void)state;
    expect_error(KAFKA "  t: {cluster: other, consumer_group: g}", NO_ENV, ERR_INVALID,
                 "c.yml:5: topic 't' references unknown cluster 'other'");
}

static void rules_5_and_6_something_is_consumed_and_has_a_dead_letter_topic(void **state)
{
    (void)state;
    expect_error(
        "kafka_clusters: {m: {address: k}}\n"
        "kafka_topics: {taskworker-dlq: {cluster: m, consumer_group: g, produce_only: true}}",
        NO_ENV, ERR_INVALID, "no consumable topic configured");
    expect_error(KAFKA "kafka_deadletter_topic: dead", NO_ENV, ERR_INVALID,
                 "c.yml:5: kafka_deadletter_topic 'dead' is not one of kafka_topics");
    /* A disabled consumer still counts as consumable. */
    struct loaded l = load_ok("kafka_clusters: {m: {address: k}}\nkafka_deadletter_topic: t\n"
                              "kafka_topics: {t: {cluster: m, consumer_group: g, "
                              "consumer_disabled: true}}",
                              NO_ENV);
    assert_false(config_topic_is_consumed(topic(&l, "t")));
    assert_string_equal(l.cfg->kafka_retry_topic, "t");
    unload(&l);
}

#define RAW                                                                                \
    "  rawr: {cluster: main, consumer_group: g, raw: {namespace: n, application: sentry, " \
    "taskname: t, processing_deadline_duration: 7}}\n"

static void rule_7_the_retry_topic_is_clear(void **state)
{
    (void)state;
    expect_error(KAFKA "  more: {cluster: main, consumer_group: g}\n", NO_ENV, ERR_INVALID,
                 "kafka_retry_topic is required when consuming from multiple topics (2");
    expect_error(KAFKA RAW, NO_ENV, ERR_INVALID, "required when consuming a raw topic");
    expect_error("raw_mode: true\nraw_namespace: n\nraw_application: sentry\nraw_taskname: t\n",
                 NO_ENV, ERR_INVALID, "required when consuming a raw topic");
}

static void rule_8_retries_and_dead_letters_share_a_cluster(void **state)
{
    (void)state;
    expect_error(KAFKA "kafka_retry_topic: no", NO_ENV, ERR_INVALID,
                 "kafka_retry_topic 'no' is not one of kafka_topics");
    expect_error("kafka_deadletter_cluster: other:9092", NO_ENV, ERR_INVALID,
                 "they share a single producer");
    /* The address counts, not the name. */
    struct loaded l =
        load_ok("kafka_clusters: {a: {address: k}, b: {address: k}}\n"
                "kafka_topics:\n"
                "  t: {cluster: a, consumer_group: g}\n"
                "  taskworker-dlq: {cluster: b, consumer_group: g, produce_only: true}\n",
                NO_ENV);
    unload(&l);
}

static void rule_9_raw_topics_are_complete(void **state)
{
    (void)state;
    static const char *const missing[] = {"application", "namespace", "taskname",
                                          "processing_deadline_duration"};
    static const char *const lines[] = {"application: sentry", "namespace: n", "taskname: t",
                                        "processing_deadline_duration: 7"};

    for (size_t gap = 0; gap < 4; gap++) {
        struct buf yaml = {0};
        char text[80];
        buf_append_str(&yaml, KAFKA "  r: {cluster: main, consumer_group: g, raw: {");
        for (size_t i = 0; i < 4; i++)
            if (i != gap)
                buf_printf(&yaml, "%s, ", lines[i]);
        buf_append_str(&yaml, "}}\nkafka_retry_topic: work\n");
        snprintf(text, sizeof(text), "kafka_topics.r is raw and needs raw.%s", missing[gap]);
        expect_error(buf_cstr(&yaml), NO_ENV, ERR_INVALID, text);
        buf_free(&yaml);
    }
    expect_error(KAFKA RAW "kafka_retry_topic: rawr\n", NO_ENV, ERR_INVALID,
                 "is raw and cannot be the kafka_retry_topic");
    expect_error(KAFKA RAW "kafka_retry_topic: work\nworker_map: {other: u}\n", NO_ENV, ERR_INVALID,
                 "raw.application is not a key of worker_map");
    expect_error(KAFKA
                 "  r: {cluster: main, consumer_group: g, raw: {}}\nkafka_retry_topic: work\n",
                 NO_ENV, ERR_INVALID, "needs raw.application");
    expect_error("embedded: true\nraw_mode: true\nraw_namespace: n\nraw_application: sentry\n"
                 "raw_taskname: t\nkafka_retry_topic: again\n",
                 NO_ENV, ERR_INVALID, "is raw and needs Kafka");
    struct loaded l = load_ok(KAFKA RAW "kafka_retry_topic: work\n", NO_ENV);
    assert_true(topic(&l, "rawr")->raw.set);
    assert_int_equal(topic(&l, "rawr")->raw.compression_level, 3);
    assert_int_equal(topic(&l, "rawr")->raw.processing_deadline_duration, 7);
    assert_false(topic(&l, "work")->raw.set);
    unload(&l);
}

static void legacy_raw_mode_makes_a_block(void **state)
{
    (void)state;
    struct loaded l = load_ok("raw_mode: true\nraw_namespace: n\nraw_application: sentry\n"
                              "raw_taskname: t\nkafka_retry_topic: again\n",
                              NO_ENV);

    assert_true(topic(&l, "taskworker")->raw.set);
    assert_string_equal(topic(&l, "taskworker")->raw.namespace, "n");
    assert_int_equal(topic(&l, "taskworker")->raw.processing_deadline_duration, 30);
    assert_int_equal(topic(&l, "taskworker")->raw.compression_level, 3);
    unload(&l);
}

static void topics_override_global_keys(void **state)
{
    (void)state;
    struct loaded l =
        load_ok("kafka_session_timeout_ms: 7000\nkafka_auto_offset_reset: earliest\n" KAFKA
                "  own: {cluster: main, consumer_group: g, session_timeout_ms: 8000, "
                "auto_commit_interval_ms: 1, auto_offset_reset: latest, "
                "produce_only: true}\n",
                NO_ENV);

    assert_int_equal(topic(&l, "work")->session_timeout_ms, 7000);
    assert_string_equal(topic(&l, "work")->auto_offset_reset, "earliest");
    assert_int_equal(topic(&l, "own")->session_timeout_ms, 8000);
    assert_int_equal(topic(&l, "own")->auto_commit_interval_ms, 1);
    assert_string_equal(topic(&l, "own")->auto_offset_reset, "latest");
    unload(&l);
    expect_error(KAFKA "  t: {cluster: main, consumer_group: g, auto_offset_reset: x}\n"
                       "kafka_retry_topic: work\n",
                 NO_ENV, ERR_INVALID, "c.yml:5: kafka_topics.t.auto_offset_reset must be earliest");
}

static void a_self_hosted_file_starts_unchanged(void **state)
{
    (void)state;
    struct buf yaml = {0};
    static const char *const raw[] = {"profiles", "ingest.events", "r3", "r4", "r5", "r6", "r7"};

    buf_append_str(&yaml,
                   "create_missing_topics: true\nkafka_retry_topic: taskworker\n"
                   "kafka_clusters: {default: {address: \"127.0.0.1:9092\"}}\nkafka_topics:\n"
                   "  taskworker: {cluster: default, consumer_group: taskworker}\n"
                   "  taskworker-dlq: {cluster: default, consumer_group: taskworker, "
                   "produce_only: true}\n");
    for (size_t i = 0; i < 7; i++)
        buf_printf(
            &yaml,
            "  %s:\n    cluster: default\n    consumer_group: taskworker-raw\n"
            "    raw:\n      namespace: ns\n      application: sentry\n      taskname: t%zu\n"
            "      processing_deadline_duration: 60\n",
            raw[i], i);
    struct loaded l =
        load_ok(buf_cstr(&yaml), ENV("TASKBROKER_KAFKA_CLUSTERS__DEFAULT__ADDRESS=kafka:9092",
                                     "TASKBROKER_DB_PATH=/opt/sqlite/taskbroker.sqlite",
                                     "TASKBROKER_STATSD_ADDR=statsd:8125"));
    assert_int_equal(l.cfg->topic_count, 9);
    assert_string_equal(l.cfg->clusters[0].address, "kafka:9092");
    assert_true(topic(&l, "ingest.events")->raw.set);
    assert_string_equal(l.cfg->statsd_addr, "statsd:8125");
    assert_int_equal(l.warnings.count, 1); /* db_path is deprecated */
    unload(&l);
    buf_free(&yaml);
}

/* --- embedded --------------------------------------------------------------------------------- */

static void embedded_needs_no_other_key(void **state)
{
    (void)state;
    struct loaded l = load_ok("", ENV("TASKBROKER_EMBEDDED=true"));

    assert_true(l.cfg->embedded);
    assert_int_equal(l.cfg->cluster_count, 1);
    assert_string_equal(l.cfg->clusters[0].address, "");
    assert_int_equal(l.cfg->topic_count, 2);
    assert_true(config_topic_is_consumed(topic(&l, "taskworker")));
    assert_true(topic(&l, "taskworker-dlq")->produce_only);
    assert_string_equal(l.cfg->kafka_retry_topic, "taskworker");
    assert_int_equal(l.warnings.count, 0);
    unload(&l);
}

static void embedded_takes_names_and_ignores_clusters(void **state)
{
    (void)state;
    struct loaded l = load_ok("embedded: true\nkafka_topic: mine\nkafka_deadletter_topic: dead\n"
                              "kafka_cluster: k:1\n",
                              NO_ENV);
    assert_true(config_topic_is_consumed(topic(&l, "mine")));
    assert_true(topic(&l, "dead")->produce_only);
    assert_true(has_warning(&l, "Kafka clusters are ignored because embedded is true"));
    unload(&l);

    l = load_ok("embedded: true\nkafka_topics:\n  a: {}\n  dead: {produce_only: true, cluster: x}\n"
                "kafka_deadletter_topic: dead\n",
                NO_ENV);
    assert_int_equal(topic(&l, "dead")->cluster, 0);
    assert_string_equal(topic(&l, "a")->consumer_group, "taskworker");
    unload(&l);
    expect_error("embedded: true\nkafka_topics: {a: {}}\n", NO_ENV, ERR_INVALID,
                 "kafka_deadletter_topic 'taskworker-dlq' is not one of kafka_topics");
    l = load_ok("embedded: true\n" KAFKA, NO_ENV);
    assert_int_equal(l.cfg->cluster_count, 1);
    assert_string_equal(l.cfg->clusters[0].name, "embedded");
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_configured_is_the_legacy_default),
        cmocka_unit_test(a_broker_of_a_pool_starts_from_three_variables),
        cmocka_unit_test(legacy_security_is_not_inherited),
        cmocka_unit_test(rule_1_formats_do_not_mix),
        cmocka_unit_test(rule_2_topics_need_clusters),
        cmocka_unit_test(rule_3_legacy_names_differ),
        cmocka_unit_test(rule_4_clusters_exist),
        cmocka_unit_test(rules_5_and_6_something_is_consumed_and_has_a_dead_letter_topic),
        cmocka_unit_test(rule_7_the_retry_topic_is_clear),
        cmocka_unit_test(rule_8_retries_and_dead_letters_share_a_cluster),
        cmocka_unit_test(rule_9_raw_topics_are_complete),
        cmocka_unit_test(legacy_raw_mode_makes_a_block),
        cmocka_unit_test(topics_override_global_keys),
        cmocka_unit_test(a_self_hosted_file_starts_unchanged),
        cmocka_unit_test(embedded_needs_no_other_key),
        cmocka_unit_test(embedded_takes_names_and_ignores_clusters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
