/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The questions go over a unix socket to a server that knows one key and follows a script. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "worker/once.h"

#define STEPS_MAX 9 /* with END */

enum step {
    END = 0,
    SET_OK,
    SET_REFUSED,
    GET_VALUE, /* what the last SET wanted to write */
    GET_OTHER, /* somebody else's */
    GET_NIL,
    EXECUTE_AND_LEAVE, /* the SET is executed and the connection breaks before the reply */
    LOADING
};

struct server {
    char folder[32], url[64];
    int listen_fd;
    pthread_t thread;
    enum step steps[STEPS_MAX];
    atomic_int done; /* steps */
    char seen[STEPS_MAX][512];
    char value[128];
};

/* One command as hiredis writes it, its words joined by blanks. */
static bool read_command(FILE *in, char *out, size_t room)
{
    char line[512];
    int words;
    size_t len = 0;

    if (fgets(line, sizeof line, in) == NULL || sscanf(line, "*%d", &words) != 1)
        return false;
    for (int i = 0; i < words; i++) {
        if (fgets(line, sizeof line, in) == NULL || fgets(line, sizeof line, in) == NULL)
            return false;
        line[strcspn(line, "\r\n")] = '\0';
        len += (size_t)snprintf(out + len, room - len, "%s%s", i ? " " : "", line);
    }
    return true;
}

static void keep_value(struct server *server, const char *command)
{
    char key[256];

    if (strncmp(command, "SET ", 4) == 0)
        assert_int_equal(sscanf(command, "SET %255s %127s", key, server->value), 2);
}

/* False when the connection is to be closed. */
static bool play(struct server *server, enum step step, FILE *out)
{
    switch (step) {
    case SET_OK:
        fputs("+OK\r\n", out);
        break;
    case SET_REFUSED:
    case GET_NIL:
        fputs("$-1\r\n", out);
        break;
    case GET_VALUE:
        fprintf(out, "$%zu\r\n%s\r\n", strlen(server->value), server->value);
        break;
    case GET_OTHER:
        fputs("$1\r\n1\r\n", out);
        break;
    case LOADING:
        fputs("-LOADING Redis is loading the dataset in memory\r\n", out);
        break;
    case EXECUTE_AND_LEAVE:
    case END:
        return false;
    }
    fflush(out);
    return true;
}

static void *serve(void *arg)
{
    struct server *server = arg;

    while (server->steps[server->done] != END) {
        int fd = accept(server->listen_fd, NULL, NULL);
        FILE *in, *out;
        bool going = true;

        assert_true(fd >= 0);
        in = fdopen(fd, "r");
        out = fdopen(dup(fd), "w");
        while (going && server->steps[server->done] != END &&
               read_command(in, server->seen[server->done], sizeof server->seen[0])) {
            keep_value(server, server->seen[server->done]);
            going = play(server, server->steps[server->done], out);
            server->done++;
        }
        fclose(in);
        fclose(out);
    }
    return NULL;
}

static void start(struct server *server, const enum step *steps, size_t count)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *server = (struct server){.folder = "/tmp/test-once-XXXXXX"};
    memcpy(server->steps, steps, count * sizeof *steps);
    assert_non_null(mkdtemp(server->folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", server->folder);
    snprintf(server->url, sizeof server->url, "unix://%s", address.sun_path);
    server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server->listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(server->listen_fd, 8), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void stop(struct server *server)
{
    char path[64];

    pthread_join(server->thread, NULL);
    close(server->listen_fd);
    snprintf(path, sizeof path, "%s/s", server->folder);
    unlink(path);
    rmdir(server->folder);
}

struct asker {
    struct redis_address redis;
    struct once *once;
    struct err_text why;
};

static void open_asker(struct asker *asker, const char *url)
{
    struct once_options options = {.redis = &asker->redis, .timeout_s = 60, .worker = 0xabc};

    assert_int_equal(redis_address_parse(&asker->redis, url, &asker->why), 0);
    asker->once = once_new(&options);
}

static void close_asker(struct asker *asker)
{
    once_free(asker->once);
    redis_address_free(&asker->redis);
}

static enum once_answer ask(struct asker *asker, uint64_t claim)
{
    return once_ask(asker->once, bytes_str("ns"), bytes_str("task"), bytes_str("id1"), claim,
                    &asker->why);
}

#define START(server, ...)                          \
    start(server, (const enum step[]){__VA_ARGS__}, \
          sizeof((const enum step[]){__VA_ARGS__}) / sizeof(enum step))

static void key_and_life_time_are_those_of_the_python_client(void **state)
{
    struct server server;
    struct asker asker;

    (void)state;
    START(&server, SET_OK);
    open_asker(&asker, server.url);
    assert_int_equal(ask(&asker, 7), ONCE_RUN);
    close_asker(&asker);
    stop(&server);
    assert_string_equal(server.seen[0], "SET tw:amo:ns:task:id1 0000000000000abc-7 NX EX 60");
}

static void a_key_of_somebody_else_is_a_duplicate(void **state)
{
    struct server server;
    struct asker asker;

    (void)state;
    START(&server, SET_REFUSED, GET_OTHER, SET_REFUSED, GET_NIL, SET_OK);
    open_asker(&asker, server.url);
    assert_int_equal(ask(&asker, 7), ONCE_DUPLICATE);
    assert_int_equal(ask(&asker, 8), ONCE_RUN); /* its life ended in between */
    close_asker(&asker);
    stop(&server);
    assert_string_equal(server.seen[1], "GET tw:amo:ns:task:id1");
}

static void a_claim_knows_its_own_key_again(void **state)
{
    struct server server;
    struct asker asker;

    (void)state;
    START(&server, EXECUTE_AND_LEAVE, SET_REFUSED, GET_VALUE);
    open_asker(&asker, server.url);
    assert_int_equal(ask(&asker, 7), ONCE_UNASKED);
    assert_true(asker.why.s[0] != '\0');
    assert_int_equal(ask(&asker, 7), ONCE_RUN);
    close_asker(&asker);
    stop(&server);
}

static void without_an_answer_nothing_runs(void **state)
{
    struct server server;
    struct asker asker;

    (void)state;
    START(&server, LOADING, SET_REFUSED, EXECUTE_AND_LEAVE, SET_REFUSED, GET_NIL, SET_REFUSED,
          GET_NIL, LOADING);
    open_asker(&asker, server.url);
    assert_int_equal(ask(&asker, 7), ONCE_UNASKED);
    assert_non_null(strstr(asker.why.s, "LOADING"));
    assert_int_equal(ask(&asker, 7), ONCE_UNASKED); /* GET has no reply */
    assert_int_equal(ask(&asker, 7), ONCE_UNASKED);
    close_asker(&asker);
    stop(&server);

    open_asker(&asker, "unix:///nonexistent/socket");
    assert_int_equal(ask(&asker, 7), ONCE_UNASKED);
    close_asker(&asker);
}

static void one_asks_during_an_outage_and_pauses_grow(void **state)
{
    struct once_outage outage = {0};
    int64_t now_ms = 1000, pause_ms = ONCE_PAUSE_MS;

    (void)state;
    assert_true(once_may_ask(&outage, now_ms));
    assert_true(once_may_ask(&outage, now_ms)); /* both are on their way */
    assert_true(once_failed(&outage, 0, now_ms));
    assert_false(once_failed(&outage, 0, now_ms)); /* the same outage */
    for (int i = 0; i < 8; i++) {
        assert_int_equal(outage.again_ms, now_ms + pause_ms);
        assert_false(once_may_ask(&outage, outage.again_ms - 1));
        now_ms = outage.again_ms;
        assert_true(once_may_ask(&outage, now_ms));
        assert_false(once_may_ask(&outage, now_ms + 100000)); /* one at a time */
        assert_false(once_failed(&outage, 0, now_ms));
        pause_ms = pause_ms * 2 < ONCE_PAUSE_MAX_MS ? pause_ms * 2 : ONCE_PAUSE_MAX_MS;
    }
    assert_true(once_may_ask(&outage, now_ms + 10000));
    once_not_asked(&outage); /* its child died before */
    assert_true(once_may_ask(&outage, now_ms + 10000));
    assert_true(once_answered(&outage));
    assert_false(once_answered(&outage));
    assert_true(once_may_ask(&outage, 0));
}

static void pauses_are_spread_by_a_quarter(void **state)
{
    (void)state;
    for (uint32_t chance = 0; chance < 1024; chance++) {
        struct once_outage outage = {0};

        once_failed(&outage, chance, 0);
        assert_in_range(outage.again_ms, ONCE_PAUSE_MS, ONCE_PAUSE_MS + ONCE_PAUSE_MS / 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_and_life_time_are_those_of_the_python_client),
        cmocka_unit_test(a_key_of_somebody_else_is_a_duplicate),
        cmocka_unit_test(a_claim_knows_its_own_key_again),
        cmocka_unit_test(without_an_answer_nothing_runs),
        cmocka_unit_test(one_asks_during_an_outage_and_pauses_grow),
        cmocka_unit_test(pauses_are_spread_by_a_quarter),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
