/* SPDX-License-Identifier: Apache-2.0 */
#include "client/names.h"

#include <sys/random.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"

#define COMPARED_MAX 16 /* more are hashed */

static struct bytes text_of(const struct name *name, struct bytes content)
{
    return bytes_of(content.ptr + name->at, name->len);
}

/* Where it is, or where it would go. */
static size_t slot_of(const struct names *names, struct bytes content, struct bytes text,
                      uint64_t hash)
{
    size_t slot = hash & (names->slot_count - 1);

    while (names->slots[slot] != 0) {
        const struct name *other = &names->list[names->slots[slot] - 1];

        if (other->hash == hash && bytes_equal(text_of(other, content), text))
            break;
        slot = (slot + 1) & (names->slot_count - 1);
    }
    return slot;
}

bool names_has(const struct names *names, struct bytes content, struct bytes name)
{
    if (names->slots != NULL)
        return names->slots[slot_of(names, content, name, hash_bytes(names->seed, name))] != 0;
    for (size_t i = 0; i < names->count; i++)
        if (bytes_equal(text_of(&names->list[i], content), name))
            return true;
    return false;
}

static void put_slot(struct names *names, struct bytes content, size_t index)
{
    struct name *name = &names->list[index];
    struct bytes text = text_of(name, content);

    name->hash = hash_bytes(names->seed, text);
    names->slots[slot_of(names, content, text, name->hash)] = (uint32_t)index + 1;
}

/* A seed that cannot be had is no reason to refuse a map: the clock is the next best. */
static void choose_seed(struct names *names)
{
    if (getrandom(names->seed, sizeof names->seed, 0) != (ssize_t)sizeof names->seed)
        names->seed[0] ^= (uint64_t)clock_boot_us();
}

/* At most half of the slots are taken. */
static void grow_slots(struct names *names, struct bytes content)
{
    if (names->slots == NULL)
        choose_seed(names);
    mem_free(names->slots);
    names->slot_count = names->slot_count ? names->slot_count * 2 : 4 * COMPARED_MAX;
    names->slots = mem_calloc(names->slot_count, sizeof *names->slots);
    for (size_t i = 0; i < names->count; i++)
        put_slot(names, content, i);
}

void names_add(struct names *names, struct bytes content, size_t at, size_t len)
{
    if (names->count == names->cap) {
        names->cap = names->cap ? names->cap * 2 : 8;
        names->list = mem_realloc(names->list, names->cap * sizeof *names->list);
    }
    names->list[names->count++] = (struct name){.at = at, .len = len};
    if (names->count <= COMPARED_MAX)
        return;
    if (names->count * 2 > names->slot_count)
        grow_slots(names, content);
    else
        put_slot(names, content, names->count - 1);
}

void names_free(struct names *names)
{
    mem_free(names->list);
    mem_free(names->slots);
    *names = (struct names){0};
}
