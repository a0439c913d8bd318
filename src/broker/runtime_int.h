/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a struct runtime, for runtime.c (the file) and runtime_match.c (the matching). */
#ifndef TASKMILL_BROKER_RUNTIME_INT_H
#define TASKMILL_BROKER_RUNTIME_INT_H

#include <stdatomic.h>

#include "broker/config_tree.h"
#include "broker/runtime.h"

struct runtime_selector {
    uint64_t index; /* of args */
    const struct config_node *value;
};

struct runtime_rule {
    const char *name;
    uint32_t line;
    bool whole;                    /* a plain name */
    struct runtime_selector *args; /* select_arg */
    size_t arg_count;
    const struct config_node *kwargs; /* select_kwarg, a map; NULL: none */
};

struct runtime {
    _Atomic unsigned refs;
    struct config_node *root;   /* all texts and values below point into it */
    struct runtime_rule *rules; /* by name; of one name, plain ones first */
    size_t rule_count;
    const char **namespaces; /* sorted */
    size_t namespace_count;
    const char *topic, *cluster; /* NULL: default */
};

#endif
