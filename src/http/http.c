/* SPDX-License-Identifier: Apache-2.0 */
/* libmicrohttpd does the HTTP, driven from outside. */
#include "http/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define TARGET         "taskmill::admin"
#define LISTEN_BACKLOG 128
#define WAIT_MAX_MS    1000
#define ADDRESS_MAX    (INET6_ADDRSTRLEN + 16)

struct connection {
    int fd; /* -1: free */
    int64_t since_ms;
};

struct http {
    struct http_options options;
    char address[ADDRESS_MAX];
    struct MHD_Daemon *daemon;
    int listen_fd;       /* the daemon closes it, once there is one */
    size_t unsent_bytes; /* of answers; the connections have taken less */
    struct connection connections[HTTP_CONNECTIONS];
};

/* --- the port -------------------------------------------------------------------------------- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The text was checked by http_check. */
static socklen_t parse_address(const char *text, union address *out, uint16_t *port)
{
    char host[ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    bool brackets = text[0] == '[';
    size_t len = (size_t)(colon - text) - (brackets ? 2 : 0);
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    *out = (union address){0};
    snprintf(host, sizeof host, "%.*s", (int)len, text + brackets);
    if (brackets) {
        out->v6.sin6_family = AF_INET6;
        inet_pton(AF_INET6, host, &out->v6.sin6_addr);
        return sizeof out->v6;
    }
    out->v4.sin_family = AF_INET;
    inet_pton(AF_INET, host, &out->v4.sin_addr);
    return sizeof out->v4;
}

/* A listening socket, or -1 with errno. */
static int listen_at(union address *address, socklen_t len, uint16_t port)
{
    int one = 1;
    if (address->any.sa_family == AF_INET6)
        address->v6.sin6_port = htons(port);
    else
        address->v4.sin_port = htons(port);
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* REUSEADDR only skips TIME_WAIT; a second listener is still refused. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        bind(fd, &address->any, len) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

bool http_check(const char *address)
{
    const char *colon = strrchr(address, ':');
    unsigned char binary[sizeof(struct in6_addr)];
    char host[ADDRESS_MAX], *end;

    if (!colon || colon[1] < '0' || colon[1] > '9' || (size_t)(colon - address) >= sizeof host)
        return false;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end || port == 0 || port > UINT16_MAX)
        return false;
    size_t len = (size_t)(colon - address);
    bool brackets = len > 2 && address[0] == '[' && address[len - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? len - 2 : len), address + brackets);
    return inet_pton(brackets ? AF_INET6 : AF_INET, host, binary) == 1;
}

static void set_address(struct http *http, uint16_t port)
{
    const char *text = http->options.address;
    snprintf(http->address, sizeof http->address, "%.*s:%u", (int)(strrchr(text, ':') - text), text,
             port);
}

static int open_port(struct http *http, struct err_text *why)
{
    const struct http_options *o = &http->options;
    union address address;
    uint16_t first;
    socklen_t len = parse_address(o->address, &address, &first);
    for (unsigned i = 0; i < o->ports; i++) {
        http->listen_fd = listen_at(&address, len, (uint16_t)(first + i));
        if (http->listen_fd >= 0) {
            set_address(http, (uint16_t)(first + i));
            if (i > 0)
                log_warn(TARGET, NULL, "%s is taken; the admin port is %s (%s)", o->address,
                         http->address, o->setting);
            return 0;
        }
        if (errno != EADDRINUSE)
            break;
    }
    if (errno == EADDRINUSE && o->ports > 1)
        return err_set(why, ERR_EXISTS, "%s and the %u ports after it are taken", o->address,
                       o->ports - 1);
    return err_set(why, ERR_SYSTEM, "%s %s: %s; %s", o->setting, o->address, strerror(errno),
                   o->advice);
}

/* --- requests -------------------------------------------------------------------------------- */

/* What one connection is given; freed when it has been sent, or never will be. */
struct body {
    struct http *http;
    struct buf text;
};

static void free_body(void *arg)
{
    struct body *body = arg;
    body->http->unsent_bytes -= body->text.len;
    buf_free(&body->text);
    mem_free(body);
}

/* Takes over the text. */
static enum MHD_Result answer(struct http *http, struct MHD_Connection *connection, unsigned status,
                              const char *content_type, struct buf *text)
{
    struct body *body = mem_zalloc(sizeof *body);
    *body = (struct body){.http = http, .text = *text};
    *text = (struct buf){0};
    http->unsent_bytes += body->text.len;
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
        body->text.len, body->text.ptr, free_body, body);
    if (!response) {
        free_body(body);
        return MHD_NO; /* closes the connection */
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result rv = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rv;
}

static unsigned tell(struct http *http, const char *method, const char *url,
                     const char **content_type, struct buf *out)
{
    *content_type = "text/plain; charset=utf-8";
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        buf_append_str(out, "only GET and HEAD\n");
        return MHD_HTTP_METHOD_NOT_ALLOWED;
    }
    for (size_t i = 0; i < http->options.page_count; i++) {
        const struct http_page *page = &http->options.pages[i];
        if (strcmp(url, page->path) != 0)
            continue;
        if (page->large && http->unsent_bytes > HTTP_ANSWER_BYTES) {
            buf_append_str(out, "too many answers wait for slow readers\n");
            return MHD_HTTP_SERVICE_UNAVAILABLE;
        }
        *content_type = page->content_type;
        return page->tell(http->options.ctx, out);
    }
    buf_append_str(out, "there are");
    for (size_t i = 0; i < http->options.page_count; i++)
        buf_printf(out, " %s", http->options.pages[i].path);
    buf_append_byte(out, '\n');
    return MHD_HTTP_NOT_FOUND;
}

/* Called first when the headers are there; the answer is given then, whatever a body would say. */
static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload_data,
                              size_t *upload_data_size, void **request)
{
    (void)version, (void)upload_data, (void)upload_data_size, (void)request;
    struct buf text = {0};
    const char *content_type;
    unsigned status = tell(cls, method, url, &content_type, &text);
    return answer(cls, connection, status, content_type, &text);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = cls;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*slot)
            ((struct connection *)*slot)->fd = -1;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (size_t i = 0; i < HTTP_CONNECTIONS; i++) {
        if (http->connections[i].fd < 0) {
            http->connections[i] =
                (struct connection){.fd = info->connect_fd, .since_ms = clock_boot_ms()};
            *slot = &http->connections[i];
            return;
        }
    }
}

/* --- driven ---------------------------------------------------------------------------------- */

/* libmicrohttpd's own time-out counts from the last byte: one byte at a time would hold a slot for
 * ever. */
static void cut_slow(struct http *http, int64_t now_ms)
{
    for (size_t i = 0; i < HTTP_CONNECTIONS; i++) {
        struct connection *connection = &http->connections[i];
        if (connection->fd >= 0 && now_ms - connection->since_ms >= HTTP_REQUEST_MS)
            shutdown(connection->fd, SHUT_RDWR);
    }
}

int http_fd(const struct http *http)
{
    return MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

int http_wait_ms(const struct http *http)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(http->daemon, &ms) == MHD_YES && ms < WAIT_MAX_MS)
        return (int)ms;
    return WAIT_MAX_MS;
}

int http_run(struct http *http, int64_t now_ms)
{
    cut_slow(http, now_ms);
    return MHD_run(http->daemon) == MHD_YES ? 0 : ERR_SYSTEM;
}

void http_forked(struct http *http)
{
    close(http->listen_fd);
    close(http_fd(http));
    for (size_t i = 0; i < HTTP_CONNECTIONS; i++)
        if (http->connections[i].fd >= 0)
            close(http->connections[i].fd);
}

/* --- life ------------------------------------------------------------------------------------ */

static int start_daemon(struct http *http, struct err_text *why)
{
    unsigned flags = MHD_USE_EPOLL | (http->options.address[0] == '[' ? MHD_USE_IPv6 : 0);
    http->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, handle, http, MHD_OPTION_LISTEN_SOCKET,
                         http->listen_fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_REQUEST_BYTES,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_END);
    if (!http->daemon)
        return err_set(why, ERR_SYSTEM, "%s %s: the HTTP server does not start",
                       http->options.setting, http->address);
    return 0;
}

int http_open(struct http **out, const struct http_options *options, struct err_text *why)
{
    struct http *http = mem_zalloc(sizeof *http);
    http->options = *options;
    http->listen_fd = -1;
    for (size_t i = 0; i < HTTP_CONNECTIONS; i++)
        http->connections[i].fd = -1;
    int rc;
    if ((rc = open_port(http, why)) || (rc = start_daemon(http, why))) {
        http_close(http);
        return rc;
    }
    log_info(TARGET, NULL, "admin port listening on http://%s", http->address);
    *out = http;
    return 0;
}

void http_close(struct http *http)
{
    if (!http)
        return;
    if (http->daemon)
        MHD_stop_daemon(http->daemon); /* closes the port, too */
    else if (http->listen_fd >= 0)
        close(http->listen_fd);
    mem_free(http);
}

const char *http_address(const struct http *http)
{
    return http->address;
}
