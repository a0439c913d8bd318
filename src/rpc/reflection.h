/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.reflection.v1 and v1alpha: what one request is answered with. The two have the same
 * messages. Pure, thread-safe. The descriptors are compiled from proto/ into reflection_data.c
 * (scripts/reflection_data.py); a server lists the services that it has, which may be fewer or
 * more.
 */
#ifndef TASKMILL_RPC_REFLECTION_H
#define TASKMILL_RPC_REFLECTION_H

#include "base/bytes.h"
#include "base/err.h"

#define REFLECTION_INFO       "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
#define REFLECTION_INFO_ALPHA "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

enum {
    REFLECTION_REQUEST_MAX = 4096, /* bytes of one request: a name and little more */
    REFLECTION_WAITING_MAX = 16384 /* bytes of requests of one stream that wait for their answers */
};

/* Appends a ServerReflectionResponse to out; what is not found is one, too. Answers are at most as
 * large as a file and all that it imports (some KB) plus the request. ERR_MALFORMED and *why when
 * the request cannot be read or asks for nothing. */
int reflection_answer(struct bytes request, const struct bytes *services, size_t service_count,
                      struct buf *out, const char **why);

/* --- reflection_data.c ----------------------------------------------------------------------- */

struct reflection_file {
    const char *name;
    struct bytes descriptor; /* serialised google.protobuf.FileDescriptorProto */
    const uint8_t *imports;  /* indices of all files that it needs, directly or not */
    size_t import_count;
};

struct reflection_symbol {
    const char *name;
    size_t file;
};

extern const struct reflection_file reflection_files[];
extern const size_t reflection_file_count;
extern const struct reflection_symbol reflection_symbols[]; /* sorted by name, bytewise */
extern const size_t reflection_symbol_count;

#endif
