/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/status.h"

const char *grpc_status_name(int status)
{
    switch (status) {
#define X(name, number) \
    case number:        \
        return #name;
        GRPC_STATUS_MAP(X)
#undef X
    default:
        return "UNKNOWN";
    }
}
