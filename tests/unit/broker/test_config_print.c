/* SPDX-License-Identifier: Apache-2.0 */
#include "config_fixture.h"

#include <stdlib.h>
#include <unistd.h>

static void expect_line(struct buf *text, const char *line)
{
    if (!strstr(buf_cstr(text), line))
        fail_msg("no \"%s\" in:\n%s", line, buf_cstr(text));
}

static void secrets_are_not_printed(void **state)
{
    (void)state;
    struct buf text = {0};
    struct loaded l = load_ok("sentry_dsn: http://tell-me@x\n"
                              "grpc_shared_secret: [tell-me-1, tell-me-2]\n"
                              "store: {pg: {password: tell-me, ddl_password: tell-me}}\n"
                              "kafka_clusters: {m: {address: k, sasl_username: shown, "
                              "sasl_password: tell-me}}\n"
                              "kafka_topics:\n  taskworker-dlq: {cluster: m, consumer_group: g}\n",
                              NO_ENV);

    config_print_origins(l.cfg, &text);
    assert_null(strstr(buf_cstr(&text), "tell-me"));
    expect_line(&text, "sentry_dsn: '******'  # c.yml:1\n");
    expect_line(&text, "grpc_shared_secret:  # c.yml:2\n  - '******'\n  - '******'\n");
    expect_line(&text, "\n    password: '******'");
    expect_line(&text, "\n    sasl_username: shown");
    expect_line(&text, "\n    sasl_password: '******'");
    buf_free(&text);
    unload(&l);
    l = load_ok("kafka_sasl_password: tell-me\npg_password: tell-me", NO_ENV);
    config_print(l.cfg, &text);
    assert_null(strstr(buf_cstr(&text), "tell-me"));
    buf_free(&text);
    unload(&l);
}

static void each_value_says_where_it_is_from(void **state)
{
    (void)state;
    struct buf text = {0};
    struct loaded l = load_ok("grpc_port: 1\ndb_path: /x\nkafka_cluster: k:1\n",
                              ENV("TASKBROKER_LOG_FORMAT=json", "TASKBROKER_PUSH_TIMEOUT_MS=20"));

    config_print_origins(l.cfg, &text);
    expect_line(&text, "grpc_port: 1  # c.yml:1\n");
    expect_line(&text, "log_format: json  # environment TASKBROKER_LOG_FORMAT\n");
    expect_line(&text, "    path: /x  # c.yml:2 (db_path)\n");
    expect_line(&text,
                "  timeout: 20ms  # environment TASKBROKER_PUSH_TIMEOUT_MS (push_timeout_ms)\n");
    expect_line(&text, "kafka_retry_topic: taskworker  # derived\n");
    expect_line(&text, "    address: k:1  # c.yml:3 (kafka_cluster)\n");
    expect_line(&text, "canary_tasks: 0  # default\n");
    buf_free(&text);
    unload(&l);
}

/* What is printed loads again and prints the same. */
static void expect_round_trip(const char *yaml)
{
    struct buf first = {0}, second = {0};
    struct loaded l = load_ok(yaml, NO_ENV);

    config_print(l.cfg, &first);
    unload(&l);
    l = load_ok(buf_cstr(&first), NO_ENV);
    for (size_t i = 0; i < l.warnings.count; i++)
        assert_null(strstr(l.warnings.lines[i], "unknown"));
    config_print(l.cfg, &second);
    assert_string_equal(buf_cstr(&first), buf_cstr(&second));
    unload(&l);
    buf_free(&first);
    buf_free(&second);
}

static void the_document_loads_again(void **state)
{
    (void)state;
    expect_round_trip("");
    expect_round_trip("embedded: true");
    expect_round_trip("kafka_retry_topic: again\nraw_mode: true\nraw_namespace: \"a: b\"\n"
                      "raw_application: sentry\nraw_taskname: \"# t\"\nstore: {max_size: null}\n"
                      "grpc_addr: \"[::]\"\nlog_filter: \"\"\ntraces_sample_rate: 0.1\n");
    expect_round_trip(
        KAFKA "default_metrics_tags:\n  \"true\": \"no\"\n  \"1\": \"2\"\n  \"\": ~x\n"
              "  q: \"\\\"\\\\\\n\\t\\x85\\u2028\\ufeff\\U0001F600\"\n  \xc3\xa9: \".5\"\n");
}

/* --- docs/configuration.md -------------------------------------------------------------------- */

static void the_reference_lists_every_key(void **state)
{
    (void)state;
    struct buf keys = {0}, docs = {0};
    FILE *file = fopen(CONFIG_DOCS, "r");
    int c;

    assert_non_null(file);
    while ((c = fgetc(file)) != EOF)
        buf_append_byte(&docs, (uint8_t)c);
    fclose(file);
    config_print_keys(&keys);
    expect_line(&keys, "| `store.sqlite.path` | text | `./taskbroker-inflight.sqlite` | "
                       "`TASKBROKER_STORE__SQLITE__PATH` | ");
    expect_line(&keys, "| `kafka_topics.<name>.raw.namespace` | optional text | null | "
                       "`TASKBROKER_KAFKA_TOPICS__<NAME>__RAW__NAMESPACE` | ");
    char *rest = (char *)(uintptr_t)buf_cstr(&keys);
    (void)buf_cstr(&docs);
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n"))
        if (!strstr((const char *)docs.ptr, line))
            fail_msg("docs/configuration.md lacks this line of `taskmill config keys`:\n%s", line);
    buf_free(&keys);
    buf_free(&docs);
}

/* --- the command ------------------------------------------------------------------------------ */

static int run(const char *verb, const char *file, struct buf *out, struct buf *err)
{
    char *argv[] = {(char *)(uintptr_t)verb, (char *)(uintptr_t)file, NULL};
    char *no_env[] = {NULL};

    buf_clear(out);
    buf_clear(err);
    return config_command(file ? 2 : verb ? 1 : 0, argv, no_env, out, err);
}

static void the_command_checks_and_prints(void **state)
{
    (void)state;
    struct buf out = {0}, err = {0};
    char path[] = "/tmp/taskmill-config-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "grpc_prt: 1\n", 12), 12);
    close(fd);
    assert_int_equal(run("check", path, &out, &err), 0);
    expect_line(&out, ": ok\n");
    expect_line(&err, "warning: /tmp/taskmill-config-");
    expect_line(&err, "did you mean grpc_port?\n");
    assert_int_equal(run("print", path, &out, &err), 0);
    expect_line(&out, "grpc_port: 50051  # default\n");
    unlink(path);
    assert_int_equal(run("check", path, &out, &err), 1);
    expect_line(&err, "Error: /tmp/taskmill-config-");
    assert_int_equal(out.len, 0);
    assert_int_equal(run("check", NULL, &out, &err), 0);
    assert_int_equal(run("keys", NULL, &out, &err), 0);
    assert_int_equal(run("--help", NULL, &out, &err), 0);
    expect_line(&out, "usage: taskmill config");
    assert_int_equal(run("nonsense", NULL, &out, &err), 2);
    assert_int_equal(run("keys", "x", &out, &err), 2);
    assert_int_equal(run(NULL, NULL, &out, &err), 2);
    expect_line(&err, "usage: taskmill config");
    buf_free(&out);
    buf_free(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(secrets_are_not_printed),
        cmocka_unit_test(each_value_says_where_it_is_from),
        cmocka_unit_test(the_document_loads_again),
        cmocka_unit_test(the_reference_lists_every_key),
        cmocka_unit_test(the_command_checks_and_prints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
