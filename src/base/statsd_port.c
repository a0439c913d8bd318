/* SPDX-License-Identifier: Apache-2.0 */
#include "base/statsd_port.h"

#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define TARGET "taskmill::statsd"
#define RESOLVE_AGAIN_S \
    10                   /* after a failure; also how often a failing address is looked up again */
#define WARN_EVERY_S 300 /* of a name that goes on not to resolve */

int statsd_port_init(struct statsd_port *port, const char *address, struct err_text *why)
{
    const char *colon = strrchr(address, ':');

    *port = (struct statsd_port){.fd = -1};
    if (!colon || colon == address || !colon[1])
        return err_set(why, ERR_INVALID, "statsd address \"%.60s\" is not host:port", address);
    const char *host = address;
    size_t len = (size_t)(colon - address);
    if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    }
    port->host = mem_strndup(host, len);
    port->port = mem_strdup(colon + 1);
    return 0;
}

void statsd_port_close(struct statsd_port *port)
{
    if (port->fd >= 0)
        close(port->fd);
    mem_free(port->host);
    mem_free(port->port);
    *port = (struct statsd_port){.fd = -1};
}

/* --- address --------------------------------------------------------------------------------- */

static int connect_to(const struct lookup_address *to)
{
    int fd = socket(to->address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&to->address, to->len) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void warn_unresolved(struct statsd_port *port, const char *why, int64_t now_ms)
{
    if (now_ms < port->warn_ms)
        return;
    port->warn_ms = now_ms + WARN_EVERY_S * 1000;
    log_warn(TARGET, NULL,
             "statsd_addr %s:%s cannot be used: %s; metrics are not sent, it is tried again every "
             "%d s",
             port->host, port->port, why, RESOLVE_AGAIN_S);
}

bool statsd_port_may_resolve(struct statsd_port *port, int64_t now_ms)
{
    return now_ms >= port->resolve_ms;
}

void statsd_port_resolved(struct statsd_port *port, const struct lookup_answer *answer,
                          int64_t now_ms)
{
    port->resolve_ms = now_ms + RESOLVE_AGAIN_S * 1000;
    if (answer->count == 0) {
        warn_unresolved(port, answer->why, now_ms);
        return;
    }
    const struct lookup_address *to = &answer->addresses[port->attempt % answer->count];
    port->fd = connect_to(to);
    if (port->fd < 0)
        warn_unresolved(port, strerror(errno), now_ms);
    if (answer->count == 1 || port->several_told)
        return;
    port->several_told = true;
    char text[64] = "?";
    getnameinfo((const struct sockaddr *)&to->address, to->len, text, sizeof text, NULL, 0,
                NI_NUMERICHOST);
    log_warn(TARGET, LOG_FIELDS(log_int("addresses", (int64_t)answer->count)),
             "statsd_addr %s:%s has several addresses; metrics go to %s, and to the next one when "
             "sending fails",
             port->host, port->port, text);
}

/* --- sending --------------------------------------------------------------------------------- */

static void send_datagram(void *ctx, struct bytes datagram)
{
    struct statsd_port *port = ctx;
    ssize_t sent = send(port->fd, datagram.ptr, datagram.len, MSG_NOSIGNAL);

    if (sent < 0 && errno == ECONNREFUSED) {
        /* That was the fate of an earlier datagram; this one has not left yet. */
        port->send_failed = true;
        sent = send(port->fd, datagram.ptr, datagram.len, MSG_NOSIGNAL);
    }
    /* A full socket buffer loses metrics, as UDP does anyway. */
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        port->send_failed = true;
}

/* Refused: nobody listens there, at the moment or at all. The next address may be the right one. */
static void look_elsewhere(struct statsd_port *port, int64_t now_ms)
{
    if (!port->refused_told)
        log_info(TARGET, NULL, "nobody takes metrics at %s:%s; they are lost until somebody does",
                 port->host, port->port);
    port->refused_told = true;
    if (now_ms < port->resolve_ms)
        return;
    close(port->fd);
    port->fd = -1;
    port->attempt++;
}

void statsd_port_export(struct statsd_port *port, struct statsd_format *format,
                        struct metrics *metrics, int64_t now_ms)
{
    if (port->fd < 0)
        return;
    port->send_failed = false;
    statsd_format_export(format, metrics, send_datagram, port);
    if (port->send_failed)
        look_elsewhere(port, now_ms);
}
