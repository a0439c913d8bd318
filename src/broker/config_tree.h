/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The untyped form of a configuration: what a YAML document and the environment have in common.
 * Both readers produce such a tree, config_tree_merge lays one over the other, and config_value.c
 * makes typed members of it. Private to the configuration; one thread.
 *
 * Bounds (files and environments come from outside): depth, children of one node, nodes of one
 * tree.
 */
#ifndef TASKMILL_BROKER_CONFIG_TREE_H
#define TASKMILL_BROKER_CONFIG_TREE_H

#include "broker/config.h"

#define CONFIG_DEPTH_MAX    16
#define CONFIG_CHILDREN_MAX 4096
#define CONFIG_NODES_MAX    20000
#define CONFIG_FILE_MAX     ((size_t)1024 * 1024)

enum config_kind {
    CONFIG_NULL,
    CONFIG_BOOL,
    CONFIG_INT, /* sign and magnitude, so that u64 and i64 both fit */
    CONFIG_FLOAT,
    CONFIG_STR,
    CONFIG_SEQ,
    CONFIG_OBJ
};

/* Names a place: a file (with a line) or an environment variable (line 0). The name is borrowed. */
struct config_where {
    enum config_source source;
    const char *name;
    uint32_t line;
};

struct config_child {
    char *key; /* NULL in a CONFIG_SEQ */
    struct config_node *node;
};

struct config_node {
    enum config_kind kind;
    struct config_where where;
    bool used; /* a known key has taken it; the others are reported as unknown */
    bool boolean;
    bool negative;
    uint64_t magnitude;
    double real;
    char *text; /* scalars: as written; CONFIG_STR: the value */
    struct config_child *children;
    size_t count, cap;
};

/* Names of variables and files, kept while trees point to them. */
struct config_names {
    char **items;
    size_t count;
};

struct config_node *config_node_new(enum config_kind kind, struct config_where where);
struct config_node *config_node_str(struct bytes text, struct config_where where);
/* NULL is accepted. */
void config_node_free(struct config_node *node);
/* "a map", "the text", ... for messages. */
const char *config_kind_name(enum config_kind kind);

/* Types a bare word; false if it is none of these kinds (the caller then takes it as text). Base
 * prefixes (0x, 0o, 0b) only where `yaml`. Fills kind, sign, magnitude or real, and text. */
bool config_node_set_int(struct config_node *node, struct bytes word, bool yaml);
bool config_node_set_float(struct config_node *node, struct bytes word);

/* NULL when absent or not a map. */
struct config_node *config_node_get(const struct config_node *map, struct bytes key);
/* Takes over `child`; an earlier one of that key is freed and *replaced (may be NULL) set.
 * ERR_TOO_LARGE when there are too many (the child is still the caller's). */
int config_node_put(struct config_node *map, struct bytes key, struct config_node *child,
                    bool *replaced);
/* Takes over `child`. */
int config_node_append(struct config_node *seq, struct config_node *child);
/* Lays `over` (freed) over `base`: maps merge, everything else is replaced. Returns the result. */
struct config_node *config_tree_merge(struct config_node *base, struct config_node *over);

const char *config_names_add(struct config_names *names, struct bytes name);
void config_names_free(struct config_names *names);

/* --- readers --------------------------------------------------------------------------------- */

/* One YAML document whose top is a map (or nothing at all). Duplicate keys are warned about; the
 * last one counts, as in the original. */
int config_yaml_parse(struct config_node **out, const char *name, struct bytes text,
                      struct config_warnings *warnings, struct err_text *why);
/* Finds and reads the file; *found is its path (mem_free). */
int config_file_read(const char *path, struct buf *text, char **found, struct err_text *why);

/* The TASKBROKER_ variables as a tree. */
int config_env_parse(struct config_node **out, char *const *environ_, struct config_names *names,
                     struct err_text *why);
/* One value in the grammar of environment values (spec/broker.md 2.1); never fails: what does not
 * parse is text. */
struct config_node *config_env_value(struct bytes text, struct config_where where);

void config_warn(struct config_warnings *warnings, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Appends the rest of the file; name stands for it in messages. ERR_IO; ERR_TOO_LARGE above
 * CONFIG_FILE_MAX. */
int config_read_text(int fd, const char *name, struct buf *text, struct err_text *why);

#endif
