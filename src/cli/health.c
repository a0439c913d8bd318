/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill health HOST:PORT`: the standard gRPC health check, for probes and people. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/cli_tls.h"
#include "client/dispatch.h"
#include "client/hostport.h"
#include "rpc/client.h"
#include "wire/consumer.h"

static const char help[] =
    "usage: taskmill health HOST:PORT [--service NAME] [--timeout SECONDS] [--quiet]\n"
    "\n"
    "Asks a broker's gRPC health service. Exit 0: serving; 1: not serving or out of reach.\n"
    "\n"
    "  --service NAME     service to ask for; default: the consumer service (\"\": the whole "
    "server)\n"
    "  --timeout SECONDS  default 5\n"
    "  --quiet            print nothing\n" CLI_TLS_HELP "\n"
    "example: taskmill health 127.0.0.1:50051\n";

enum { OPT_SERVICE = 1, OPT_TIMEOUT, OPT_QUIET };

static const struct cli_option options[] = {{OPT_SERVICE, "service", 0, true},
                                            {OPT_TIMEOUT, "timeout", 0, true},
                                            {OPT_QUIET, "quiet", 'q', false},
                                            CLI_TLS_OPTIONS,
                                            {0}};

static const char *status_name(enum health_status status)
{
    switch (status) {
    case HEALTH_SERVING:
        return "SERVING";
    case HEALTH_NOT_SERVING:
        return "NOT_SERVING";
    case HEALTH_SERVICE_UNKNOWN:
        return "SERVICE_UNKNOWN";
    case HEALTH_UNKNOWN:
        break;
    }
    return "UNKNOWN";
}

struct question {
    const char *target, *service;
    uint32_t timeout_ms;
    struct rpc_tls_options tls;
};

/* 0 and a status, or an error with one line in `why`. */
static int ask(const struct rpc_client_options *peer, const struct question *question,
               enum health_status *status, struct err_text *why)
{
    struct rpc_client *client = rpc_client_new(peer);
    struct buf request = {0}, body = {0};
    const char *fault;
    int grpc = 0, rv;

    health_request_encode(bytes_str(question->service), &request);
    rv = rpc_client_call_wait(client, HEALTH_CHECK, buf_bytes(&request), question->timeout_ms,
                              &grpc, &body, why);
    if (rv == 0 && grpc != GRPC_OK)
        rv = err_set(why, ERR_UNAVAILABLE, "%s answers %s", peer->host, grpc_status_name(grpc));
    if (rv == 0 && health_response_decode(buf_bytes(&body), status, &fault) != 0)
        rv = err_set(why, ERR_MALFORMED, "cannot read the answer of %s: %s", peer->host, fault);
    buf_free(&request);
    buf_free(&body);
    rpc_client_free(client);
    return rv;
}

static int connect_and_ask(const struct question *question, enum health_status *status,
                           struct err_text *why)
{
    struct rpc_client_options peer = {.connect_timeout_ms = question->timeout_ms};
    char host[HOSTPORT_HOST_MAX];
    int rv = hostport_parse(question->target, host, &peer.port);

    if (rv != 0)
        return err_set(why, rv, "'%s': needs HOST:PORT", question->target);
    peer.host = host;
    rv = dispatch_tls(&question->tls, &peer.tls, why);
    if (rv == 0)
        rv = ask(&peer, question, status, why);
    rpc_tls_unref(peer.tls);
    return rv;
}

int cmd_health(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill health", argc, argv);
    struct question question = {.service = CONSUMER_SERVICE};
    enum health_status status = HEALTH_UNKNOWN;
    struct err_text why = {{0}};
    uint64_t timeout_s = 5;
    bool quiet = false;
    char host[HOSTPORT_HOST_MAX];
    uint16_t port;
    int option;

    while ((option = cli_next(&args, options)) != CLI_END) {
        if (option == CLI_HELP)
            return fputs(help, stdout) < 0 ? CLI_FAILED : CLI_OK;
        if (option == CLI_BAD)
            return CLI_USAGE;
        if (option == OPT_SERVICE)
            question.service = args.value;
        else if (option == OPT_QUIET)
            quiet = true;
        else if (option == OPT_TIMEOUT && !cli_number(&args, "--timeout", 1, 3600, &timeout_s))
            return CLI_USAGE;
        else if (option == CLI_POSITIONAL && question.target != NULL)
            return cli_error(&args, CLI_USAGE, "one HOST:PORT, please; '%s' is too many",
                             args.value);
        else if (option == CLI_POSITIONAL)
            question.target = args.value;
        else
            (void)cli_tls_take(&args, option, &question.tls);
    }
    if (question.target == NULL || hostport_parse(question.target, host, &port) != 0)
        return cli_error(&args, CLI_USAGE, "needs HOST:PORT, for example 127.0.0.1:50051");
    question.timeout_ms = (uint32_t)timeout_s * 1000;
    if (connect_and_ask(&question, &status, &why) != 0)
        return quiet ? CLI_FAILED : cli_error(&args, CLI_FAILED, "%s", why.s);
    if (!quiet)
        puts(status_name(status));
    return status == HEALTH_SERVING ? CLI_OK : CLI_FAILED;
}
