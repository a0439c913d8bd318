/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every key there is, as tables: parsing, environment, defaults, checks, printing, suggestions and
 * docs/configuration.md all come from these rows, so a new key is one row and one member of struct
 * config. Private to the configuration.
 */
#ifndef TASKMILL_BROKER_CONFIG_KEYS_H
#define TASKMILL_BROKER_CONFIG_KEYS_H

#include "broker/config_tree.h"

enum config_type {
    CONFIG_T_BOOL, /* bool */
    CONFIG_T_U32,  /* uint32_t */
    CONFIG_T_I32,  /* int32_t */
    CONFIG_T_I64,  /* int64_t */
    CONFIG_T_U64,  /* uint64_t */
    CONFIG_T_MS,   /* uint64_t, cut to CONFIG_TIME_MAX_MS */
    CONFIG_T_SEC,  /* uint64_t, cut to CONFIG_TIME_MAX_MS / 1000 */
    CONFIG_T_DUR,  /* uint64_t milliseconds, written as 100ms or 5s */
    CONFIG_T_F64,  /* double */
    CONFIG_T_STR,  /* char * */
    CONFIG_T_ENUM, /* an enum whose values are the positions in `choices` */
    CONFIG_T_LIST, /* struct config_list */
    CONFIG_T_MAP   /* struct config_map */
};

enum config_flags {
    CONFIG_F_OPTIONAL = 1,     /* null is a value: nothing set */
    CONFIG_F_SECRET = 2,       /* never shown */
    CONFIG_F_NO_EFFECT = 4,    /* accepted for the original's sake; named once when set */
    CONFIG_F_REQUIRED = 8,     /* has no default */
    CONFIG_F_NULL_IS_DEF = 16, /* null means the default */
    CONFIG_F_NOT_EMPTY = 32    /* text: "" is refused */
};

struct config_key {
    const char *path;
    enum config_type type;
    unsigned flags;
    size_t offset;
    const char *def;     /* in the grammar of environment values; NULL: null, or derived */
    int64_t min;         /* numbers */
    uint64_t max;        /* 0: the type's own */
    const char *choices; /* CONFIG_T_ENUM: "pull|push" */
    const char *help;    /* what it does here; for docs/configuration.md */
};

/* A deprecated flat key: read with `type` (durations are integers of milliseconds there) and moved
 * to the row `path`. */
struct config_alias {
    const char *name;
    const char *path;
    enum config_type type;
    uint64_t max;
};

/* The deprecated keys that kafka_config.c turns into clusters and topics. Strings are borrowed. */
struct config_legacy {
    struct config_cluster main, deadletter;
    char *topic, *cluster, *consumer_group, *deadletter_cluster;
    bool raw_mode;
    const char *first_set; /* the first of these keys that is set; NULL: none */
    struct config_where where;
};

struct config_table {
    const struct config_key *keys;
    size_t count;
};

extern const struct config_table config_main_keys;
extern const struct config_table config_cluster_keys; /* below kafka_clusters.<name>. */
extern const struct config_table config_topic_keys;   /* below kafka_topics.<name>. */
extern const struct config_table config_legacy_keys;
extern const struct config_alias config_aliases[];
extern const size_t config_alias_count;

/* NULL when there is no such row. */
const struct config_key *config_key_find(const struct config_table *table, const char *path);
const struct config_alias *config_alias_of(const char *path);

/* --- typed values ---------------------------------------------------------------------------- */

/* Converts the node and stores it in the member of `base` that the row names; what was there is
 * freed. `label` is the whole key for messages, `type` and `max` the deprecated key's or the row's
 * own. A null node stores "nothing set". On error the member is unchanged. */
int config_value_set(void *base, const struct config_key *key, enum config_type type, uint64_t max,
                     const struct config_node *node, const char *label, struct err_text *why);
/* Stores the row's default. */
void config_value_default(void *base, const struct config_key *key);
void config_value_free(void *base, const struct config_key *key);
/* "file.yml:3: " or "environment TASKBROKER_X: " or "". */
void config_where_text(struct config_where where, struct buf *out);

/* --- origins --------------------------------------------------------------------------------- */

void config_origins_record(struct config *cfg, const char *key, struct config_where where,
                           const char *deprecated);
void config_origins_free(struct config_origins *origins);

/* --- rules over several keys ----------------------------------------------------------------- */

/* Fails with the place of `key` in front. */
int config_fail(const struct config *cfg, struct err_text *why, const char *key, const char *fmt,
                ...) __attribute__((format(printf, 4, 5)));

/* Spec 2.5: clusters and topics from whichever format is in use, checked, every derived value
 * filled in. */
int config_kafka_normalise(struct config *cfg, const struct config_legacy *legacy,
                           struct config_warnings *warnings, struct err_text *why);
/* Spec 2.6 and the checks of our own. */
int config_validate(struct config *cfg, struct config_warnings *warnings, struct err_text *why);
/* Unknown, deprecated and effectless keys of the merged tree. */
void config_review(const struct config_node *tree, struct config_warnings *warnings);

#endif
