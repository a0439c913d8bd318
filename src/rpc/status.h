/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC status codes (source: gRPC core concepts, "Status codes"), shared by server and client. */
#ifndef TASKMILL_RPC_STATUS_H
#define TASKMILL_RPC_STATUS_H

#define GRPC_STATUS_MAP(X)    \
    X(OK, 0)                  \
    X(CANCELLED, 1)           \
    X(UNKNOWN, 2)             \
    X(INVALID_ARGUMENT, 3)    \
    X(DEADLINE_EXCEEDED, 4)   \
    X(NOT_FOUND, 5)           \
    X(ALREADY_EXISTS, 6)      \
    X(PERMISSION_DENIED, 7)   \
    X(RESOURCE_EXHAUSTED, 8)  \
    X(FAILED_PRECONDITION, 9) \
    X(ABORTED, 10)            \
    X(OUT_OF_RANGE, 11)       \
    X(UNIMPLEMENTED, 12)      \
    X(INTERNAL, 13)           \
    X(UNAVAILABLE, 14)        \
    X(DATA_LOSS, 15)          \
    X(UNAUTHENTICATED, 16)

enum grpc_status {
#define X(name, number) GRPC_##name = (number),
    GRPC_STATUS_MAP(X)
#undef X
};

/* "NOT_FOUND"; "CODE_99" style is never needed: unknown numbers read as "UNKNOWN". */
const char *grpc_status_name(int status);

#endif
