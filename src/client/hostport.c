/* SPDX-License-Identifier: Apache-2.0 */
#include "client/hostport.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static int parse_port(const char *text, uint16_t *port)
{
    unsigned long number;
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return ERR_INVALID;
    number = strtoul(text, &end, 10);
    if (*end != '\0' || number == 0 || number > UINT16_MAX)
        return ERR_INVALID;
    *port = (uint16_t)number;
    return 0;
}

int hostport_parse(const char *text, char host[HOSTPORT_HOST_MAX], uint16_t *port)
{
    const char *colon = strrchr(text, ':'), *start = text, *stop = colon;

    if (colon == NULL)
        return ERR_INVALID;
    if (text[0] == '[') {
        start++;
        stop--;
        if (stop <= start || *stop != ']')
            return ERR_INVALID;
    } else if (memchr(text, ':', (size_t)(colon - text)) != NULL) {
        return ERR_INVALID;
    }
    if (stop == start || stop - start >= HOSTPORT_HOST_MAX)
        return ERR_INVALID;
    memcpy(host, start, (size_t)(stop - start));
    host[stop - start] = '\0';
    return parse_port(colon + 1, port);
}
