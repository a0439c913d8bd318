/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crashes at every sync and between (INV-1, 2, 7, 11): a random workload over all tables runs on a
 * disk that is copied, as after a kill or a power cut, whenever SQLite writes or syncs. Each copy
 * must open, pass integrity_check and hold exactly the acknowledged transactions, the one being
 * committed wholly or not at all; what one open has delivered, a later power cut must not take
 * back; and a crash while a copy is being opened must not change what it holds.
 *
 *   test_store_crash [images] [seed]     also TASKMILL_CRASH_IMAGES, TASKMILL_SEED
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "crash_model.h"
#include "crash_vfs.h"

#define PATH "crash.sqlite"

struct run {
    struct crash_vfs *vfs;
    struct store *store;
    struct model model;
    struct buf acked, committing; /* texts; committing is empty outside a commit */
    uint64_t seed, images_wanted, images, kills, nested, events, torn_commits;
    unsigned image_of_8; /* chance of an image at an event */
    bool failed;
};

static struct store_options options_for(const struct crash_vfs *vfs)
{
    /* A small WAL limit, so that checkpoints happen all the time. */
    return (struct store_options){.path = PATH,
                                  .vfs = crash_vfs_name(vfs),
                                  .no_lock = true,
                                  .wal_limit_bytes = 96 * 1024,
                                  .cache_kib = 64};
}

static void complain(struct run *run, const char *what, const char *detail)
{
    run->failed = true;
    fprintf(stderr, "seed %llu, image %llu, event %llu: %s: %s\n", (unsigned long long)run->seed,
            (unsigned long long)run->images, (unsigned long long)run->events, what, detail);
}

/* The first line in which two texts differ. */
static void complain_difference(struct run *run, const char *what, struct buf *got,
                                struct buf *wanted)
{
    const char *a = buf_cstr(got), *b = buf_cstr(wanted);
    char detail[400];

    while (*a && *a == *b)
        a++, b++;
    snprintf(detail, sizeof detail, "has ...%.120s, should have ...%.120s (%zu and %zu bytes)", a,
             b, got->len, wanted->len);
    complain(run, what, detail);
}

/* Opens a disk and prints its content; NULL (after a complaint) when anything is wrong with it. */
static struct store *open_image(struct run *run, struct crash_vfs *vfs, struct buf *content)
{
    struct store *store = NULL;
    struct err_text why = {""};
    const struct store_options options = options_for(vfs);

    buf_clear(content);
    if (store_open(&store, &options, &why) != 0) {
        complain(run, "image does not open", why.s);
        return NULL;
    }
    if (store_integrity_check(store) == 0 && model_print_store(store, content) == 0)
        return store;
    complain(run, "image is damaged", store_why(store));
    store_abandon(store);
    return NULL;
}

static bool same(const struct buf *a, const struct buf *b)
{
    return bytes_equal(buf_bytes(a), buf_bytes(b));
}

static bool is_legal(struct run *run, struct buf *content)
{
    if (same(content, &run->acked))
        return true;
    if (!run->committing.len || !same(content, &run->committing))
        return false;
    run->torn_commits++; /* written, not acknowledged, survived: allowed */
    return true;
}

/* What an open has delivered is durable: a power cut right after it gives the same. */
static void cut_after_open(struct run *run, struct crash_vfs *vfs, struct buf *delivered,
                           uint64_t seed)
{
    struct crash_vfs *later = crash_vfs_image(vfs, CRASH_POWER, seed);
    struct buf content = {0};
    struct store *store = open_image(run, later, &content);

    if (store && !same(&content, delivered))
        complain_difference(run, "a power cut took back what an open had delivered", &content,
                            delivered);
    run->images++;
    store_abandon(store);
    crash_vfs_free(later);
    buf_free(&content);
}

/* Copies a disk at one event of its own recovery. */
struct nested {
    struct crash_vfs *vfs, *image;
    uint64_t countdown, seed;
};

static void on_nested(void *ctx, enum crash_event event, const char *name)
{
    struct nested *nested = (struct nested *)ctx;

    (void)event;
    (void)name;
    if (nested->image || nested->countdown-- > 0)
        return;
    nested->image =
        crash_vfs_image(nested->vfs, nested->seed & 1 ? CRASH_KILL : CRASH_POWER, nested->seed);
}

static void check_nested(struct run *run, struct nested *nested, enum crash_mode mode,
                         struct buf *expected)
{
    struct buf content = {0};
    struct store *store = open_image(run, nested->image, &content);

    /* After a kill nothing of the un-acknowledged commit was promised yet; after a power cut the
     * disk holds what it holds. */
    bool fine = store && (mode == CRASH_KILL ? is_legal(run, &content) : same(&content, expected));
    if (store && !fine)
        complain_difference(run, "a crash during recovery changed the content", &content, expected);
    run->images++;
    run->nested++;
    store_abandon(store);
    crash_vfs_free(nested->image);
    buf_free(&content);
}

static void check_image(struct run *run, enum crash_mode mode, uint64_t seed)
{
    struct crash_vfs *vfs = crash_vfs_image(run->vfs, mode, seed);
    struct nested nested = {.vfs = vfs, .countdown = seed >> 8 & 15, .seed = seed >> 16};
    struct buf content = {0};

    run->images++;
    run->kills += mode == CRASH_KILL;
    crash_vfs_set_hook(vfs, CRASH_ALL_EVENTS, on_nested, &nested);
    struct store *store = open_image(run, vfs, &content);
    crash_vfs_set_hook(vfs, 0, NULL, NULL);
    if (store && !is_legal(run, &content))
        complain_difference(run, "image is not what was committed", &content, &run->acked);
    if (store)
        cut_after_open(run, vfs, &content, seed + 1);
    if (store && nested.image)
        check_nested(run, &nested, mode, &content);
    else
        crash_vfs_free(nested.image);
    store_abandon(store);
    crash_vfs_free(vfs);
    buf_free(&content);
}

static void on_event(void *ctx, enum crash_event event, const char *name)
{
    struct run *run = (struct run *)ctx;
    uint64_t random = model_random(&run->model) ^ run->events++ << 32;

    (void)name;
    if (run->failed ||
        (!(event & (CRASH_BEFORE_SYNC | CRASH_AFTER_DELETE)) && random % 8 >= run->image_of_8))
        return;
    check_image(run, random & 8 ? CRASH_KILL : CRASH_POWER, random >> 4);
}

static void reprint(struct run *run)
{
    buf_clear(&run->acked);
    model_print(&run->model, &run->acked);
}

static bool ok(struct run *run, int rv, const char *what)
{
    if (rv)
        complain(run, what, run->store ? store_why(run->store) : err_string(rv));
    return rv == 0;
}

static void transaction(struct run *run)
{
    uint64_t writes = 1 + model_random(&run->model) % 8;
    int rv = store_begin(run->store);

    for (uint64_t i = 0; !rv && i < writes; i++)
        rv = model_write(&run->model, run->store);
    buf_clear(&run->committing);
    model_print(&run->model, &run->committing);
    if (ok(run, rv, "write") && ok(run, store_commit(run->store), "commit"))
        reprint(run);
    buf_clear(&run->committing);
}

static void add_source(struct run *run)
{
    struct model next = run->model;

    next.source_count += next.source_count < MODEL_SOURCES;
    buf_clear(&run->committing);
    model_print(&next, &run->committing);
    if (ok(run, model_add_source(&run->model, run->store), "add a source"))
        reprint(run);
    buf_clear(&run->committing);
}

static void reopen(struct run *run)
{
    struct err_text why = {""};
    const struct store_options options = options_for(run->vfs);

    if (model_random(&run->model) % 2)
        store_close(run->store);
    else
        store_abandon(run->store);
    run->store = NULL;
    if (store_open(&run->store, &options, &why) != 0)
        complain(run, "does not open again", why.s);
}

static void step(struct run *run)
{
    uint64_t kind = model_random(&run->model) % 64;

    if (kind == 0)
        reopen(run);
    else if (kind < 3)
        add_source(run);
    else if (kind < 16)
        ok(run, store_maintain(run->store, 2), "maintain");
    else
        transaction(run);
}

/* One disk from its first byte on; about a fifth of the images of the whole test. */
static void life(struct run *run, uint64_t seed, uint64_t images_until)
{
    run->seed = seed;
    run->vfs = crash_vfs_new(seed);
    crash_vfs_seed_sqlite((uint32_t)seed);
    model_init(&run->model, seed);
    reprint(run);
    crash_vfs_set_hook(run->vfs, CRASH_ALL_EVENTS, on_event, run);
    reopen(run);
    while (!run->failed && run->images < images_until)
        step(run);
    crash_vfs_set_hook(run->vfs, 0, NULL, NULL);
    store_close(run->store);
    run->store = NULL;
    crash_vfs_free(run->vfs);
}

static uint64_t parameter(int argc, char **argv, int index, const char *name, uint64_t fallback)
{
    const char *text = argc > index ? argv[index] : getenv(name);

    return text && *text ? strtoull(text, NULL, 10) : fallback;
}

int main(int argc, char **argv)
{
    struct run run = {.images_wanted = parameter(argc, argv, 1, "TASKMILL_CRASH_IMAGES", 5000),
                      .image_of_8 = 1};
    uint64_t seed = parameter(argc, argv, 2, "TASKMILL_SEED", 1);
    int64_t start_us = clock_boot_us();

    for (uint64_t i = 1; !run.failed && run.images < run.images_wanted; i++)
        life(&run, seed + i - 1, run.images_wanted * i / 5 + 1);
    double seconds = (double)(clock_boot_us() - start_us) / 1e6;
    printf(
        "store/crash: %llu crash images checked (%llu after a kill, %llu during a recovery, %llu "
        "with an un-acknowledged commit), %.0f a second: %s\n",
        (unsigned long long)run.images, (unsigned long long)run.kills,
        (unsigned long long)run.nested, (unsigned long long)run.torn_commits,
        (double)run.images / seconds, run.failed ? "FAILED" : "ok");
    buf_free(&run.acked);
    buf_free(&run.committing);
    return run.failed;
}
