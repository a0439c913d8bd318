/* SPDX-License-Identifier: Apache-2.0 */
/* The TLS options of all commands that call a broker. Whoever gives none speaks plain text. */
#ifndef TASKMILL_CLI_CLI_TLS_H
#define TASKMILL_CLI_CLI_TLS_H

#include "cli/cli.h"
#include "rpc/tls.h"

enum { CLI_TLS_CA = 1000, CLI_TLS_CERT, CLI_TLS_KEY, CLI_TLS_NAME };

/* For a command's table of options and for its --help. */
#define CLI_TLS_OPTIONS                                                   \
    {CLI_TLS_CA, "tls-ca", 0, true}, {CLI_TLS_CERT, "tls-cert", 0, true}, \
        {CLI_TLS_KEY, "tls-key", 0, true},                                \
    {                                                                     \
        CLI_TLS_NAME, "tls-name", 0, true                                 \
    }
#define CLI_TLS_HELP                                                                              \
    "  --tls-ca FILE      speak TLS; PEM file of the authorities that the broker's certificate\n" \
    "                     may come from; default: those of the system\n"                          \
    "  --tls-cert FILE, --tls-key FILE   our own certificate, if the broker asks for one\n"       \
    "  --tls-name NAME    what the broker's certificate must name; default: the host\n"           \
    "                     Also TASKMILL_TLS_CA, _CERT, _KEY, _NAME. Any of them turns TLS on\n"

/* True if `option` was one of these; its value is in *tls then. */
bool cli_tls_take(const struct cli_args *args, int option, struct rpc_tls_options *tls);

#endif
