/* SPDX-License-Identifier: Apache-2.0 */
#include "config_fixture.h"

#include "broker/config_tree.h"

/* --- the grammar of values -------------------------------------------------------------------- */

static struct config_node *value(const char *text)
{
    return config_env_value(bytes_str(text), (struct config_where){CONFIG_FROM_ENV, "X", 0});
}

static void expect_kind(const char *text, enum config_kind kind)
{
    struct config_node *node = value(text);

    if (node->kind != kind)
        fail_msg("%s is %s", text, config_kind_name(node->kind));
    config_node_free(node);
}

static void expect_text(const char *text, const char *wanted)
{
    struct config_node *node = value(text);

    assert_int_equal(node->kind, CONFIG_STR);
    assert_string_equal(node->text, wanted);
    config_node_free(node);
}

static void words_are_typed(void **state)
{
    (void)state;
    expect_kind("true", CONFIG_BOOL);
    expect_kind(" false ", CONFIG_BOOL);
    expect_kind("True", CONFIG_STR);
    expect_kind("truest", CONFIG_STR);
    expect_kind("1", CONFIG_INT);
    expect_kind("-1", CONFIG_INT);
    expect_kind("007", CONFIG_INT);
    expect_kind("18446744073709551615", CONFIG_INT);
    expect_kind("18446744073709551616", CONFIG_STR);
    expect_kind("0x10", CONFIG_STR);
    expect_kind("1.5", CONFIG_FLOAT);
    expect_kind(".5", CONFIG_FLOAT);
    expect_kind("1e5", CONFIG_STR);
    expect_kind("1.2.3", CONFIG_STR);
    expect_kind("127.0.0.1:9092", CONFIG_STR);
    expect_kind("null", CONFIG_STR);
    expect_text("  padded ", "padded");
    expect_text("", "");
}

static void quotes_make_text(void **state)
{
    (void)state;
    expect_text("\"123\"", "123");
    expect_text("\"a\\\"b\\n\\u00e9\\U0001F600\"", "a\"b\n\xc3\xa9\xf0\x9f\x98\x80");
    expect_text("'x'", "x");
    expect_text("'\xc3\xa9'", "\xc3\xa9");
    /* Not to the end, or with an unknown escape: the text as it stands. */
    expect_text("\"a\"b", "\"a\"b");
    expect_text("\"a", "\"a");
    expect_text("\"\\q\"", "\"\\q\"");
    expect_text("\"\\u0000\"", "\"\\u0000\"");
    expect_text("\"\\ud800\"", "\"\\ud800\"");
    expect_text("'ab'", "'ab'");
    expect_text("a:9092,b:9092", "a:9092,b:9092");
    expect_text("{a", "{a");
    expect_text("[a]]", "[a]]");
    expect_text("{a b=1}", "{a b=1}");
}

static void lists_and_maps_nest(void **state)
{
    (void)state;
    struct config_node *node = value("[a, \"b\", 1 , [true],]");

    assert_int_equal(node->kind, CONFIG_SEQ);
    assert_int_equal(node->count, 4);
    assert_string_equal(node->children[0].node->text, "a");
    assert_int_equal(node->children[2].node->kind, CONFIG_INT);
    assert_int_equal(node->children[3].node->children[0].node->kind, CONFIG_BOOL);
    config_node_free(node);

    node = value("{app=http://h:1/x, \"my key\" = {Deep_1-x=2}}");
    assert_int_equal(node->kind, CONFIG_OBJ);
    assert_string_equal(config_node_get(node, bytes_str("app"))->text, "http://h:1/x");
    struct config_node *deep = config_node_get(node, bytes_str("my key"));
    assert_int_equal(config_node_get(deep, bytes_str("Deep_1-x"))->magnitude, 2);
    config_node_free(node);
    expect_kind("[]", CONFIG_SEQ);
    expect_kind("{ }", CONFIG_OBJ);
}

static void depth_is_bounded(void **state)
{
    (void)state;
    char text[4096];

    memset(text, '[', sizeof(text));
    memset(text + sizeof(text) / 2, ']', sizeof(text) / 2);
    text[sizeof(text) - 1] = 0;
    expect_kind(text, CONFIG_STR);
}

/* --- names ------------------------------------------------------------------------------------ */

static void names_nest_in_any_case(void **state)
{
    (void)state;
    struct loaded l = load_ok(
        "", ENV("TASKBROKER_STORE__SQLITE__PATH=/a", "taskbroker_log_filter=warn",
                "TaskBroker_Store.Max_Size=5", "TASKBROKER_GRPC_PORT=1", "TASKBROKER_GRPC_PORT=2",
                "XTASKBROKER_GRPC_PORT=3", "TASKBROKER___GRPC_PORT=4", "TASKBROKER_GRPC_PORT__=5"));

    assert_string_equal(l.cfg->store.sqlite.path, "/a");
    assert_string_equal(l.cfg->log_filter, "warn");
    assert_int_equal(l.cfg->store.max_size, 5);
    assert_int_equal(l.cfg->grpc_port, 2);
    assert_int_equal(l.warnings.count, 0);
    struct config_origin from = config_origin(l.cfg, "store.max_size");
    assert_int_equal(from.source, CONFIG_FROM_ENV);
    assert_string_equal(from.name, "TaskBroker_Store.Max_Size");
    unload(&l);
}

static void environment_wins_and_merges(void **state)
{
    (void)state;
    struct loaded l = load_ok(
        "grpc_port: 1\ngrpc_shared_secret: [a, b]\n"
        "default_metrics_tags: {a: \"1\", b: \"2\"}\n" KAFKA,
        ENV("TASKBROKER_GRPC_PORT=2", "TASKBROKER_GRPC_SHARED_SECRET=[\"c\"]",
            "TASKBROKER_DEFAULT_METRICS_TAGS__B=\"3\"",
            "TASKBROKER_KAFKA_CLUSTERS__MAIN__ADDRESS=e:1",
            "TASKBROKER_KAFKA_TOPICS__MORE={cluster=main,consumer_group=h,produce_only=true}"));

    assert_int_equal(l.cfg->grpc_port, 2);
    assert_int_equal(l.cfg->grpc_shared_secret.count, 1);
    assert_string_equal(l.cfg->grpc_shared_secret.items[0], "c");
    assert_int_equal(l.cfg->default_metrics_tags.count, 2);
    assert_string_equal(l.cfg->default_metrics_tags.pairs[1].value, "3");
    assert_string_equal(l.cfg->clusters[0].address, "e:1");
    assert_int_equal(l.cfg->topic_count, 3);
    assert_string_equal(config_topic_find(l.cfg, "more")->consumer_group, "h");
    assert_true(config_topic_find(l.cfg, "more")->produce_only);
    unload(&l);
}

static void environment_values_are_strict(void **state)
{
    (void)state;
    expect_error("", ENV("TASKBROKER_STORE__PG__PASSWORD=123"), ERR_INVALID,
                 "environment TASKBROKER_STORE__PG__PASSWORD: store.pg.password must be text (in "
                 "quotes: '\"123\"')");
    expect_error("", ENV("TASKBROKER_GRPC_PORT=abc"), ERR_INVALID, "not the text \"abc\"");
    expect_error("", ENV("TASKBROKER_EMBEDDED=1"), ERR_INVALID, "must be true or false");
    expect_error("", ENV("TASKBROKER_EMBEDDED=True"), ERR_INVALID, "must be true or false");
    expect_error("", ENV("TASKBROKER_GRPC_SHARED_SECRET=word"), ERR_INVALID, "must be a list");
    expect_error("", ENV("TASKBROKER_PUSH__TIMEOUT=100"), ERR_INVALID, "must be a duration");
    expect_error("", ENV("TASKBROKER_LOG_FILTER=\xff"), ERR_INVALID, "not UTF-8");
    expect_error("", ENV("TASKBROKER_KAFKA_TOPICS=x"), ERR_INVALID, "kafka_topics must be a map");
    expect_error("", ENV("TASKBROKER_KAFKA_TOPICS__X=x"), ERR_INVALID,
                 "kafka_topics.x must be a map");
    struct loaded l = load_ok("", ENV("TASKBROKER_STORE__PG__PASSWORD=\"123\""));
    assert_string_equal(l.cfg->store.pg.password, "123");
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_typed),
        cmocka_unit_test(quotes_make_text),
        cmocka_unit_test(lists_and_maps_nest),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(names_nest_in_any_case),
        cmocka_unit_test(environment_wins_and_merges),
        cmocka_unit_test(environment_values_are_strict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
