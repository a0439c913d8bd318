/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "cli/cli_tls.h"

bool cli_tls_take(const struct cli_args *args, int option, struct rpc_tls_options *tls)
{
    switch (option) {
    case CLI_TLS_CA:
        tls->ca_path = args->value;
        return true;
    case CLI_TLS_CERT:
        tls->certificate_path = args->value;
        return true;
    case CLI_TLS_KEY:
        tls->key_path = args->value;
        return true;
    case CLI_TLS_NAME:
        tls->name = args->value;
        return true;
    default:
        return false;
    }
}
