/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/meters.h"

#include "base/mem.h"

static const struct metric_def defs[METERS] = {
#define X(id, text, of_kind, unit, keys, line) \
    [id] = {.name = (text), .help = (line), .kind = (of_kind), .scale = (unit), .labels = keys},
    METERS_MAP(X)
#undef X
};

struct meters {
    struct metrics *registry;
    struct metric_family *families[METERS];
    struct metric *singles[METERS]; /* of families without labels */
};

/* Label values that are known before anything happens: series that are exported as 0. */
struct known_value {
    enum meter meter;
    const char *values[2];
};

static const struct known_value known_values[] = {
    {METER_TRANSITIONS, {"completed"}},
    {METER_TRANSITIONS, {"failed"}},
    {METER_TRANSITIONS, {"retried"}},
    {METER_CLEANUP, {"publish_deadlettered"}},
    {METER_CLEANUP, {"removed_expired"}},
    {METER_CLEANUP, {"delete_discarded"}},
    {METER_CLEANUP, {"mark_processing_attempts_exceeded_as_failure"}},
    {METER_CLEANUP, {"processing_deadline_exceeded"}},
    {METER_CLEANUP, {"mark_delay_elapsed_as_pending"}},
    {METER_HEALTH, {"healthy"}},
    {METER_HEALTH, {"unhealthy"}},
    {METER_PENDING, {METER_DEPTH_TOPIC, METER_DEPTH_PARTITION}},
    {METER_CLAIMED, {METER_DEPTH_TOPIC, METER_DEPTH_PARTITION}},
    {METER_PROCESSING, {METER_DEPTH_TOPIC, METER_DEPTH_PARTITION}},
    {METER_DELAYED, {METER_DEPTH_TOPIC, METER_DEPTH_PARTITION}},
};

const struct metric_def *meter_def(enum meter meter)
{
    assert(meter < METERS);
    return &defs[meter];
}

struct meters *meters_new(void)
{
    struct meters *meters = mem_zalloc(sizeof *meters);
    meters->registry = metrics_new(METERS_SERIES_MAX);
    for (int i = 0; i < METERS; i++) {
        meters->families[i] = metrics_family(meters->registry, &defs[i]);
        if (!defs[i].labels[0])
            meters->singles[i] = metrics_series(meters->families[i], NULL);
    }
    for (size_t i = 0; i < sizeof known_values / sizeof *known_values; i++) {
        const struct known_value *known = &known_values[i];
        const char *second = known->values[1] ? known->values[1] : "";
        meter_series(meters, known->meter,
                     METER_TAGS(bytes_str(known->values[0]), bytes_str(second)));
    }
    return meters;
}

void meters_free(struct meters *meters)
{
    if (!meters)
        return;
    metrics_free(meters->registry);
    mem_free(meters);
}

struct metrics *meters_registry(const struct meters *meters)
{
    return meters->registry;
}

struct metric *meter_series(struct meters *meters, enum meter meter, const struct bytes *values)
{
    assert(meter < METERS);
    return metrics_series(meters->families[meter], values);
}

static struct metric *single(struct meters *meters, enum meter meter)
{
    assert(meter < METERS && meters->singles[meter]);
    return meters->singles[meter];
}

void meter_add(struct meters *meters, enum meter meter, uint64_t n)
{
    metric_add(single(meters, meter), n);
}

void meter_set(struct meters *meters, enum meter meter, int64_t value)
{
    metric_set(single(meters, meter), value);
}

void meter_observe(struct meters *meters, enum meter meter, uint64_t value)
{
    metric_observe(single(meters, meter), value);
}

/* A cheap mix of what tells names apart; a collision only costs the look-up. */
static size_t slot_of(enum meter meter, const struct bytes *values)
{
    uint64_t mix = 0;
    for (size_t i = 0; i < METRIC_LABELS_MAX && defs[meter].labels[i]; i++) {
        const struct bytes *value = &values[i];
        uint64_t tail = 0;
        size_t len = value->len < sizeof tail ? value->len : sizeof tail;
        if (len)
            memcpy(&tail, value->ptr + value->len - len, len);
        mix = (mix ^ tail ^ value->len) * UINT64_C(0x9e3779b97f4a7c15);
        mix ^= mix >> 32;
    }
    return mix % METER_CACHE_SLOTS;
}

struct metric *meter_cached(struct meter_cache *cache, struct meters *meters, enum meter meter,
                            const struct bytes *values)
{
    struct metric **slot = &cache->slots[slot_of(meter, values)];
    if (!*slot || !metric_has_values(*slot, values))
        *slot = meter_series(meters, meter, values);
    return *slot;
}
