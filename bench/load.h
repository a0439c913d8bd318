/* SPDX-License-Identifier: Apache-2.0 */
/* The load generator's parts. Each command prints one JSON object on stdout and returns an exit
 * code. */
#ifndef TASKMILL_BENCH_LOAD_H
#define TASKMILL_BENCH_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct load_options {
    char host[256];
    uint16_t port;
    const char *bootstrap, *topic; /* Kafka instead of Enqueue when set */
    uint32_t connections, streams;
    uint64_t tasks;
    uint64_t warmup;     /* of `tasks`, not measured */
    uint32_t server_pid; /* whose CPU time is measured; 0: nobody's */
    uint32_t batch;
    uint32_t payload_len;
    uint32_t interval_ms;
};

int load_drain(const struct load_options *options);   /* closed loop of workers */
int load_fill(const struct load_options *options);    /* producer: Kafka or Enqueue */
int load_latency(const struct load_options *options); /* one task at a time into an idle broker */
int load_beanstalk(const struct load_options *options);
int load_dispatch(const struct load_options *options); /* the library beside librdkafka alone */

/* Latencies in microseconds; percentiles are exact. */
struct samples {
    uint32_t *values;
    size_t count, cap;
};
void samples_add(struct samples *samples, int64_t us);
/* Sorts. 0 when empty. */
uint32_t samples_percentile(struct samples *samples, double percent);
void samples_free(struct samples *samples);

/* A small task of application "bench", namespace "bench", with an id made from `number`. */
void load_activation(struct buf *out, uint64_t number, uint32_t payload_len);
/* The number in such an id; UINT64_MAX if it is not one. */
uint64_t load_number_of(struct bytes id);

/* User and system time of a process, all threads, in steps of the kernel's tick; 0 if there is no
 * such process. */
int64_t load_process_cpu_us(uint32_t pid);

#endif
