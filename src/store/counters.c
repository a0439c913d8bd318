/* SPDX-License-Identifier: Apache-2.0 */
/* What SQLite tells about its connection. */
#include "store/sql.h"

struct gauge {
    int op;
    size_t offset; /* in struct store_counters */
    bool highwater;
};

int store_get_counters(struct store *store, struct store_counters *out)
{
    static const struct gauge gauges[] = {
        {SQLITE_DBSTATUS_CACHE_USED, offsetof(struct store_counters, cache_used_bytes), false},
        {SQLITE_DBSTATUS_CACHE_USED_SHARED,
         offsetof(struct store_counters, cache_used_shared_bytes), false},
        {SQLITE_DBSTATUS_CACHE_HIT, offsetof(struct store_counters, cache_hits), false},
        {SQLITE_DBSTATUS_CACHE_MISS, offsetof(struct store_counters, cache_misses), false},
        {SQLITE_DBSTATUS_CACHE_WRITE, offsetof(struct store_counters, cache_writes), false},
        {SQLITE_DBSTATUS_CACHE_SPILL, offsetof(struct store_counters, cache_spills), false},
        {SQLITE_DBSTATUS_SCHEMA_USED, offsetof(struct store_counters, schema_used_bytes), false},
        {SQLITE_DBSTATUS_STMT_USED, offsetof(struct store_counters, stmt_used_bytes), false},
        {SQLITE_DBSTATUS_LOOKASIDE_USED, offsetof(struct store_counters, lookaside_used), false},
        {SQLITE_DBSTATUS_LOOKASIDE_HIT, offsetof(struct store_counters, lookaside_hits), true},
        {SQLITE_DBSTATUS_LOOKASIDE_MISS_SIZE,
         offsetof(struct store_counters, lookaside_misses_size), true},
        {SQLITE_DBSTATUS_LOOKASIDE_MISS_FULL,
         offsetof(struct store_counters, lookaside_misses_full), true},
        {SQLITE_DBSTATUS_DEFERRED_FKS, offsetof(struct store_counters, deferred_fks), false},
    };
    int rv = store_check(store);

    for (size_t i = 0; rv == 0 && i < sizeof gauges / sizeof *gauges; i++) {
        int now, highwater;
        int rc = sqlite3_db_status(store->db, gauges[i].op, &now, &highwater, 0);
        if (rc != SQLITE_OK) /* a counter that this SQLite does not have is no fault of the file */
            return ERR_UNSUPPORTED;
        int64_t *value = (int64_t *)((char *)out + gauges[i].offset);
        *value = gauges[i].highwater ? highwater : now;
    }
    return rv;
}

const struct store_upkeep *store_last_upkeep(const struct store *store)
{
    return &store->upkeep;
}
