/* SPDX-License-Identifier: Apache-2.0 */
/* Load generator of `./dev bench`: one thread, many connections, many streams, closed loop. */
#include "load.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "wire/activation.h"

static const char usage[] =
    "usage: taskmill-load COMMAND [options]\n"
    "\n"
    "  drain      workers in a closed loop: GetTask, then SetTaskStatus with fetch_next_task\n"
    "  fill       enqueue tasks, through Enqueue or (--bootstrap, --topic) into Kafka\n"
    "  latency    time from enqueue to a waiting worker, one task at a time\n"
    "  dispatch   send through the library into Kafka, then produce the same bytes without it\n"
    "  beanstalk  the same closed loop against beanstalkd: put all, then reserve and delete\n"
    "\n"
    "  --address HOST:PORT      server (127.0.0.1:50051)\n"
    "  --connections N          connections (24)\n"
    "  --streams N              concurrent workers a connection (1)\n"
    "  --tasks N                tasks in all (100000)\n"
    "  --warmup N               the first so many of them are not measured (0)\n"
    "  --server-pid PID         measure the CPU time of this process, too (drain, beanstalk)\n"
    "  --batch N                tasks an Enqueue call (100)\n"
    "  --payload N              bytes of parameters (100)\n"
    "  --interval MS            pause between tasks, latency only (20)\n"
    "  --bootstrap HOST:PORT --topic NAME   produce to Kafka\n"
    "\n"
    "example: taskmill-load drain --address 127.0.0.1:50051 --connections 24 --streams 8 --tasks "
    "200000\n";

void samples_add(struct samples *samples, int64_t us)
{
    if (samples->count == samples->cap) {
        samples->cap = samples->cap ? samples->cap * 2 : 4096;
        samples->values = mem_realloc(samples->values, samples->cap * sizeof *samples->values);
    }
    samples->values[samples->count++] = us < 0 ? 0 : us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

uint32_t samples_percentile(struct samples *samples, double percent)
{
    if (!samples->count)
        return 0;
    qsort(samples->values, samples->count, sizeof *samples->values, compare);
    size_t index = (size_t)((double)(samples->count - 1) * percent / 100.0);
    return samples->values[index];
}

void samples_free(struct samples *samples)
{
    mem_free(samples->values);
}

/* A bijection that looks random (the finisher of splitmix64). */
static uint64_t scatter(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

/* args: one string of bytes; kwargs: none. */
static struct bytes parameters(uint32_t payload_len)
{
    static const uint8_t zeros[65535];
    static struct buf packed; /* one length a run */

    if (packed.len == 0) {
        uint16_t len = (uint16_t)(payload_len < 65535 ? payload_len : 65535);
        const uint8_t head[] = {
            0x82, 0xa4, 'a', 'r', 'g', 's', 0x91, 0xc5, (uint8_t)(len >> 8), (uint8_t)len};

        buf_append(&packed, head, sizeof head);
        buf_append(&packed, zeros, len);
        buf_append(&packed, "\xa6kwargs\x80", 8);
    }
    return buf_bytes(&packed);
}

/* Like a client's UUIDs, ids come in no order, which is what an index on them has to bear; the
 * number is behind. */
void load_activation(struct buf *out, uint64_t number, uint32_t payload_len)
{
    static uint64_t run;
    if (!run)
        run = (uint64_t)clock_boot_us();
    char id[33];
    snprintf(id, sizeof id, "%016llx%016llx", (unsigned long long)scatter(run + number),
             (unsigned long long)number);
    int64_t now_ms = clock_wall_ms();
    struct activation activation = {
        .id = bytes_of(id, 32),
        .namespace = bytes_str("bench"),
        .taskname = bytes_str("bench.nothing"),
        .has_application = true,
        .application = bytes_str("bench"),
        .parameters_bytes = parameters(payload_len),
        .has_received_at = true,
        .received_at_s = now_ms / 1000,
        .received_at_ns = (int32_t)(now_ms % 1000) * 1000000,
        .retry_state = {.present = true,
                        .max_attempts = 1,
                        .on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD},
        .processing_deadline_duration = 60,
    };
    activation_encode(&activation, NULL, 0, out);
}

uint64_t load_number_of(struct bytes id)
{
    char text[17] = "";
    char *end;
    if (id.len != 32)
        return UINT64_MAX;
    memcpy(text, id.ptr + 16, 16);
    uint64_t number = strtoull(text, &end, 16);
    return *end ? UINT64_MAX : number;
}

int64_t load_process_cpu_us(uint32_t pid)
{
    char path[32], text[1024];
    unsigned long long user, system;
    (void)snprintf(path, sizeof path, "/proc/%u/stat", (unsigned)pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    size_t len = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[len] = '\0';
    /* The second field is the name in parentheses and may hold anything. */
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                        &system) != 2)
        return 0;
    return (int64_t)((user + system) * 1000000 / (unsigned long long)sysconf(_SC_CLK_TCK));
}

static int parse_address(const char *text, struct load_options *options)
{
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof options->host)
        return -1;
    memcpy(options->host, text, (size_t)(colon - text));
    options->host[colon - text] = '\0';
    options->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return options->port ? 0 : -1;
}

static const struct option names[] = {
    {"address", required_argument, NULL, 'a'},  {"connections", required_argument, NULL, 'c'},
    {"streams", required_argument, NULL, 's'},  {"tasks", required_argument, NULL, 't'},
    {"warmup", required_argument, NULL, 'w'},   {"server-pid", required_argument, NULL, 'P'},
    {"batch", required_argument, NULL, 'b'},    {"payload", required_argument, NULL, 'p'},
    {"interval", required_argument, NULL, 'i'}, {"bootstrap", required_argument, NULL, 'k'},
    {"topic", required_argument, NULL, 'T'},    {NULL, 0, NULL, 0},
};

/* Digits only: strtoul alone takes "-1" and "12x". */
static int parse_number(const char *text, uint32_t *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || value > UINT32_MAX)
        return -1;
    *out = (uint32_t)value;
    return 0;
}

static int parse_option(int option, const char *text, struct load_options *options)
{
    uint32_t value;
    switch (option) {
    case 'a':
        return parse_address(text, options);
    case 'k':
        options->bootstrap = text;
        return 0;
    case 'T':
        options->topic = text;
        return 0;
    default:
        break;
    }
    if (parse_number(text, &value))
        return -1;
    switch (option) {
    case 'c':
        options->connections = value;
        break;
    case 's':
        options->streams = value;
        break;
    case 't':
        options->tasks = value;
        break;
    case 'w':
        options->warmup = value;
        break;
    case 'P':
        options->server_pid = value;
        break;
    case 'b':
        options->batch = value;
        break;
    case 'p':
        options->payload_len = value;
        break;
    default:
        options->interval_ms = value;
        break;
    }
    return 0;
}

static int parse(int argc, char **argv, struct load_options *options)
{
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (option == '?')
            return -1;
        if (parse_option(option, optarg, options)) {
            fprintf(stderr, "taskmill-load: --%s: '%s' is not one\n", names[index].name, optarg);
            return -1;
        }
    }
    if (optind < argc || !options->connections || !options->streams || !options->batch ||
        options->warmup >= options->tasks || (options->bootstrap && !options->topic)) {
        fputs("taskmill-load: these options do not go together\n", stderr);
        return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct load_options *options);
    } commands[] = {{"drain", load_drain},
                    {"fill", load_fill},
                    {"latency", load_latency},
                    {"dispatch", load_dispatch},
                    {"beanstalk", load_beanstalk}};
    struct load_options options = {.host = "127.0.0.1",
                                   .port = 50051,
                                   .connections = 24,
                                   .streams = 1,
                                   .tasks = 100000,
                                   .batch = 100,
                                   .payload_len = 100,
                                   .interval_ms = 20};
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        return 0;
    }
    for (size_t i = 0; argc >= 2 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0 && parse(argc - 1, argv + 1, &options) == 0)
            return commands[i].run(&options);
    fputs(usage, stderr);
    return 2;
}
