/* SPDX-License-Identifier: Apache-2.0 */
/* Reading YAML for commands_file.c and commands_keys.c: values with their limits, and errors that
 * name file, line and key. */
#ifndef TASKMILL_WORKER_COMMANDS_READER_H
#define TASKMILL_WORKER_COMMANDS_READER_H

#include <yaml.h>

#include "base/err.h"
#include "worker/tasks.h"

struct reader {
    yaml_document_t document;
    const char *path; /* of the file */
    char *folder;     /* where it is, absolute */
    struct tasks *tasks;
    struct taskmill_app *app;
    struct err_text *why;
    yaml_node_t *key; /* the one that reader_each_entry has reached last */
};

/* "PATH line N: ..."; returns ERR_INVALID. */
int reader_fault(struct reader *reader, const yaml_node_t *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* NULL if the node is no scalar or holds a NUL. */
const char *reader_text(const yaml_node_t *node);
yaml_node_t *reader_node(struct reader *reader, int index);

/* Calls `each` with every key and value of a map, until it fails; a key that stands there twice is
 * an error. `what` is the map's name in messages. */
typedef int (*reader_entry_fn)(struct reader *reader, const char *key, yaml_node_t *value,
                               void *ctx);
int reader_each_entry(struct reader *reader, yaml_node_t *map, const char *what,
                      reader_entry_fn each, void *ctx);
/* The same for the texts of a list. */
typedef int (*reader_item_fn)(struct reader *reader, const char *text, yaml_node_t *value,
                              void *ctx);
int reader_each_item(struct reader *reader, yaml_node_t *list, const char *what,
                     reader_item_fn each, void *ctx);

/* Whole numbers from `min` to `max`. */
int reader_number(struct reader *reader, const char *key, yaml_node_t *value, uint64_t min,
                  uint64_t max, uint64_t *out);
int reader_u32(struct reader *reader, const char *key, yaml_node_t *value, uint32_t min,
               uint32_t *out);
/* Bytes: a whole number, perhaps with k, M or G (1024 each) behind it. */
int reader_size(struct reader *reader, const char *key, yaml_node_t *value, uint64_t *out);
int reader_bool(struct reader *reader, const char *key, yaml_node_t *value, bool *out);
/* One of `names`, which ends with NULL; *out is its index. */
int reader_choice(struct reader *reader, const char *key, yaml_node_t *value,
                  const char *const *names, int *out);

#endif
