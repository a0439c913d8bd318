/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who owned which stretch of a partition, as commits carry it, and what that means for an
 * at-most-once row. The text is written by brokers of this kind only, but lives in the group's
 * offsets, where anybody may write: it is parsed strictly, and whatever differs from what
 * owners_format would write is no list.
 */
#include <assert.h>
#include <stdio.h>

#include "base/plant.h"
#include "core/offsets.h"

#define MARK "tm1:"

/* --- text ------------------------------------------------------------------------------------- */

static bool take(struct bytes *text, const char *expected)
{
    size_t len = strlen(expected);

    if (text->len < len || memcmp(text->ptr, expected, len) != 0)
        return false;
    *text = bytes_of(text->ptr + len, text->len - len);
    return true;
}

static bool take_store_id(struct bytes *text, char out[STORE_ID_LEN + 1])
{
    if (text->len < STORE_ID_LEN)
        return false;
    for (size_t i = 0; i < STORE_ID_LEN; i++) {
        uint8_t c = text->ptr[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
        out[i] = (char)c;
    }
    out[STORE_ID_LEN] = '\0';
    *text = bytes_of(text->ptr + STORE_ID_LEN, text->len - STORE_ID_LEN);
    return true;
}

/* Decimal without sign and leading zeros. */
static bool take_offset(struct bytes *text, int64_t *out)
{
    size_t len = 0;
    int64_t value = 0;

    for (; len < text->len && text->ptr[len] >= '0' && text->ptr[len] <= '9'; len++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, text->ptr[len] - '0', &value))
            return false;
    if (len == 0 || (len > 1 && text->ptr[0] == '0'))
        return false;
    *text = bytes_of(text->ptr + len, text->len - len);
    *out = value;
    return true;
}

static bool take_owner(struct bytes *text, struct owner *out)
{
    return take_store_id(text, out->store_id) && take(text, "@") &&
           take_offset(text, &out->first_offset);
}

static bool parse(struct bytes text, struct owners *out)
{
    if (!take(&text, MARK))
        return false;
    do {
        if (out->count == OWNERS_MAX || !take_owner(&text, &out->list[out->count]))
            return false;
        const struct owner *added = &out->list[out->count++];
        if (out->count > 1 && added->first_offset <= added[-1].first_offset)
            return false;
    } while (take(&text, ","));
    return text.len == 0;
}

bool owners_parse(struct bytes metadata, struct owners *out)
{
    *out = (struct owners){0};
    if (parse(metadata, out))
        return true;
    *out = (struct owners){0};
    return false;
}

size_t owners_format(const struct owners *owners, char out[OWNERS_TEXT_MAX])
{
    size_t len = 0;

    assert(owners->count <= OWNERS_MAX);
    out[0] = '\0';
    for (size_t i = 0; i < owners->count; i++) {
        const struct owner *owner = &owners->list[i];
        int written = snprintf(out + len, OWNERS_TEXT_MAX - len, "%s%s@%lld", i ? "," : MARK,
                               owner->store_id, (long long)owner->first_offset);
        assert(written > 0 && (size_t)written < OWNERS_TEXT_MAX - len);
        len += (size_t)written;
    }
    return len;
}

/* --- the list --------------------------------------------------------------------------------- */

void owners_append(struct owners *owners, const char *store_id, int64_t first_offset)
{
    assert(strlen(store_id) == STORE_ID_LEN && first_offset >= 0);
    while (owners->count && owners->list[owners->count - 1].first_offset >= first_offset)
        owners->count--;
    if (owners->count && strcmp(owners->list[owners->count - 1].store_id, store_id) == 0)
        return;
    if (owners->count == OWNERS_MAX)
        memmove(&owners->list[0], &owners->list[1], --owners->count * sizeof(owners->list[0]));
    struct owner *self = &owners->list[owners->count++];
    memcpy(self->store_id, store_id, STORE_ID_LEN + 1);
    self->first_offset = first_offset;
}

const struct owner *owners_of(const struct owners *owners, int64_t offset)
{
    for (size_t i = owners->count; i-- > 0;)
        if (owners->list[i].first_offset <= offset)
            return &owners->list[i];
    return NULL;
}

/* --- at most once ----------------------------------------------------------------------------- */

/* The group has committed past the row: nobody will read it again, so the list decides whose it is.
 */
static enum ownership of_committed(const struct ownership_facts *facts, const char *store_id,
                                   int64_t offset)
{
    const struct owner *owner = owners_of(&facts->owners, offset);

    if (PLANTED(PLANT_CONFIRM_BY_OFFSET_ALONE))
        return OWNERSHIP_CONFIRMED;
    if (!owner)
        return facts->legacy ? OWNERSHIP_CONFIRMED : OWNERSHIP_UNKNOWN;
    return strcmp(owner->store_id, store_id) == 0 ? OWNERSHIP_CONFIRMED : OWNERSHIP_FOREIGN;
}

/* The row will be read (again) by whoever has the partition. */
static enum ownership of_uncommitted(const struct ownership_facts *facts, int64_t offset)
{
    if (facts->assigned || facts->low == -1)
        return OWNERSHIP_WAIT;
    return facts->low <= offset ? OWNERSHIP_FOREIGN : OWNERSHIP_UNKNOWN;
}

enum ownership ownership_of(const struct ownership_facts *facts, const char *store_id,
                            int64_t offset)
{
    return facts->committed > offset ? of_committed(facts, store_id, offset)
                                     : of_uncommitted(facts, offset);
}
