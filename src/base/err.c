/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

const char *err_name(int code)
{
    switch (code) {
#define X(name, number, text) \
    case name:                \
        return #name;
        ERR_MAP(X)
#undef X
    default:
        return "ERR_?";
    }
}

const char *err_string(int code)
{
    switch (code) {
#define X(name, number, text) \
    case name:                \
        return text;
        ERR_MAP(X)
#undef X
    default:
        return "unknown error";
    }
}

/* Puts "..." at the end of a full buffer without leaving half of a UTF-8 character before it. */
static void mark_cut(char *s, size_t size)
{
    size_t cut = size - sizeof("...");

    while (cut > 0 && ((unsigned char)s[cut] & 0xC0) == 0x80)
        cut--;
    memcpy(s + cut, "...", sizeof("..."));
}

int err_setv(struct err_text *why, int code, const char *fmt, va_list ap)
{
    /* Formatted apart, because callers prefix a text with itself: err_set(why, rv, "%s: %s", path,
     * why->s) */
    char line[sizeof(why->s)];

    if (!why)
        return code;
    int len = vsnprintf(line, sizeof(line), fmt, ap);
    if (len < 0)
        (void)snprintf(line, sizeof(line), "%s", err_string(code));
    else if ((size_t)len >= sizeof(line))
        mark_cut(line, sizeof(line));
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    memcpy(why->s, line, sizeof(line));
    return code;
}

int err_set(struct err_text *why, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_setv(why, code, fmt, ap);
    va_end(ap);
    return code;
}
