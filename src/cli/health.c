/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill health HOST:PORT`: the standard gRPC health check, for probes and people. */
#include <stdio.h>

#include "cli/cli.h"
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
    "  --quiet            print nothing\n"
    "\n"
    "example: taskmill health 127.0.0.1:50051\n";

enum { OPT_SERVICE = 1, OPT_TIMEOUT, OPT_QUIET };

static const struct cli_option options[] = {{OPT_SERVICE, "service", 0, true},
                                            {OPT_TIMEOUT, "timeout", 0, true},
                                            {OPT_QUIET, "quiet", 'q', false},
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

/* 0 and a status, or an error with one line in `why`. */
static int ask(const char *host, uint16_t port, const char *service, uint32_t timeout_ms,
               enum health_status *status, struct err_text *why)
{
    struct rpc_client_options peer = {.host = host, .port = port, .connect_timeout_ms = timeout_ms};
    struct rpc_client *client = rpc_client_new(&peer);
    struct buf request = {0}, body = {0};
    const char *fault;
    int grpc = 0, rv;

    health_request_encode(bytes_str(service), &request);
    rv = rpc_client_call_wait(client, HEALTH_CHECK, buf_bytes(&request), timeout_ms, &grpc, &body,
                              why);
    if (rv == 0 && grpc != GRPC_OK)
        rv = err_set(why, ERR_UNAVAILABLE, "%s answers %s", host, grpc_status_name(grpc));
    if (rv == 0 && health_response_decode(buf_bytes(&body), status, &fault) != 0)
        rv = err_set(why, ERR_MALFORMED, "cannot read the answer of %s: %s", host, fault);
    buf_free(&request);
    buf_free(&body);
    rpc_client_free(client);
    return rv;
}

int cmd_health(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill health", argc, argv);
    const char *service = CONSUMER_SERVICE, *target = NULL;
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
            service = args.value;
        else if (option == OPT_QUIET)
            quiet = true;
        else if (option == OPT_TIMEOUT && !cli_number(&args, "--timeout", 1, 3600, &timeout_s))
            return CLI_USAGE;
        else if (option == CLI_POSITIONAL && target != NULL)
            return cli_error(&args, CLI_USAGE, "one HOST:PORT, please; '%s' is too many",
                             args.value);
        else if (option == CLI_POSITIONAL)
            target = args.value;
    }
    if (target == NULL || hostport_parse(target, host, &port) != 0)
        return cli_error(&args, CLI_USAGE, "needs HOST:PORT, for example 127.0.0.1:50051");
    if (ask(host, port, service, (uint32_t)timeout_s * 1000, &status, &why) != 0)
        return quiet ? CLI_FAILED : cli_error(&args, CLI_FAILED, "%s", why.s);
    if (!quiet)
        puts(status_name(status));
    return status == HEALTH_SERVING ? CLI_OK : CLI_FAILED;
}
