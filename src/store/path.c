/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "store/sql.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "%41" becomes "A"; a percent sign that starts no such triple stays as it is. In place. */
static void percent_decode(char *s)
{
    char *out = s;

    while (*s) {
        int high = *s == '%' ? hex_digit(s[1]) : -1;
        int low = high >= 0 ? hex_digit(s[2]) : -1;
        if (low >= 0 && (high | low) != 0) {
            *out++ = (char)(high << 4 | low);
            s += 3;
        } else {
            *out++ = *s++;
        }
    }
    *out = '\0';
}

static const char *skip_prefix(const char *s, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(s, prefix, len) == 0 ? s + len : s;
}

int path_parse(const char *text, char **path, struct err_text *why)
{
    const char *name = skip_prefix(skip_prefix(text, "sqlite://"), "sqlite:");
    char *copy = mem_strndup(name, strcspn(name, "?"));

    percent_decode(copy);
    if (!*copy || copy[0] == ':') { /* ":memory:" and "" would be databases that nothing keeps */
        err_set(why, ERR_INVALID, "\"%s\" is not the path of a database file", text);
        mem_free(copy);
        return ERR_INVALID;
    }
    *path = copy;
    return 0;
}
