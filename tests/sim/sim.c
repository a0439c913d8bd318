/* SPDX-License-Identifier: Apache-2.0 */
#include "sim.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define STEPS_DEFAULT 1500
#define SETTLE_ROUNDS 4000

static const char usage[] =
    "usage: taskmill-sim [--images N] [--seconds N] [--seed S [--steps N] [--faults MASK]]\n"
    "\n"
    "Runs seed after seed until N crash images were checked or the time is up; a violated promise "
    "ends the\n"
    "search, is shrunk to fewer steps and fewer kinds of trouble, and printed with the command "
    "that repeats it.\n"
    "\n"
    "  --images N     crash images to check (10000)\n"
    "  --seconds N    at most so long (no limit)\n"
    "  --first S      first seed of the search (1)\n"
    "  --seed S       one run only\n"
    "  --steps N      steps of a run (1500)\n"
    "  --faults MASK  kinds of trouble, sum of: 1 crash, 2 commit, 4 rebalance, 8 session, 16 "
    "stream,\n"
    "                 32 report, 64 produce, 128 garbage, 256 rules, 512 clock,\n"
    "                 1024 return (2047)\n"
    "  --trace        with --seed: say on stderr what happens\n"
    "  --find-bug     succeed only if a violation is found (for builds with a planted bug)\n"
    "\n"
    "example: taskmill-sim --seed 42 --steps 300 --faults 3\n";

/* --- chance ----------------------------------------------------------------------------------- */

/* splitmix64 (Sebastiano Vigna, public domain algorithm). */
uint64_t sim_next(struct sim *sim)
{
    uint64_t z = sim->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(struct sim *sim, uint64_t limit)
{
    return sim_next(sim) % limit;
}

bool sim_chance(struct sim *sim, unsigned percent)
{
    return sim_below(sim, 100) < percent;
}

bool sim_trouble(struct sim *sim, enum sim_fault fault, unsigned percent)
{
    bool happens = sim_chance(sim, percent); /* always drawn: a mask must not shift the others */
    return happens && !sim->quiet && (sim->faults & fault);
}

void sim_trace(const struct sim *sim, const char *fmt, ...)
{
    if (!sim->trace)
        return;
    fprintf(stderr, "%llu ms: ", (unsigned long long)(sim->boot_ms - SIM_BOOT_START));
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void sim_violation(struct sim *sim, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sim->result->violation, sizeof sim->result->violation, fmt, ap);
    va_end(ap);
    _exit(1);
}

/* --- steps ------------------------------------------------------------------------------------ */

static struct sim_node *some_node(struct sim *sim)
{
    struct sim_node *node = &sim->nodes[sim_below(sim, (uint64_t)sim->node_count)];
    return node->engine ? node : NULL;
}

static void pass_time(struct sim *sim, int64_t ms)
{
    sim->boot_ms += ms;
    sim->wall_ms += ms;
}

static void step_crash(struct sim *sim)
{
    struct sim_node *node = some_node(sim);
    uint64_t in = sim_below(sim, 4) ? 1 + sim_below(sim, 20) : 0;
    enum crash_mode mode = sim_chance(sim, 50) ? CRASH_KILL : CRASH_POWER;
    bool stop = sim_chance(sim, 15), twice = sim_chance(sim, 30);
    if (!node || node->crash_in || sim->again >= 0 || !(sim->faults & FAULT_CRASH))
        return;
    if (stop) {
        sim_node_stop(node);
    } else if (twice) {
        sim_node_kill_at_sync(node);
        sim->again = node->index;
    } else {
        sim_node_crash(node, mode, in);
    }
}

/* A kill and, before anything new was written, a power cut: what the restart read from the page
 * cache alone must not have been promised to anybody. */
static void step_crash_again(struct sim *sim)
{
    struct sim_node *node = &sim->nodes[sim->again];
    uint64_t turns = 1 + sim_below(sim, 4);
    if (node->engine)
        return; /* has not come to its sync yet */
    sim->again = -1;
    sim_node_start(node);
    if (node->engine)
        sim_kafka_rebalance(sim);
    for (uint64_t i = 0; i < turns && node->engine; i++)
        sim_node_turn(node);
    if (node->engine)
        sim_node_crash(node, CRASH_POWER, 0);
}

static void step_restart(struct sim *sim)
{
    struct sim_node *node = &sim->nodes[sim_below(sim, (uint64_t)sim->node_count)];
    if (!node->engine)
        sim_node_start(node);
}

static void step_time(struct sim *sim)
{
    static const int64_t spans[] = {0, 1, 5, 20, 20, 50, 100, 1000};
    struct sim_node *node = some_node(sim);
    if (sim->seed % 3 == 0 && sim_trouble(sim, FAULT_CLOCK, 20) && node && !node->crash_in)
        sim_clock_set(node);
    pass_time(sim, spans[sim_below(sim, sizeof spans / sizeof *spans)]);
}

static bool partition_without_owner(const struct sim *sim)
{
    for (int i = 0; i < SIM_PARTITIONS; i++)
        if (sim->tasks[i].owner < 0)
            return true;
    return false;
}

static void step_group(struct sim *sim)
{
    bool rebalance = sim_trouble(sim, FAULT_REBALANCE, 30);
    bool lose = sim_trouble(sim, FAULT_SESSION, 20);
    int node = (int)sim_below(sim, (uint64_t)sim->node_count);
    if (lose)
        sim_kafka_lose_session(sim, node);
    else if (rebalance || partition_without_owner(sim))
        sim_kafka_rebalance(sim);
}

static void step_produce(struct sim *sim, struct sim_node *node)
{
    if (!sim->embedded)
        sim_kafka_produce(sim);
    else if (node)
        sim_embedded_enqueue(node);
}

static void step(struct sim *sim)
{
    uint64_t dice = sim_below(sim, 100);
    struct sim_node *node = some_node(sim);
    bool rules = sim_trouble(sim, FAULT_RULES, 2) && sim->rules;
    if (sim->again >= 0)
        step_crash_again(sim);
    node = node && node->engine ? node : NULL;
    if (rules && node)
        sim_rules_change(node);
    if (dice < 35) {
        if (node)
            sim_node_turn(node);
    } else if (dice < 50) {
        step_produce(sim, node);
    } else if (dice < 52) {
        if (!sim->embedded && (sim->faults & FAULT_GARBAGE))
            sim_kafka_produce_garbage(sim);
    } else if (dice < 67) {
        if (node)
            sim_worker_claim(node);
    } else if (dice < 80) {
        sim_worker_report_due(sim);
    } else if (dice < 82) {
        if (node && (sim->faults & FAULT_STREAM))
            sim_worker_cancel(node);
    } else if (dice < 90) {
        step_time(sim);
    } else if (dice < 95) {
        if (!sim->embedded)
            step_group(sim);
    } else if (dice < 97) {
        step_crash(sim);
    } else {
        step_restart(sim);
    }
}

/* --- a run ------------------------------------------------------------------------------------ */

static void settle(struct sim *sim)
{
    sim->quiet = true;
    for (int n = 0; n < sim->node_count; n++)
        if (!sim->nodes[n].engine)
            sim_node_start(&sim->nodes[n]);
    for (int n = 0; n < sim->node_count; n++) {
        sim->nodes[n].crash_in = 0;
        sim->nodes[n].crash_at_sync = false;
    }
    sim_kafka_rebalance(sim);
    for (int round = 0; round < SETTLE_ROUNDS && !sim_check_settled(sim); round++) {
        for (int n = 0; n < sim->node_count; n++) {
            if (sim->nodes[n].calls.count < 8)
                sim_worker_claim(&sim->nodes[n]);
            sim_node_turn(&sim->nodes[n]);
        }
        for (int i = 0; i < 8; i++)
            sim_worker_report_due(sim);
        pass_time(sim, 25);
    }
    sim_check_final(sim);
}

static void run(struct sim *sim)
{
    log_init(LOG_TEXT, "off", NULL);
    list_init(&sim->jobs);
    map_init(&sim->facts, (const uint64_t[2]){sim->seed, 1});
    sim->boot_ms = SIM_BOOT_START;
    sim->wall_ms = SIM_WALL_START;
    sim_kafka_init(sim);
    for (int n = 0; n < sim->node_count; n++) {
        sim_node_init(&sim->nodes[n], sim, n);
        sim_node_start(&sim->nodes[n]);
    }
    sim_kafka_rebalance(sim);
    for (uint64_t i = 0; i < sim->steps; i++) {
        sim->result->steps++;
        step(sim);
    }
    settle(sim);
}

struct attempt {
    uint64_t seed, steps;
    unsigned faults;
    bool trace;
};

/* One run in a process of its own: what it leaks, and an assert it trips, stay there. True: it
 * held. */
static bool try(const struct attempt *attempt, struct sim_result *result)
{
    result->violation[0] = '\0';
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        static struct sim sim;
        bool embedded = attempt->seed % 3 == 0;
        sim = (struct sim){.seed = attempt->seed,
                           .rng = attempt->seed,
                           .faults = attempt->faults,
                           .steps = attempt->steps,
                           .again = -1,
                           .embedded = embedded,
                           .rules = attempt->seed % 2 == 0,
                           .node_count = embedded ? 1 : SIM_NODES,
                           .image_percent = 25,
                           .trace = attempt->trace,
                           .result = result};
        run(&sim);
        _exit(0);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("taskmill-sim: fork");
        exit(1);
    }
    if (WIFSIGNALED(status))
        snprintf(result->violation, sizeof result->violation, "died of signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) && !result->violation[0])
        snprintf(result->violation, sizeof result->violation, "exit code %d", WEXITSTATUS(status));
    return status == 0;
}

/* Fewest steps by halving the interval (failures are not quite monotonic in them: good enough),
 * then fewest kinds of trouble. */
static struct attempt shrink(struct attempt failing, struct sim_result *result)
{
    for (uint64_t cut = failing.steps / 2; cut; cut /= 2)
        while (failing.steps > cut) {
            struct attempt shorter = failing;
            shorter.steps -= cut;
            if (try(&shorter, result))
                break;
            failing = shorter;
        }
    for (unsigned fault = 1; fault <= FAULT_ALL; fault <<= 1) {
        struct attempt calmer = failing;
        calmer.faults &= ~fault;
        if (calmer.faults != failing.faults && !try(&calmer, result))
            failing = calmer;
    }
    return failing;
}

static void print_failure(const char *program, struct attempt failing, struct sim_result *result)
{
    printf("seed %llu: %s\n", (unsigned long long)failing.seed, result->violation);
    struct attempt smallest = shrink(failing, result);
    try(&smallest, result);
    printf("shrunk: %s\nrepeat with: %s --seed %llu --steps %llu --faults %u\n", result->violation,
           program, (unsigned long long)smallest.seed, (unsigned long long)smallest.steps,
           smallest.faults);
}

struct search {
    uint64_t images, first, seed, steps;
    int64_t seconds;
    unsigned faults;
    bool one, find_bug, trace;
};

static int parse(int argc, char **argv, struct search *search)
{
    static const struct option names[] = {
        {"images", required_argument, NULL, 'i'}, {"seconds", required_argument, NULL, 's'},
        {"first", required_argument, NULL, 'f'},  {"seed", required_argument, NULL, 'S'},
        {"steps", required_argument, NULL, 'n'},  {"faults", required_argument, NULL, 'm'},
        {"find-bug", no_argument, NULL, 'b'},     {"trace", no_argument, NULL, 't'},

        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        unsigned long long value = optarg ? strtoull(optarg, NULL, 10) : 0;
        switch (option) {
        case 'i':
            search->images = value;
            break;
        case 's':
            search->seconds = (int64_t)value;
            break;
        case 'f':
            search->first = value;
            break;
        case 'S':
            search->seed = value;
            search->one = true;
            break;
        case 'n':
            search->steps = value;
            break;
        case 'm':
            search->faults = (unsigned)value;
            break;
        case 'b':
            search->find_bug = true;
            break;
        case 't':
            search->trace = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            return -1;
        }
    }
    return optind == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct search search = {
        .images = 10000, .first = 1, .steps = STEPS_DEFAULT, .faults = FAULT_ALL, .seconds = -1};
    if (parse(argc, argv, &search)) {
        fputs(usage, stderr);
        return 2;
    }
    struct sim_result *result =
        mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (result == MAP_FAILED) {
        perror("taskmill-sim: mmap");
        return 1;
    }
    int64_t start_ms = clock_boot_ms();
    uint64_t runs = 0;
    bool held = true;
    for (uint64_t seed = search.one ? search.seed : search.first; held; seed++) {
        struct attempt attempt = {
            .seed = seed, .steps = search.steps, .faults = search.faults, .trace = search.trace};
        held = try(&attempt, result);
        runs++;
        if (!held && search.one)
            printf("seed %llu: %s\n", (unsigned long long)seed, result->violation);
        else if (!held)
            print_failure(argv[0], attempt, result);
        bool late = search.seconds >= 0 && clock_boot_ms() - start_ms >= search.seconds * 1000;
        if (search.one || late || (!search.find_bug && result->images >= search.images))
            break;
    }
    printf(
        "%llu runs, %llu steps, %llu messages, %llu handed out, %llu crashes, %llu crash images, "
        "%.1f s\n",
        (unsigned long long)runs, (unsigned long long)result->steps,
        (unsigned long long)result->messages, (unsigned long long)result->handed,
        (unsigned long long)result->crashes, (unsigned long long)result->images,
        (double)(clock_boot_ms() - start_ms) / 1000);
    return held != search.find_bug ? 0 : 1;
}
