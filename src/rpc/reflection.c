/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/reflection.h"

#include "rpc/status.h"
#include "wire/pb.h"

/* Field numbers of ServerReflectionRequest, ...Response and the messages inside. */
enum {
    REQUEST_HOST = 1,
    REQUEST_FILE_BY_NAME = 3,
    REQUEST_FILE_OF_SYMBOL = 4,
    REQUEST_FILE_OF_EXTENSION = 5,
    REQUEST_EXTENSIONS_OF_TYPE = 6,
    REQUEST_LIST_SERVICES = 7,
    RESPONSE_HOST = 1,
    RESPONSE_REQUEST = 2,
    RESPONSE_FILES = 4,
    RESPONSE_EXTENSIONS = 5,
    RESPONSE_SERVICES = 6,
    RESPONSE_ERROR = 7,
    FILES_DESCRIPTOR = 1,
    EXTENSIONS_TYPE = 1,
    SERVICES_SERVICE = 1,
    SERVICE_NAME = 1,
    ERROR_CODE = 1,
    ERROR_MESSAGE = 2
};

struct request {
    struct bytes host, text;
    uint32_t kind; /* number of the field of the oneof that came last; 0: none */
};

static int decode(struct bytes message, struct request *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;

    *out = (struct request){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type != PB_LEN)
            continue;
        struct bytes *text = field.number == REQUEST_HOST ? &out->host : &out->text;
        if (field.number >= REQUEST_FILE_BY_NAME && field.number <= REQUEST_LIST_SERVICES)
            out->kind = field.number;
        else if (field.number != REQUEST_HOST)
            continue;
        *text = field.data; /* an extension's is a message, which is not looked at */
        if (field.number != REQUEST_FILE_OF_EXTENSION && !pb_utf8_valid(field.data))
            return pb_fault(why, "not valid UTF-8");
    }
    if (rv == 0 && out->kind == 0)
        return pb_fault(why, "asks for nothing");
    return rv;
}

static void put_error(struct buf *out, enum grpc_status status, const char *text)
{
    struct buf error = {0};

    pb_put_uint(&error, ERROR_CODE, (uint64_t)status);
    pb_put_bytes(&error, ERROR_MESSAGE, bytes_str(text));
    pb_put_bytes(out, RESPONSE_ERROR, buf_bytes(&error));
    buf_free(&error);
}

/* The file and, since few tools ask twice, all that it imports. */
static void put_file(struct buf *out, const struct reflection_file *file)
{
    struct buf files = {0};

    pb_put_bytes(&files, FILES_DESCRIPTOR, file->descriptor);
    for (size_t i = 0; i < file->import_count; i++)
        pb_put_bytes(&files, FILES_DESCRIPTOR, reflection_files[file->imports[i]].descriptor);
    pb_put_bytes(out, RESPONSE_FILES, buf_bytes(&files));
    buf_free(&files);
}

static void answer_file(struct buf *out, struct bytes name)
{
    for (size_t i = 0; i < reflection_file_count; i++) {
        if (bytes_equal_str(name, reflection_files[i].name)) {
            put_file(out, &reflection_files[i]);
            return;
        }
    }
    put_error(out, GRPC_NOT_FOUND, "file not found");
}

static int compare(struct bytes name, const char *symbol)
{
    size_t len = strlen(symbol);
    size_t common = name.len < len ? name.len : len;
    int rv = common ? memcmp(name.ptr, symbol, common) : 0;

    return rv != 0 ? rv : (name.len > len) - (name.len < len);
}

/* NULL when there is none. */
static const struct reflection_symbol *find_symbol(struct bytes name)
{
    size_t low = 0, high = reflection_symbol_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(name, reflection_symbols[middle].name);

        if (order == 0)
            return &reflection_symbols[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static void answer_symbol(struct buf *out, struct bytes name)
{
    const struct reflection_symbol *symbol = find_symbol(name);

    if (symbol)
        put_file(out, &reflection_files[symbol->file]);
    else
        put_error(out, GRPC_NOT_FOUND, "symbol not found");
}

static void answer_extensions(struct buf *out, struct bytes type)
{
    struct buf numbers = {0};

    if (!find_symbol(type)) {
        put_error(out, GRPC_NOT_FOUND, "type not found");
        return;
    }
    pb_put_bytes(&numbers, EXTENSIONS_TYPE, type);
    pb_put_bytes(out, RESPONSE_EXTENSIONS, buf_bytes(&numbers));
    buf_free(&numbers);
}

static void answer_services(struct buf *out, const struct bytes *services, size_t count)
{
    struct buf list = {0}, service = {0};

    for (size_t i = 0; i < count; i++) {
        buf_clear(&service);
        pb_put_bytes(&service, SERVICE_NAME, services[i]);
        pb_put_bytes(&list, SERVICES_SERVICE, buf_bytes(&service));
    }
    pb_put_bytes(out, RESPONSE_SERVICES, buf_bytes(&list));
    buf_free(&service);
    buf_free(&list);
}

int reflection_answer(struct bytes request, const struct bytes *services, size_t service_count,
                      struct buf *out, const char **why)
{
    struct request ask;
    int rv = decode(request, &ask, why);

    if (rv < 0)
        return rv;
    if (ask.host.len)
        pb_put_bytes(out, RESPONSE_HOST, ask.host);
    pb_put_bytes(out, RESPONSE_REQUEST, request);
    if (ask.kind == REQUEST_FILE_BY_NAME)
        answer_file(out, ask.text);
    else if (ask.kind == REQUEST_FILE_OF_SYMBOL)
        answer_symbol(out, ask.text);
    else if (ask.kind == REQUEST_EXTENSIONS_OF_TYPE)
        answer_extensions(out, ask.text);
    else if (ask.kind == REQUEST_LIST_SERVICES)
        answer_services(out, services, service_count);
    else
        put_error(out, GRPC_NOT_FOUND, "extension not found");
    return 0;
}
