/* SPDX-License-Identifier: Apache-2.0 */
#include "config_fixture.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/config_keys.h"

static void defaults_are_those_of_the_spec(void **state)
{
    (void)state;
    struct loaded l = load_ok("", NO_ENV);
    const struct config *cfg = l.cfg;

    assert_int_equal(cfg->grpc_port, 50051);
    assert_string_equal(cfg->grpc_addr, "0.0.0.0");
    assert_in_range(cfg->grpc_threads, 1, 4);
    assert_int_equal(cfg->grpc_long_poll_ms, 5000);
    assert_string_equal(cfg->log_filter, "info,librdkafka=warn,h2=off");
    assert_int_equal(cfg->log_format, LOG_TEXT);
    assert_null(cfg->sentry_dsn);
    assert_int_equal(cfg->runtime_metrics_interval_ms, 1000);
    assert_int_equal(cfg->max_delayed_task_allowed_sec, 30 * 86400);
    assert_int_equal(cfg->at_most_once_memory_sec, 86400);
    assert_int_equal(cfg->shutdown_timeout_ms, 9000);
    assert_int_equal(cfg->kafka_prefetch_bytes, 64 << 20);
    assert_string_equal(cfg->store.sqlite.path, "./taskbroker-inflight.sqlite");
    assert_int_equal(cfg->store.sqlite.synchronous, CONFIG_SYNCHRONOUS_FULL);
    assert_true(cfg->store.sqlite.vacuum_page_count == CONFIG_NONE);
    assert_int_equal(cfg->store.blob_cache_bytes, 32 << 20);
    assert_true(cfg->store.max_size == 3000000000);
    assert_int_equal(cfg->store.max_pending_count, 2048);
    assert_int_equal(cfg->store.max_delay_count, 8192);
    assert_int_equal(cfg->store.max_processing_attempts, 5);
    assert_int_equal(cfg->push.timeout_ms, 30000);
    assert_int_equal(cfg->worker_map.count, 1);
    assert_string_equal(cfg->worker_map.pairs[0].key, "sentry");
    assert_string_equal(cfg->worker_map.pairs[0].value, "http://127.0.0.1:50052");
    assert_true(cfg->full_vacuum_on_start);
    assert_false(cfg->full_vacuum_on_start_explicit);
    assert_false(cfg->embedded);
    assert_int_equal(l.warnings.count, 0);
    unload(&l);
}

/* Each row's member really is of the row's type and reads back as its default. */
static void every_row_has_a_sound_default(void **state)
{
    (void)state;
    struct config *cfg = calloc(1, sizeof(*cfg));

    for (size_t i = 0; i < config_main_keys.count; i++) {
        const struct config_key *key = &config_main_keys.keys[i];
        assert_true(key->offset < sizeof(*cfg));
        assert_true(key->def || (key->flags & CONFIG_F_OPTIONAL));
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(key->path, config_main_keys.keys[k].path);
            assert_true(key->offset != config_main_keys.keys[k].offset);
        }
        config_value_default(cfg, key);
        config_value_free(cfg, key);
    }
    free(cfg);
    for (size_t i = 0; i < config_alias_count; i++)
        assert_non_null(config_key_find(&config_main_keys, config_aliases[i].path));
    assert_int_equal(config_alias_count, 36);
    assert_int_equal(config_legacy_keys.count, 19);
}

static void file_sets_nested_keys(void **state)
{
    (void)state;
    struct loaded l = load_ok("grpc_port: 0x1F\n"
                              "log_format: json\n"
                              "traces_sample_rate: 1\n"
                              "grpc_shared_secret: [\"a\", b]\n"
                              "default_metrics_tags: {region: us, cell: \"1\"}\n"
                              "store:\n"
                              "  max_size: null\n"
                              "  sqlite: {path: sqlite:/x.db, synchronous: normal}\n"
                              "  retry: {delay: 2s}\n"
                              "fetch:\n",
                              NO_ENV);

    assert_int_equal(l.cfg->grpc_port, 31);
    assert_int_equal(l.cfg->log_format, LOG_JSON);
    assert_true(l.cfg->traces_sample_rate == 1.0);
    assert_int_equal(l.cfg->grpc_shared_secret.count, 2);
    assert_string_equal(l.cfg->grpc_shared_secret.items[1], "b");
    assert_int_equal(l.cfg->default_metrics_tags.count, 2);
    assert_string_equal(l.cfg->default_metrics_tags.pairs[0].key, "cell");
    assert_true(l.cfg->store.max_size == CONFIG_NONE);
    assert_string_equal(l.cfg->store.sqlite.path, "sqlite:/x.db");
    assert_int_equal(l.cfg->store.sqlite.synchronous, CONFIG_SYNCHRONOUS_NORMAL);
    assert_int_equal(l.cfg->store.retry.delay_ms, 2000);
    unload(&l);
}

static void types_are_strict(void **state)
{
    (void)state;
    expect_error(
        "\ngrpc_port: \"50051\"\n", NO_ENV, ERR_INVALID,
        "c.yml:2: grpc_port must be a whole number from 0 to 65535, not the text \"50051\"");
    expect_error("grpc_port: 70000", NO_ENV, ERR_INVALID, "not the number 70000");
    expect_error("grpc_port: -1", NO_ENV, ERR_INVALID, "not the number -1");
    expect_error("grpc_port: 1.0", NO_ENV, ERR_INVALID, "grpc_port must be");
    expect_error("grpc_port: null", NO_ENV, ERR_INVALID, "grpc_port must be set");
    expect_error("max_message_size: 99999999999999999999", NO_ENV, ERR_INVALID, "max_message_size");
    expect_error("kafka_long_topic: 12", NO_ENV, ERR_INVALID,
                 "must be text (in quotes), not the number");
    expect_error("kafka_long_topic: 0123\nlog_format: JSON", NO_ENV, ERR_INVALID,
                 "c.yml:2: log_format must be text or json, not the text \"JSON\"");
    expect_error("embedded: yes", NO_ENV, ERR_INVALID,
                 "must be true or false, not the text \"yes\"");
    expect_error("embedded: 1", NO_ENV, ERR_INVALID, "must be true or false");
    expect_error("grpc_shared_secret: abc", NO_ENV, ERR_INVALID, "must be a list of texts");
    expect_error("grpc_shared_secret: [1]", NO_ENV, ERR_INVALID, "must be a list of texts");
    expect_error("default_metrics_tags: {a: 1}", NO_ENV, ERR_INVALID,
                 "default_metrics_tags.a must be text");
    expect_error("store: 5", NO_ENV, ERR_INVALID, "must be a map of keys");
    expect_error("store: {sqlite: [a]}", NO_ENV, ERR_INVALID, "must be a map of keys");
    expect_error("traces_sample_rate: x", NO_ENV, ERR_INVALID, "must be a number");
    expect_error("store: {sqlite: {path: \"\"}}", NO_ENV, ERR_INVALID, "not empty");
}

static void durations_are_digits_and_a_unit(void **state)
{
    (void)state;
    static const char *const bad[] = {"1m",   "1.5s", "1 ms", "100", "ms",
                                      "-1s",  "1S",   "1sms", "0ms", "99999999999999999999s",
                                      "null", "[1s]"};
    char yaml[80];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(yaml, sizeof(yaml), "runtime_metrics_interval: %s", bad[i]);
        expect_error(yaml, NO_ENV, ERR_INVALID, "runtime_metrics_interval must be");
    }
    struct loaded l = load_ok("runtime_metrics_interval: 18446744073709551s", NO_ENV);
    assert_int_equal(l.cfg->runtime_metrics_interval_ms, CONFIG_TIME_MAX_MS);
    unload(&l);
}

static void times_are_cut_so_that_sums_fit(void **state)
{
    (void)state;
    struct loaded l = load_ok("max_delayed_task_allowed_sec: 18446744073709551615\n"
                              "shutdown_timeout_ms: 9223372036854775808\n",
                              NO_ENV);

    assert_int_equal(l.cfg->max_delayed_task_allowed_sec, CONFIG_TIME_MAX_MS / 1000);
    assert_int_equal(l.cfg->shutdown_timeout_ms, CONFIG_TIME_MAX_MS);
    unload(&l);
}

static void secrets_stay_out_of_errors(void **state)
{
    (void)state;
    struct loaded l = load("store: {pg: {password: 4711}}", NO_ENV);

    assert_int_equal(l.rv, ERR_INVALID);
    assert_non_null(strstr(l.why.s, "store.pg.password must be text"));
    assert_null(strstr(l.why.s, "4711"));
    unload(&l);
}

static void deprecated_keys_move(void **state)
{
    (void)state;
    struct loaded l = load_ok("db_path: /old.db\n"
                              "max_pending_count: 7\n"
                              "db_query_retry_delay_ms: 250\n"
                              "push_update_interval_ms: 9\n"
                              "database_adapter: sqlite\n"
                              "db_max_size: null\n",
                              ENV("TASKBROKER_PUSH_QUEUE_SIZE=3"));

    assert_string_equal(l.cfg->store.sqlite.path, "/old.db");
    assert_int_equal(l.cfg->store.max_pending_count, 7);
    assert_int_equal(l.cfg->store.retry.delay_ms, 250);
    assert_int_equal(l.cfg->push.update.batch.interval_ms, 9);
    assert_int_equal(l.cfg->push.queue.size, 3);
    assert_true(l.cfg->store.max_size == 3000000000);
    assert_true(has_warning(&l, "deprecated keys: "));
    assert_true(has_warning(&l, "db_path (now store.sqlite.path)"));
    struct config_origin from = config_origin(l.cfg, "store.sqlite.path");
    assert_int_equal(from.source, CONFIG_FROM_FILE);
    assert_int_equal(from.line, 1);
    assert_string_equal(from.deprecated, "db_path");
    unload(&l);
    expect_error("db_query_retry_delay_ms: 250ms", NO_ENV, ERR_INVALID,
                 "db_query_retry_delay_ms must be");
    expect_error("push_update_interval_ms: 4294967296", NO_ENV, ERR_INVALID, "to 4294967295");
}

static void the_new_key_wins_even_at_its_default(void **state)
{
    (void)state;
    struct loaded l = load_ok("store: {max_pending_count: 2048}\n",
                              ENV("TASKBROKER_MAX_PENDING_COUNT=7", "TASKBROKER_DB_PATH=/env.db"));

    assert_int_equal(l.cfg->store.max_pending_count, 2048);
    assert_string_equal(l.cfg->store.sqlite.path, "/env.db");
    assert_true(has_warning(&l, "environment TASKBROKER_MAX_PENDING_COUNT: max_pending_count is "
                                "ignored because store.max_pending_count is set, too"));
    unload(&l);
}

static void unknown_keys_are_warned_about_once(void **state)
{
    (void)state;
    struct loaded l =
        load_ok("grpc_prot: 1\n"
                "zzzzzzzzzz: {a: {b: 1}}\n"
                "store: {sqlit: {path: x}, max_sise: 3}\n"
                "store.max_size: 4\n" KAFKA,
                ENV("TASKBROKER_STORE_MAX_SIZE=1", "TASKBROKER_KAFKA_TOPICS__WORK__RAWW=1",
                    "TASKBROKER_SERVICE_HOST=10.0.0.1", "TASKBROKER_PORT=tcp://10.0.0.1:1",
                    "TASKBROKER_PORT_50051_TCP_ADDR=10.0.0.1", "OTHER=1", "TASKBROKER"));

    assert_true(
        has_warning(&l, "c.yml:1: unknown key grpc_prot is ignored; did you mean grpc_port?"));
    assert_true(has_warning(&l, "unknown key zzzzzzzzzz is ignored"));
    assert_true(has_warning(&l, "unknown key store.sqlit is ignored; did you mean store.sqlite?"));
    assert_true(
        has_warning(&l, "unknown key store.max_sise is ignored; did you mean store.max_size?"));
    assert_true(
        has_warning(&l, "c.yml:4: unknown key store.max_size is ignored; each of its levels"));
    assert_true(
        has_warning(&l, "environment TASKBROKER_STORE_MAX_SIZE: unknown key store_max_size"));
    assert_true(has_warning(&l, "kafka_topics.work.raww is ignored; did you mean raw?"));
    assert_int_equal(l.warnings.count, 7);
    unload(&l);
}

static void keys_without_effect_are_named(void **state)
{
    (void)state;
    expect_warning("push: {threads: 2}\nvacuum_interval_ms: 5\n",
                   ENV("TASKBROKER_DB_QUERY_MAX_RETRIES=1"),
                   "keys without effect here (docs/configuration.md says why): vacuum_interval_ms, "
                   "store.retry.max_retries, push.threads");
    expect_warning("sentry_dsn: http://x", NO_ENV, "Sentry is not supported yet");
}

/* The original takes the first two, and panics. */
static void timers_of_zero_are_refused(void **state)
{
    (void)state;
    expect_error("upkeep_task_interval_ms: 0", NO_ENV, ERR_INVALID,
                 "c.yml:1: upkeep_task_interval_ms must be");
    expect_error("maintenance_task_interval_ms: 0", NO_ENV, ERR_INVALID,
                 "c.yml:1: maintenance_task_interval_ms must be");
    expect_error("runtime_metrics_interval: 0s", NO_ENV, ERR_INVALID,
                 "c.yml:1: runtime_metrics_interval must be");
}

static void warnings_are_bounded(void **state)
{
    (void)state;
    struct buf yaml = {0};

    for (int i = 0; i < 1000; i++)
        buf_printf(&yaml, "unknown_%d: 1\n", i);
    struct loaded l = load_ok(buf_cstr(&yaml), NO_ENV);
    assert_int_equal(l.warnings.count, CONFIG_WARNINGS_MAX);
    assert_string_equal(l.warnings.lines[CONFIG_WARNINGS_MAX - 1],
                        "and 901 more warnings about the configuration");
    unload(&l);
    buf_free(&yaml);
}

static void values_must_fit_together(void **state)
{
    (void)state;
    expect_error("fetch: {threads: 3}", NO_ENV, ERR_INVALID,
                 "c.yml:1: fetch.threads must be a power of two");
    expect_error("fetch: {threads: 512}", NO_ENV, ERR_INVALID, "from 1 to 256");
    expect_error("fetch: {batch_length: 0}", NO_ENV, ERR_INVALID, "fetch.batch_length must be");
    expect_error("push: {queue: {timeout: 0s}}", NO_ENV, ERR_INVALID, "longer than 0ms");
    expect_error("status_update_batch_size: 0", NO_ENV, ERR_INVALID, "from 1 to");
    expect_error("worker_map: {}", NO_ENV, ERR_INVALID, "worker_map must have an entry");
    expect_error("grpc_addr: localhost", NO_ENV, ERR_INVALID, "grpc_addr must be an IP address");
    expect_error("statsd_addr: localhost", NO_ENV, ERR_INVALID, "statsd_addr must be host:port");
    expect_error("admin_addr: localhost:9464", NO_ENV, ERR_INVALID,
                 "admin_addr must be an IP address and a port");
    expect_error("admin_addr: \"127.0.0.1\"", NO_ENV, ERR_INVALID, "admin_addr must be");
    expect_error("admin_addr: \"::1:9464\"", NO_ENV, ERR_INVALID, "admin_addr must be");
    expect_error("admin_addr: \"127.0.0.1:0\"", NO_ENV, ERR_INVALID, "admin_addr must be");
    expect_error("grpc_tls_certificate_location: a.pem", NO_ENV, ERR_INVALID,
                 "needs grpc_tls_key_location");
    expect_error("grpc_tls_key_location: a.pem", NO_ENV, ERR_INVALID,
                 "needs grpc_tls_certificate_location");
    expect_error("grpc_tls_client_ca_location: a.pem", NO_ENV, ERR_INVALID,
                 "grpc_tls_client_ca_location needs");
    expect_error("statsd_addr: \"localhost:0\"", NO_ENV, ERR_INVALID,
                 "statsd_addr must be host:port");
    expect_error("kafka_auto_offset_reset: newest", NO_ENV, ERR_INVALID,
                 "must be earliest or latest");
    expect_error("default_topic_partitions: 0", NO_ENV, ERR_INVALID, "must be at least 1, or -1");
    expect_error("max_message_size: 10", NO_ENV, ERR_INVALID, "from 1000 to 1000000000");
    struct loaded l = load_ok("grpc_addr: \"[::1]\"\nfull_vacuum_on_start: true", NO_ENV);
    assert_string_equal(l.cfg->grpc_addr, "::1");
    assert_true(l.cfg->full_vacuum_on_start_explicit);
    unload(&l);
}

static void what_comes_later_is_said_in_one_line(void **state)
{
    (void)state;
    expect_error("\ndelivery_mode: push", NO_ENV, ERR_UNSUPPORTED,
                 "c.yml:2: delivery_mode: push is not supported yet");
    expect_error(
        "", ENV("TASKBROKER_DATABASE_ADAPTER=postgres"), ERR_UNSUPPORTED,
        "environment TASKBROKER_DATABASE_ADAPTER: store.adapter: postgres is not supported yet");
}

static void bad_yaml_is_refused(void **state)
{
    (void)state;
    struct buf big = {0};

    expect_error("a: [1", NO_ENV, ERR_MALFORMED, "c.yml:");
    expect_error("a: b: c", NO_ENV, ERR_MALFORMED, "not YAML");
    expect_error("\tx: 1", NO_ENV, ERR_MALFORMED, "not YAML");
    expect_error("- a\n- b\n", NO_ENV, ERR_MALFORMED, "must be a map");
    expect_error("just text", NO_ENV, ERR_MALFORMED, "must be a map");
    expect_error("a: 1\n---\nb: 2\n", NO_ENV, ERR_MALFORMED, "more than one YAML document");
    expect_error("a: !thing 1", NO_ENV, ERR_MALFORMED, "unknown tag");
    expect_error("? [a]\n: 1", NO_ENV, ERR_MALFORMED, "a key must be text");
    expect_error("log_filter: \"a\\0b\"", NO_ENV, ERR_INVALID, "NUL");
    expect_error("a: \xff\xfe", NO_ENV, ERR_MALFORMED, "not YAML");
    expect_error("a: &x [1, *x]", NO_ENV, ERR_TOO_LARGE, "levels");
    expect_error("a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                 "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
                 "e: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
                 NO_ENV, ERR_TOO_LARGE, "values");
    buf_append_str(&big, "# ");
    for (int i = 0; i < 1100; i++) {
        buf_reserve(&big, 1024);
        memset(big.ptr + big.len, 'x', 1024);
        big.len += 1024;
    }
    expect_error(buf_cstr(&big), NO_ENV, ERR_TOO_LARGE, "larger than 1 MiB");
    buf_clear(&big);
    for (int i = 0; i < 5000; i++)
        buf_printf(&big, "k%d: 1\n", i);
    expect_error(buf_cstr(&big), NO_ENV, ERR_TOO_LARGE, "more than 4096 keys");
    buf_free(&big);
}

static void empty_files_and_anchors_are_fine(void **state)
{
    (void)state;
    static const char *const empty[] = {"", "\n\n", "# only a comment\n", "---\n", "~", "{}"};

    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        struct loaded l = load_ok(empty[i], NO_ENV);
        assert_int_equal(l.cfg->grpc_port, 50051);
        unload(&l);
    }
    struct loaded l =
        load_ok("store: {max_pending_count: &n 12, max_delay_count: *n}\ngrpc_port: 1\n"
                "grpc_port: 2\n",
                NO_ENV);
    assert_int_equal(l.cfg->store.max_delay_count, 12);
    assert_int_equal(l.cfg->grpc_port, 2);
    assert_true(has_warning(&l, "c.yml:3: key grpc_port is there twice"));
    unload(&l);
}

/* --- files ------------------------------------------------------------------------------------ */

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void relative_paths_are_searched_upwards(void **state)
{
    (void)state;
    char dir[] = "/tmp/taskmill-config-XXXXXX", before[PATH_MAX], path[PATH_MAX];
    struct config_warnings warnings = {0};
    struct err_text why = {{0}};
    char *no_env[] = {NULL};
    struct config *cfg = NULL;

    assert_non_null(getcwd(before, sizeof(before)));
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    assert_int_equal(mkdir("a", 0700), 0);
    assert_int_equal(mkdir("a/b", 0700), 0);
    write_file("up.yml", "grpc_port: 4000\nx_y_z: 1\n");
    assert_int_equal(chdir("a/b"), 0);

    assert_int_equal(config_load(&cfg, "up.yml", no_env, &warnings, &why), 0);
    assert_int_equal(cfg->grpc_port, 4000);
    assert_int_equal(warnings.count, 1);
    snprintf(path, sizeof(path), "%s/up.yml:2: unknown key", dir);
    assert_non_null(strstr(warnings.lines[0], path));
    config_free(cfg);
    cfg = NULL;
    assert_int_equal(config_load(&cfg, "none.yml", no_env, &warnings, &why), ERR_NOT_FOUND);
    assert_non_null(
        strstr(why.s, "none.yml: no such configuration file here or in a parent directory"));
    assert_int_equal(config_load(&cfg, "/none/none.yml", no_env, &warnings, &why), ERR_NOT_FOUND);
    assert_int_equal(config_load(&cfg, "..", no_env, &warnings, &why), ERR_IO);
    assert_null(cfg);

    config_warnings_free(&warnings);
    assert_int_equal(chdir(dir), 0);
    assert_int_equal(rmdir("a/b"), 0);
    assert_int_equal(rmdir("a"), 0);
    assert_int_equal(unlink("up.yml"), 0);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_spec),
        cmocka_unit_test(every_row_has_a_sound_default),
        cmocka_unit_test(file_sets_nested_keys),
        cmocka_unit_test(types_are_strict),
        cmocka_unit_test(durations_are_digits_and_a_unit),
        cmocka_unit_test(times_are_cut_so_that_sums_fit),
        cmocka_unit_test(secrets_stay_out_of_errors),
        cmocka_unit_test(deprecated_keys_move),
        cmocka_unit_test(the_new_key_wins_even_at_its_default),
        cmocka_unit_test(unknown_keys_are_warned_about_once),
        cmocka_unit_test(keys_without_effect_are_named),
        cmocka_unit_test(timers_of_zero_are_refused),
        cmocka_unit_test(warnings_are_bounded),
        cmocka_unit_test(values_must_fit_together),
        cmocka_unit_test(what_comes_later_is_said_in_one_line),
        cmocka_unit_test(bad_yaml_is_refused),
        cmocka_unit_test(empty_files_and_anchors_are_fine),
        cmocka_unit_test(relative_paths_are_searched_upwards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
