/* SPDX-License-Identifier: Apache-2.0 */
/* The peer: beanstalkd (its doc/protocol.txt). One connection a worker, as its protocol wants it: a
 * connection handles one command at a time. A cycle is reserve and delete, pipelined in one write
 * as a fair client may: `delete` of the last job and `reserve` of the next leave together. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load.h"

#define QUIET_MS 5000

struct worker {
    int fd;
    struct buf in;
};

static int dial(const struct load_options *options)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options->port)};
    inet_pton(AF_INET, options->host, &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fprintf(stderr, "taskmill-load: connect to beanstalkd: %s\n", strerror(errno));
        return -1;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int write_all(int fd, const void *data, size_t len)
{
    while (len) {
        ssize_t written = write(fd, data, len);
        if (written <= 0)
            return -1;
        data = (const char *)data + written;
        len -= (size_t)written;
    }
    return 0;
}

/* Puts everything, a batch of commands a write, and waits for the answers of each batch. */
static int put_all(const struct load_options *options)
{
    int fd = dial(options);
    if (fd < 0)
        return -1;
    struct buf commands = {0}, activation = {0};
    char answers[65536];
    int rc = 0;
    for (uint64_t sent = 0; rc == 0 && sent < options->tasks;) {
        buf_clear(&commands);
        size_t expected = 0;
        for (uint32_t i = 0; i < options->batch && sent < options->tasks; i++, sent++, expected++) {
            buf_clear(&activation);
            load_activation(&activation, sent, options->payload_len);
            buf_printf(&commands, "put 0 0 60 %zu\r\n", activation.len);
            buf_append(&commands, activation.ptr, activation.len);
            buf_append_str(&commands, "\r\n");
        }
        rc = write_all(fd, commands.ptr, commands.len);
        while (rc == 0 && expected) {
            ssize_t got = read(fd, answers, sizeof answers);
            if (got <= 0)
                rc = -1;
            for (ssize_t i = 0; i < got; i++)
                expected -= answers[i] == '\n';
        }
    }
    buf_free(&commands);
    buf_free(&activation);
    close(fd);
    return rc;
}

/* "RESERVED <id> <bytes>\r\n<data>\r\n": true when a whole one was taken from the buffer. */
static bool take_reserved(struct buf *in, unsigned long long *id)
{
    for (;;) {
        uint8_t *end = in->len ? memchr(in->ptr, '\n', in->len) : NULL;
        if (!end)
            return false;
        size_t line_len = (size_t)(end - in->ptr) + 1;
        unsigned long long job, size;
        char line[128] = "";
        memcpy(line, in->ptr, line_len < sizeof line ? line_len : sizeof line - 1);
        if (sscanf(line, "RESERVED %llu %llu", &job, &size) != 2) {
            buf_consume(in, line_len); /* DELETED */
            continue;
        }
        if (in->len < line_len + size + 2)
            return false;
        buf_consume(in, line_len + size + 2);
        *id = job;
        return true;
    }
}

static int next_job(struct worker *worker, unsigned long long id)
{
    char text[64];
    int len = snprintf(text, sizeof text, "delete %llu\r\nreserve\r\n", id);
    return write_all(worker->fd, text, (size_t)len);
}

struct result {
    uint64_t done;
    int64_t start_us, last_us;
    int64_t server_cpu_us;
};

static void count_done(const struct load_options *options, struct result *result)
{
    result->done++;
    if (result->done == options->warmup) {
        result->start_us = clock_boot_us();
        result->server_cpu_us = load_process_cpu_us(options->server_pid);
    }
}

static void drain(const struct load_options *options, struct worker *workers, uint32_t count,
                  struct result *result)
{
    int epoll_fd = epoll_create1(0);
    for (uint32_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, workers[i].fd, &event);
        write_all(workers[i].fd, "reserve\r\n", 9);
    }
    while (result->done < options->tasks) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll_fd, events, 256, QUIET_MS);
        if (ready <= 0)
            break;
        for (int i = 0; i < ready; i++) {
            struct worker *worker = &workers[events[i].data.u32];
            buf_reserve(&worker->in, 65536);
            ssize_t got = read(worker->fd, worker->in.ptr + worker->in.len, 65536);
            if (got <= 0)
                continue;
            worker->in.len += (size_t)got;
            unsigned long long id;
            while (take_reserved(&worker->in, &id)) {
                count_done(options, result);
                next_job(worker, id);
            }
        }
        result->last_us = clock_boot_us();
    }
    result->server_cpu_us = load_process_cpu_us(options->server_pid) - result->server_cpu_us;
    close(epoll_fd);
}

static void print(const struct load_options *options, const struct result *result)
{
    double seconds = (double)(result->last_us - result->start_us) / 1e6;
    double measured = (double)(options->tasks - options->warmup);
    bool whole = result->done >= options->tasks && seconds > 0;
    printf("{\"tasks\": %llu, \"seconds\": %.3f, \"tasks_per_s\": %.0f, \"server_cpu_us\": %.2f}\n",
           (unsigned long long)result->done, whole ? seconds : 0, whole ? measured / seconds : 0,
           whole ? (double)result->server_cpu_us / measured : 0);
}

int load_beanstalk(const struct load_options *options)
{
    uint32_t count = options->connections * options->streams;
    struct worker *workers = mem_calloc(count, sizeof *workers);
    if (put_all(options))
        return 1;
    for (uint32_t i = 0; i < count; i++) {
        workers[i].fd = dial(options);
        if (workers[i].fd < 0)
            return 1;
    }
    struct result result = {.start_us = clock_boot_us(),
                            .server_cpu_us = load_process_cpu_us(options->server_pid)};
    drain(options, workers, count, &result);
    print(options, &result);
    for (uint32_t i = 0; i < count; i++) {
        close(workers[i].fd);
        buf_free(&workers[i].in);
    }
    mem_free(workers);
    return result.done == options->tasks ? 0 : 1;
}
