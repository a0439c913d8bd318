/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life cycles (insert, claim, delete) a second of one store on a real disk, synchronous=FULL, for
 * several numbers of cycles a transaction. Not a test: bench_store FOLDER [seconds-per-line]
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/store.h"

#define PAYLOAD_LEN 350

static const char payload[PAYLOAD_LEN];

static void die(const char *why)
{
    fprintf(stderr, "bench_store: %s\n", why);
    exit(1);
}

/* Ids are random to the index, as UUIDs are. */
static struct bytes id_of(char out[33], int64_t rowid)
{
    uint64_t a = (uint64_t)rowid * 0x9e3779b97f4a7c15u, b = (a ^ a >> 29) * 0xbf58476d1ce4e5b9u;

    snprintf(out, 33, "%016llx%016llx", (unsigned long long)b, (unsigned long long)a);
    return bytes_of(out, 32);
}

static int insert(struct store *store, int64_t rowid)
{
    char id[33];
    const struct store_row row = {.rowid = rowid,
                                  .id = id_of(id, rowid),
                                  .activation = bytes_of(payload, sizeof payload),
                                  .partition = 1,
                                  .offset = rowid,
                                  .added_at_s = 1790000000,
                                  .received_at_s = 1790000000,
                                  .expires_at_s = STORE_NULL,
                                  .delay_until_s = STORE_NULL,
                                  .processing_deadline_s = STORE_NULL,
                                  .claim_expires_at_s = STORE_NULL,
                                  .processing_deadline_duration_s = 30,
                                  .has_namespace = true,
                                  .namespace = bytes_str("examples"),
                                  .taskname = bytes_str("examples.simple_task"),
                                  .application = bytes_str("sentry"),
                                  .on_attempts_exceeded = 1,
                                  .bucket = rowid & 255,
                                  .source = 1,
                                  .due_ms = STORE_NULL};

    return store_insert(store, &row);
}

static int claim(struct store *store, int64_t rowid)
{
    char id[33];
    const struct store_change change = {.status = STORE_PROCESSING,
                                        .processing_deadline_s = 1790000033,
                                        .due_ms = 1790000033123,
                                        .on_attempts_exceeded = 1};

    return store_update(store, rowid, id_of(id, rowid), &change);
}

static int delete (struct store *store, int64_t rowid)
{
    char id[33];

    return store_delete(store, rowid, id_of(id, rowid));
}

/* One transaction: `batch` rows come, those that came `behind` and two times `behind` rows ago are
 * claimed and end. */
static int turn(struct store *store, int64_t first, int64_t batch, int64_t behind)
{
    int rv = store_begin(store);

    for (int64_t i = first; !rv && i < first + batch; i++) {
        rv = insert(store, i);
        if (!rv && i > behind)
            rv = claim(store, i - behind);
        if (!rv && i > 2 * behind)
            rv = delete (store, i - 2 * behind);
    }
    return rv ? rv : store_commit(store);
}

static void measure(const char *folder, int64_t batch, int64_t behind, double seconds)
{
    char path[400], name[420];
    struct err_text why;
    struct store *store;
    struct store_size size;
    int64_t rows = 0, slowest_us = 0;

    snprintf(path, sizeof path, "%s/bench-store.sqlite", folder);
    const struct store_options options = {.path = path};
    if (store_open(&store, &options, &why) != 0)
        die(why.s);
    int64_t start_us = clock_boot_us(), now_us = start_us;
    while (now_us - start_us < (int64_t)(seconds * 1e6)) {
        if (turn(store, rows + 1, batch, behind) != 0 || store_maintain(store, 5) != 0)
            die(store_why(store));
        rows += batch;
        int64_t end_us = clock_boot_us();
        if (end_us - now_us > slowest_us)
            slowest_us = end_us - now_us;
        now_us = end_us;
    }
    store_size(store, &size);
    printf(
        "%8lld a transaction, %7lld rows inside: %8.0f cycles/s, slowest turn %5.1f ms, file %5.1f "
        "MiB, WAL %5.1f MiB\n",
        (long long)batch, 2 * (long long)behind, (double)rows / ((double)(now_us - start_us) / 1e6),
        (double)slowest_us / 1e3, (double)size.file_bytes / 1048576,
        (double)size.wal_bytes / 1048576);
    store_close(store);
    unlink(path);
    snprintf(name, sizeof name, "%s.lock", path);
    unlink(name);
}

static double seconds_of(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end != '\0' || !(seconds > 0))
        die("SECONDS must be a number above 0");
    return seconds;
}

int main(int argc, char **argv)
{
    static const int64_t batches[] = {1, 8, 32, 256, 1024};
    double seconds = argc > 2 ? seconds_of(argv[2]) : 3;

    if (argc < 2)
        die("usage: bench_store FOLDER [SECONDS]");
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        measure(argv[1], batches[i], 2048, seconds);
    measure(argv[1], 256, 100000, 2 * seconds);
    return 0;
}
