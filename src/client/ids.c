/* SPDX-License-Identifier: Apache-2.0 */
#include "client/ids.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "client/error.h"
#include "wire/ident.h"

_Static_assert(TASKMILL_ID_SIZE > IDENT_DASHED_LEN, "an id of either spelling fits");

/* Straight from the kernel: a forked child never repeats an id of its parent. */
static int random_id(char id[IDENT_HEX_LEN + 1])
{
    uint8_t random[16];

    while (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        if (errno != EINTR)
            return error_set(ERR_SYSTEM, "getrandom: %s", strerror(errno));
    ident_random(id, random);
    return 0;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Lower case only: brokers compare ids byte by byte. */
static bool well_spelled(const char *id, size_t len)
{
    bool dashed = len == IDENT_DASHED_LEN;

    if (!dashed && len != IDENT_HEX_LEN)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = dashed && (i == 8 || i == 13 || i == 18 || i == 23);

        if (dash ? id[i] != '-' : !is_hex(id[i]))
            return false;
    }
    return true;
}

int ids_choose(char id[TASKMILL_ID_SIZE], const char *given)
{
    size_t len;

    if (given == NULL)
        return random_id(id);
    len = strnlen(given, TASKMILL_ID_SIZE);
    if (!well_spelled(given, len))
        return error_set(ERR_INVALID,
                         "send_id '%.*s': write 32 lower-case hexadecimal digits, or 36 characters "
                         "with dashes as in 01234567-89ab-cdef-0123-456789abcdef",
                         TASKMILL_ID_SIZE, given);
    memcpy(id, given, len + 1);
    return 0;
}
