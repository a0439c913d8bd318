/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/mem.h"
#include "redis/redis.h"

#define DB_MAX 1000000

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* NULL for a broken %-code or one that means NUL. */
static char *decode(struct bytes text)
{
    char *out = mem_alloc(text.len + 1);
    size_t len = 0;

    for (size_t i = 0; i < text.len; i++) {
        int high, low;

        if (text.ptr[i] != '%') {
            out[len++] = (char)text.ptr[i];
            continue;
        }
        high = i + 2 < text.len ? hex_digit((char)text.ptr[i + 1]) : -1;
        low = i + 2 < text.len ? hex_digit((char)text.ptr[i + 2]) : -1;
        if (high < 0 || low < 0 || high + low == 0) {
            mem_free(out);
            return NULL;
        }
        out[len++] = (char)(high * 16 + low);
        i += 2;
    }
    out[len] = '\0';
    return out;
}

static bool number(struct bytes text, uint32_t max, uint32_t *out)
{
    uint32_t value = 0;

    if (text.len == 0 || text.len > 7)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        value = value * 10 + (uint32_t)(text.ptr[i] - '0');
    }
    *out = value;
    return value <= max;
}

/* What stands before the first (or last) `c`; *rest gets what follows. Not found: false. */
static bool split(struct bytes text, char c, bool last, struct bytes *before, struct bytes *rest)
{
    const uint8_t *at = text.len == 0 ? NULL
                        : last        ? memrchr(text.ptr, c, text.len)
                                      : memchr(text.ptr, c, text.len);

    if (at == NULL)
        return false;
    *before = bytes_of(text.ptr, (size_t)(at - text.ptr));
    *rest = bytes_of(at + 1, text.len - before->len - 1);
    return true;
}

static bool take_login(struct redis_address *out, struct bytes login)
{
    struct bytes user, password;

    if (!split(login, ':', false, &user, &password)) {
        user = login; /* redis://name@host: a name alone gets no password */
        password = bytes_of(NULL, 0);
    }
    if (user.len > 0 && (out->user = decode(user)) == NULL)
        return false;
    if (password.len > 0 && (out->password = decode(password)) == NULL)
        return false;
    return out->user == NULL || out->password != NULL;
}

static bool take_host(struct redis_address *out, struct bytes host)
{
    struct bytes name = host, port = bytes_of(NULL, 0);
    uint32_t value = REDIS_PORT;

    if (host.len > 0 && host.ptr[0] == '[') {
        if (!split(bytes_of(host.ptr + 1, host.len - 1), ']', false, &name, &port))
            return false;
        if (port.len > 0 && port.ptr[0] != ':')
            return false;
        if (port.len > 0 && !number(bytes_of(port.ptr + 1, port.len - 1), 65535, &value))
            return false;
    } else if (split(host, ':', true, &name, &port) && !number(port, 65535, &value)) {
        return false;
    }
    if (name.len == 0 || value == 0)
        return false;
    out->host = decode(name);
    out->port = (uint16_t)value;
    return out->host != NULL;
}

static const char *parse_tcp(struct redis_address *out, struct bytes rest)
{
    struct bytes login, host, db;

    if (split(rest, '@', true, &login, &host)) {
        if (!take_login(out, login))
            return "before the @ stands user:password or :password";
        rest = host;
    }
    if (split(rest, '/', false, &host, &db)) {
        if (db.len > 0 && !number(db, DB_MAX, &out->db))
            return "after the / stands the number of a database";
        rest = host;
    }
    return take_host(out, rest) ? NULL : "needs host:port";
}

static const char *parse_unix(struct redis_address *out, struct bytes rest)
{
    struct bytes login, path, query;

    if (rest.len > 0 && rest.ptr[0] != '/' && split(rest, '@', false, &login, &path)) {
        if (!take_login(out, login))
            return "before the @ stands user:password or :password";
        rest = path;
    }
    if (split(rest, '?', false, &path, &query)) {
        if (query.len < 3 || memcmp(query.ptr, "db=", 3) != 0 ||
            !number(bytes_of(query.ptr + 3, query.len - 3), DB_MAX, &out->db))
            return "after the ? stands db=NUMBER";
        rest = path;
    }
    if (rest.len < 2 || rest.ptr[0] != '/' || (out->path = decode(rest)) == NULL)
        return "needs the path of a socket";
    return NULL;
}

int redis_address_parse(struct redis_address *out, const char *url, struct err_text *why)
{
    static const char *const tcp = "redis://", *const sockets[] = {"unix://", "redis+unix://"};
    const char *fault = "write redis://[user:password@]host:port/db or unix:///path/to.sock";

    *out = (struct redis_address){.port = REDIS_PORT};
    if (strncmp(url, "rediss://", 9) == 0)
        fault = "TLS to Redis is not supported; use redis:// inside a private network or a tunnel";
    else if (strncmp(url, tcp, strlen(tcp)) == 0)
        fault = parse_tcp(out, bytes_str(url + strlen(tcp)));
    for (size_t i = 0; i < 2; i++)
        if (strncmp(url, sockets[i], strlen(sockets[i])) == 0)
            fault = parse_unix(out, bytes_str(url + strlen(sockets[i])));
    if (fault == NULL)
        return 0;
    redis_address_free(out);
    return err_set(why, ERR_INVALID, "the Redis URL: %s", fault);
}

void redis_address_free(struct redis_address *address)
{
    mem_free(address->host);
    mem_free(address->path);
    mem_free(address->user);
    mem_free(address->password);
    *address = (struct redis_address){0};
}

void redis_address_print(const struct redis_address *address, struct buf *out)
{
    if (address->path != NULL)
        buf_printf(out, "%s/%u", address->path, address->db);
    else
        buf_printf(out, strchr(address->host, ':') ? "[%s]:%u/%u" : "%s:%u/%u", address->host,
                   address->port, address->db);
}
