/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators who change the runtime configuration, and what must be true once it is in force: no
 * task that a rule kills lives on (one whose record is with the producer waits for its report), and
 * none of a demoted namespace waits. Each broker has a configuration of its own and keeps it over a
 * restart.
 */
#include "sim.h"

#include "base/mem.h"

static const struct rule_set {
    const char *text;
    bool kills_second; /* by name */
    bool kills_arg;    /* the first name with the argument 1 */
    bool demotes_first, demotes_second;
} rule_sets[] = {
    {.text = "drop_task_killswitch: []\ndemoted_namespaces: []\n"},
    {.text = "drop_task_killswitch: [task2]\ndemoted_namespaces: []\n", .kills_second = true},
    {.text = "drop_task_killswitch: [{name: task, select_arg: {0: 1}}]\ndemoted_namespaces: []\n",
     .kills_arg = true},
    {.text = "drop_task_killswitch: []\ndemoted_namespaces: [b]\n", .demotes_second = true},
    {.text = "drop_task_killswitch: []\ndemoted_namespaces: [a, b]\n",
     .demotes_first = true,
     .demotes_second = true},
    {.text = "drop_task_killswitch: [{name: task, select_arg: {0: 1}}]\ndemoted_namespaces: [a]\n",
     .kills_arg = true,
     .demotes_first = true},
};
#define RULE_SETS (sizeof rule_sets / sizeof *rule_sets)

static bool kills(const struct rule_set *set, const struct fact *fact)
{
    return fact->second_name ? set->kills_second : set->kills_arg && fact->arg == 1;
}

static bool demotes(const struct rule_set *set, const struct fact *fact)
{
    return !fact->at_most_once &&
           (fact->second_namespace ? set->demotes_second : set->demotes_first);
}

void sim_rules_see(const struct sim *sim, struct fact *fact)
{
    for (int n = 0; n < sim->node_count; n++)
        for (size_t i = 0; i < RULE_SETS; i++)
            if (sim->nodes[n].rule_sets & 1u << i && kills(&rule_sets[i], fact))
                fact->killable = true;
}

void sim_rules_post(struct sim_node *node)
{
    struct config_warnings warnings = {0};
    struct err_text why;
    struct engine_rules *rules = engine_event_new(EVENT_RULES, sizeof *rules);
    if (runtime_parse(&rules->runtime, "r.yml", bytes_str(rule_sets[node->rule_set].text),
                      &warnings, &why))
        sim_violation(node->sim, "rules: %s", why.s);
    rules->forwards = true;
    rules->forward_topic = mem_strdup("long");
    if (sim_chance(node->sim, 50))
        rules->forward_cluster = mem_strdup("far");
    node->rule_sets |= 1u << node->rule_set;
    sim_node_post(node, &rules->event);
}

void sim_rules_change(struct sim_node *node)
{
    struct sim *sim = node->sim;
    node->rule_set = (size_t)sim_below(sim, RULE_SETS);
    sim_trace(sim, "node %d gets rules %zu", node->index, node->rule_set);
    sim_rules_post(node);
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it))
        sim_rules_see(sim, container_of(it, struct fact, by_id));
}

static void check_fact(const struct sim_node *node, const struct fact *fact)
{
    const struct rule_set *set = &rule_sets[node->rule_set];
    const struct task *task = inflight_find(node->engine->inflight, bytes_str(fact->id));
    if (!task)
        return;
    bool waits = task->state == TASK_PENDING || task->state == TASK_DELAY;
    if (kills(set, fact) && !task->handed)
        sim_violation(node->sim, "task %s lives on node %d though a rule kills it", fact->id,
                      node->index);
    if (demotes(set, fact) && waits)
        sim_violation(node->sim, "task %s waits on node %d though it is demoted", fact->id,
                      node->index);
}

static void note_entry(struct sim_node *node, const struct outbox_entry *entry)
{
    struct activation activation;
    struct blob *payload;
    const char *why;
    if (store_read_outbox(node->store, entry->entry, &payload))
        return; /* not in the file: then it does not count */
    if (activation_parse(blob_bytes(payload), &activation, &why) == 0)
        sim_fact(node->sim, activation.id)->in_outbox[node->index] = true;
    blob_unref(payload);
}

static void note_outbox(struct sim_node *node)
{
    struct sim *sim = node->sim;
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it))
        container_of(it, struct fact, by_id)->in_outbox[node->index] = false;
    list_foreach (&node->engine->outbox, it) {
        const struct outbox_entry *entry = container_of(it, struct outbox_entry, link);
        if (entry->header_count == 0)
            note_entry(node, entry);
    }
}

void sim_rules_check(struct sim_node *node)
{
    if (!node->sim->rules)
        return;
    note_outbox(node);
    if (node->events || engine_has_backlog(node->engine))
        return;
    node->rule_sets = 1u << node->rule_set;
    if (engine_sweep_is_due(node->engine))
        return;
    const struct map *facts = &node->sim->facts;
    for (struct map_node *it = map_first(facts); it; it = map_next(facts, it))
        check_fact(node, container_of(it, struct fact, by_id));
}
