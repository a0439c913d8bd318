/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/hosts.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "client/hostport.h"

static int add(struct host_list *list, const char *text, struct err_text *why)
{
    char host[HOSTPORT_HOST_MAX];
    uint16_t port;

    if (hostport_parse(text, host, &port) != 0)
        return err_set(why, ERR_INVALID,
                       "broker '%s': write host:port, for example 127.0.0.1:50051", text);
    if (list->count == HOSTS_MAX)
        return err_set(why, ERR_TOO_LARGE, "more than %d brokers", HOSTS_MAX);
    list->items = mem_realloc(list->items, (list->count + 1) * sizeof *list->items);
    list->items[list->count++] = mem_strdup(text);
    return 0;
}

static int add_trimmed(struct host_list *list, const char *text, size_t len, struct err_text *why)
{
    char *entry;
    int rv;

    while (len > 0 && (text[0] == ' ' || text[0] == '\t')) {
        text++;
        len--;
    }
    while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    if (len == 0)
        return 0;
    entry = mem_strndup(text, len);
    rv = add(list, entry, why);
    mem_free(entry);
    return rv;
}

int hosts_from_list(const char *text, struct host_list *out, struct err_text *why)
{
    int rv = 0;

    *out = (struct host_list){0};
    while (rv == 0 && *text != '\0') {
        size_t len = strcspn(text, ",");

        rv = add_trimmed(out, text, len, why);
        text += len + (text[len] == ',');
    }
    if (rv == 0 && out->count == 0)
        rv = err_set(why, ERR_INVALID, "the list of brokers is empty");
    if (rv != 0)
        hosts_free(out);
    return rv;
}

static bool is_address(const char *host)
{
    struct in_addr v4;

    return strchr(host, ':') != NULL || inet_pton(AF_INET, host, &v4) == 1;
}

int hosts_numbered(const char *host, uint32_t n, struct host_list *out, struct err_text *why)
{
    char name[HOSTPORT_HOST_MAX];
    struct buf text = {0};
    uint16_t port;
    size_t label;
    int rv = 0;

    *out = (struct host_list){0};
    if (hostport_parse(host, name, &port) != 0 || is_address(name))
        return err_set(why, ERR_INVALID, "broker '%s': only a name:port can be numbered", host);
    label = strcspn(name, ".");
    for (uint32_t i = 0; i < n && rv == 0; i++) {
        buf_clear(&text);
        buf_printf(&text, "%.*s-%u%s:%u", (int)label, name, i, name + label, port);
        rv = add(out, buf_cstr(&text), why);
    }
    buf_free(&text);
    if (rv != 0)
        hosts_free(out);
    return rv;
}

void hosts_free(struct host_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        mem_free(list->items[i]);
    mem_free(list->items);
    *list = (struct host_list){0};
}
