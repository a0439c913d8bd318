/* SPDX-License-Identifier: Apache-2.0 */
/* Loads configurations from texts and lists of variables, and says what came of it. */
#ifndef TASKMILL_TESTS_CONFIG_FIXTURE_H
#define TASKMILL_TESTS_CONFIG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "broker/config.h"

struct loaded {
    int rv;
    struct config *cfg;
    struct config_warnings warnings;
    struct err_text why;
};

#define ENV(...) ((const char *[]){__VA_ARGS__, NULL})
#define NO_ENV   ((const char *[]){NULL})

/* A minimal file in the new format, to which tests add lines. */
#define KAFKA                                         \
    "kafka_clusters: {main: {address: \"k:9092\"}}\n" \
    "kafka_topics:\n"                                 \
    "  work: {cluster: main, consumer_group: g}\n"    \
    "  taskworker-dlq: {cluster: main, consumer_group: g, produce_only: true}\n"

static inline struct loaded load(const char *yaml, const char **env)
{
    struct loaded l = {0};

    l.rv =
        config_load_text(&l.cfg, "c.yml", bytes_str(yaml), (char *const *)env, &l.warnings, &l.why);
    if (l.rv)
        assert_null(l.cfg);
    return l;
}

static inline struct loaded load_ok(const char *yaml, const char **env)
{
    struct loaded l = load(yaml, env);

    if (l.rv)
        fail_msg("refused: %s", l.why.s);
    return l;
}

static inline void unload(struct loaded *l)
{
    config_free(l->cfg);
    config_warnings_free(&l->warnings);
}

static inline void expect_error(const char *yaml, const char **env, int code, const char *text)
{
    struct loaded l = load(yaml, env);

    if (l.rv != code)
        fail_msg("expected %s (%s), got %s: %s", err_name(code), text, l.rv ? err_name(l.rv) : "0",
                 l.why.s);
    if (!strstr(l.why.s, text))
        fail_msg("expected \"%s\" in: %s", text, l.why.s);
    unload(&l);
}

static inline bool has_warning(const struct loaded *l, const char *text)
{
    for (size_t i = 0; i < l->warnings.count; i++)
        if (strstr(l->warnings.lines[i], text))
            return true;
    return false;
}

static inline void expect_warning(const char *yaml, const char **env, const char *text)
{
    struct loaded l = load_ok(yaml, env);

    if (!has_warning(&l, text))
        fail_msg("no warning with \"%s\"; first: %s", text,
                 l.warnings.count ? l.warnings.lines[0] : "none");
    unload(&l);
}

#endif
