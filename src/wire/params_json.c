/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters as JSON, for tasks that are not Python and for the command line.
 *
 *   msgpack        JSON
 *   bin            {"$bytes": "standard base64 with padding"}
 *   NaN, +-inf     {"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}
 *   other floats   the shortest digits that read back as the same double, always with a point or an
 *                  exponent, so that 1.0 does not become an integer
 *   integers       in full: -2^63 .. 2^64-1
 *
 * An object with one key "$bytes" or "$float" is such a mark only if its value has that form; any
 * other is an ordinary map. A map that looks like a mark therefore does not survive the round trip:
 * JSON has no room for the difference.
 *
 * Reading is jansson's work, but its integers end at 2^63-1. So the text is first copied with every
 * larger integer replaced by a mark of our own, {"\x01": "digits"}, whose key cannot stand in valid
 * text unescaped.
 */
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "wire/params.h"
#include "wire/pb.h"

#define MARK_BYTES   "$bytes"
#define MARK_FLOAT   "$float"
#define MARK_INTEGER "\x01"

/* Inside of args or kwargs: these and the outer map. */
#define OUTER_DEPTH 2

static int unsupported(const char **why, const char *text)
{
    *why = text;
    return ERR_UNSUPPORTED;
}

/* ---- base64 ---- */

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void put_base64(struct buf *out, struct bytes data)
{
    for (size_t i = 0; i < data.len; i += 3) {
        size_t count = data.len - i < 3 ? data.len - i : 3;
        uint32_t three = 0;
        for (size_t k = 0; k < 3; k++)
            three = three << 8 | (k < count ? data.ptr[i + k] : 0);
        char four[4];
        for (size_t k = 0; k < 4; k++)
            four[k] = (char)(k <= count ? base64_digits[three >> 6 * (3 - k) & 0x3f] : '=');
        buf_append(out, four, sizeof(four));
    }
}

static int base64_digit(char c)
{
    const char *at = c ? strchr(base64_digits, c) : NULL;
    return at ? (int)(at - base64_digits) : -1;
}

/* Appends the 1 to 3 bytes of one group; false when it is not base64. Only the last may be padded.
 */
static bool take_base64_group(const char four[4], bool last, struct buf *out)
{
    size_t count = 4;
    uint32_t bits = 0;
    if (last && four[3] == '=')
        count = four[2] == '=' ? 2 : 3;
    for (size_t k = 0; k < 4; k++) {
        int digit = k < count ? base64_digit(four[k]) : 0;
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
    }
    for (size_t k = 0; k + 1 < count; k++)
        buf_append_byte(out, (uint8_t)(bits >> 8 * (2 - k)));
    return true;
}

static bool take_base64(struct bytes text, struct buf *out)
{
    if (text.len % 4 != 0)
        return false;
    for (size_t i = 0; i < text.len; i += 4)
        if (!take_base64_group((const char *)text.ptr + i, i + 4 == text.len, out))
            return false;
    return true;
}

int params_decompress_text(struct bytes base64, size_t max, struct buf *out, const char **why)
{
    struct buf frame = {0};
    int rv = take_base64(base64, &frame)
                 ? params_decompress(buf_bytes(&frame), max, out, why)
                 : pb_fault(why, "compressed JSON parameters are not base64");
    buf_free(&frame);
    return rv;
}

/* ---- msgpack to JSON ---- */

static void put_json_string(struct buf *out, struct bytes text)
{
    size_t done = 0;
    buf_append_byte(out, '"');
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_append(out, text.ptr + done, i - done);
        done = i + 1;
        if (c >= 0x20)
            buf_printf(out, "\\%c", c);
        else
            buf_printf(out, "\\u%04x", c);
    }
    buf_append(out, text.ptr + done, text.len - done);
    buf_append_byte(out, '"');
}

/* The decimal point of the locale, which a program that embeds us may have set, is the one thing in
 * a printed number that is neither digit, sign nor exponent; it may have several bytes. */
static void put_number_text(struct buf *out, const char *text)
{
    bool integral = true, in_point = false;
    for (; *text; text++) {
        bool plain = strchr("0123456789+-e", *text) != NULL;
        if (plain)
            buf_append_byte(out, (uint8_t)*text);
        else if (!in_point)
            buf_append_byte(out, '.');
        in_point = !plain;
        integral = integral && plain && *text != 'e';
    }
    if (integral)
        buf_append_str(out, ".0");
}

static void put_json_float(struct buf *out, double value)
{
    char text[64];
    if (isnan(value)) {
        buf_append_str(out, "{\"" MARK_FLOAT "\":\"nan\"}");
        return;
    }
    if (isinf(value)) {
        buf_printf(out, "{\"" MARK_FLOAT "\":\"%s\"}", value < 0 ? "-inf" : "inf");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    put_number_text(out, text);
}

static int put_json(struct msgpack_reader *reader, struct buf *out, const char **why);

static int put_json_array(struct msgpack_reader *reader, uint32_t count, struct buf *out,
                          const char **why)
{
    buf_append_byte(out, '[');
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0)
            buf_append_byte(out, ',');
        int rv = put_json(reader, out, why);
        if (rv < 0)
            return rv;
    }
    buf_append_byte(out, ']');
    return 0;
}

static int put_json_map(struct msgpack_reader *reader, uint32_t count, struct buf *out,
                        const char **why)
{
    buf_append_byte(out, '{');
    for (uint32_t i = 0; i < count; i++) {
        struct msgpack_value key;
        int rv = msgpack_read(reader, &key, why);
        if (rv < 0)
            return rv;
        if (key.type != MSGPACK_STR)
            return unsupported(why, "parameters have a map key that is not a string");
        if (i > 0)
            buf_append_byte(out, ',');
        put_json_string(out, key.data);
        buf_append_byte(out, ':');
        rv = put_json(reader, out, why);
        if (rv < 0)
            return rv;
    }
    buf_append_byte(out, '}');
    return 0;
}

/* One value. Recursion is bounded: params_open has skipped over all of it, counting the depth. */
static int put_json(struct msgpack_reader *reader, struct buf *out, const char **why)
{
    struct msgpack_value value;
    int rv = msgpack_read(reader, &value, why);
    if (rv < 0)
        return rv;
    switch (value.type) {
    case MSGPACK_NIL:
        buf_append_str(out, "null");
        return 0;
    case MSGPACK_BOOL:
        buf_append_str(out, value.b ? "true" : "false");
        return 0;
    case MSGPACK_INT:
        buf_printf(out, "%lld", (long long)value.i);
        return 0;
    case MSGPACK_UINT:
        buf_printf(out, "%llu", (unsigned long long)value.u);
        return 0;
    case MSGPACK_FLOAT:
        put_json_float(out, value.d);
        return 0;
    case MSGPACK_STR:
        put_json_string(out, value.data);
        return 0;
    case MSGPACK_BIN:
        buf_append_str(out, "{\"" MARK_BYTES "\":\"");
        put_base64(out, value.data);
        buf_append_str(out, "\"}");
        return 0;
    case MSGPACK_ARRAY:
        return put_json_array(reader, value.count, out, why);
    case MSGPACK_MAP:
        return put_json_map(reader, value.count, out, why);
    case MSGPACK_EXT:
        break;
    }
    return unsupported(why, "parameters hold a msgpack extension type");
}

static int put_json_slice(struct bytes packed, const char *missing, struct buf *out,
                          const char **why)
{
    if (packed.len == 0) {
        buf_append_str(out, missing);
        return 0;
    }
    struct msgpack_reader reader = {.pos = packed.ptr, .end = packed.ptr + packed.len};
    return put_json(&reader, out, why);
}

int params_to_json(struct bytes packed, struct buf *out, const char **why)
{
    struct bytes args, kwargs;
    size_t start = out->len;
    int rv = params_open(packed, &args, &kwargs, why);
    if (rv < 0)
        return rv;
    buf_append_str(out, "{\"args\":");
    rv = put_json_slice(args, "[]", out, why);
    if (rv == 0) {
        buf_append_str(out, ",\"kwargs\":");
        rv = put_json_slice(kwargs, "{}", out, why);
    }
    if (rv < 0) {
        out->len = start;
        return rv;
    }
    buf_append_byte(out, '}');
    return 0;
}

int params_value_to_json(struct bytes packed, struct buf *out, const char **why)
{
    struct msgpack_reader reader = {.pos = packed.ptr, .end = packed.ptr + packed.len};
    size_t start = out->len;
    int rv = put_json(&reader, out, why);
    if (rv < 0)
        out->len = start;
    return rv;
}

void params_put_json_string(struct bytes text, struct buf *out)
{
    put_json_string(out, text);
}

/* ---- JSON to msgpack ---- */

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* Of a number with a fraction or an exponent: what follows is part of it, not an integer. */
static bool is_real_mark(uint8_t c)
{
    return c == '.' || c == 'e' || c == 'E';
}

/* Length of the run of digits at `at`, if it is an integer that jansson cannot hold and uint64 can.
 */
static size_t large_integer_len(struct bytes json, size_t at)
{
    char digits[24] = {0};
    size_t len = 0;
    while (at + len < json.len && is_digit(json.ptr[at + len]))
        len++;
    bool negative = at > 0 && json.ptr[at - 1] == '-';
    bool real = at + len < json.len && is_real_mark(json.ptr[at + len]);
    if (len < 19 || len > 20 || json.ptr[at] == '0' || negative || real)
        return 0;
    memcpy(digits, json.ptr + at, len);
    errno = 0;
    unsigned long long value = strtoull(digits, NULL, 10);
    return errno == 0 && value > INT64_MAX ? len : 0;
}

/* The text with large integers marked. Works on any bytes; whether they are JSON is for jansson to
 * say. */
static void mark_large_integers(struct bytes json, struct buf *out)
{
    bool in_string = false;
    for (size_t i = 0; i < json.len; i++) {
        uint8_t c = json.ptr[i];
        uint8_t before = i > 0 ? json.ptr[i - 1] : 0;
        bool inside = is_digit(before) || is_real_mark(before) || before == '+';
        bool starts = !in_string && !inside && is_digit(c);
        size_t len = starts ? large_integer_len(json, i) : 0;
        if (len > 0) {
            buf_append_str(out, "{\"\\u0001\":\"");
            buf_append(out, json.ptr + i, len);
            buf_append_str(out, "\"}");
            i += len - 1;
            continue;
        }
        buf_append_byte(out, c);
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\' && i + 1 < json.len)
            buf_append_byte(out, json.ptr[++i]);
    }
}

static struct bytes json_text(const json_t *string)
{
    return bytes_of(json_string_value(string), json_string_length(string));
}

static bool put_marked_float(struct bytes text, struct buf *packed)
{
    if (bytes_equal_str(text, "nan"))
        msgpack_put_double(packed, NAN);
    else if (bytes_equal_str(text, "inf"))
        msgpack_put_double(packed, INFINITY);
    else if (bytes_equal_str(text, "-inf"))
        msgpack_put_double(packed, -INFINITY);
    else
        return false;
    return true;
}

static bool put_marked_bytes(struct bytes text, struct buf *packed)
{
    struct buf data = {0};
    bool valid = take_base64(text, &data);
    if (valid)
        msgpack_put_bin(packed, buf_bytes(&data));
    buf_free(&data);
    return valid;
}

static bool put_marked_integer(const char *text, struct buf *packed)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || !is_digit((uint8_t)*text) || *end)
        return false;
    msgpack_put_uint(packed, value);
    return true;
}

/* True when the object is a mark: then its value has been written. */
static bool put_mark(json_t *object, struct buf *packed)
{
    if (json_object_size(object) != 1)
        return false;
    void *entry = json_object_iter(object);
    const char *key = json_object_iter_key(entry);
    const json_t *value = json_object_iter_value(entry);
    if (!json_is_string(value))
        return false;
    if (strcmp(key, MARK_BYTES) == 0)
        return put_marked_bytes(json_text(value), packed);
    if (strcmp(key, MARK_FLOAT) == 0)
        return put_marked_float(json_text(value), packed);
    if (strcmp(key, MARK_INTEGER) == 0)
        return put_marked_integer(json_string_value(value), packed);
    return false;
}

/* `depth` counts the containers around the value, or up to this one. */
static int put_packed(json_t *value, int depth, struct buf *packed, const char **why);

static int put_packed_array(json_t *array, int depth, struct buf *packed, const char **why)
{
    size_t count = json_array_size(array);
    assert(count <= UINT32_MAX);
    msgpack_put_array(packed, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        int rv = put_packed(json_array_get(array, i), depth, packed, why);
        if (rv < 0)
            return rv;
    }
    return 0;
}

static int put_packed_object(json_t *object, int depth, struct buf *packed, const char **why)
{
    size_t count = json_object_size(object);
    assert(count <= UINT32_MAX);
    msgpack_put_map(packed, (uint32_t)count);
    for (void *entry = json_object_iter(object); entry;
         entry = json_object_iter_next(object, entry)) {
        const char *key = json_object_iter_key(entry);
        msgpack_put_str(packed, bytes_of(key, json_object_iter_key_len(entry)));
        int rv = put_packed(json_object_iter_value(entry), depth, packed, why);
        if (rv < 0)
            return rv;
    }
    return 0;
}

static int put_packed(json_t *value, int depth, struct buf *packed, const char **why)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        msgpack_put_nil(packed);
        return 0;
    case JSON_TRUE:
    case JSON_FALSE:
        msgpack_put_bool(packed, json_is_true(value));
        return 0;
    case JSON_INTEGER:
        msgpack_put_int(packed, json_integer_value(value));
        return 0;
    case JSON_REAL:
        msgpack_put_double(packed, json_real_value(value));
        return 0;
    case JSON_STRING:
        msgpack_put_str(packed, json_text(value));
        return 0;
    case JSON_OBJECT:
        if (put_mark(value, packed))
            return 0;
        break;
    case JSON_ARRAY:
        break;
    }
    if (depth == PARAMS_DEPTH_MAX)
        return pb_fault(why, "JSON is nested too deeply");
    return json_is_array(value) ? put_packed_array(value, depth + 1, packed, why)
                                : put_packed_object(value, depth + 1, packed, why);
}

static const char *json_fault(const json_error_t *error)
{
    switch (json_error_code(error)) {
    case json_error_stack_overflow:
        return "JSON is nested too deeply";
    case json_error_invalid_utf8:
        return "JSON is not valid UTF-8";
    case json_error_premature_end_of_input:
        return "JSON ends too early";
    case json_error_numeric_overflow:
        return "JSON holds a number that does not fit 64 bits";
    case json_error_null_byte_in_key:
        return "JSON has a key with a NUL in it";
    default:
        return "JSON has a syntax error";
    }
}

static int put_packed_params(json_t *root, struct buf *packed, const char **why)
{
    json_t *args = json_object_get(root, "args"), *kwargs = json_object_get(root, "kwargs");
    if (!json_is_object(root))
        return pb_fault(why, "JSON is not an object");
    if (args && !json_is_array(args))
        return pb_fault(why, "args is not an array");
    if (kwargs && !json_is_object(kwargs))
        return pb_fault(why, "kwargs is not an object");
    msgpack_put_map(packed, 2);
    msgpack_put_str(packed, bytes_str("args"));
    int rv = 0;
    if (args)
        rv = put_packed_array(args, OUTER_DEPTH, packed, why);
    else
        msgpack_put_array(packed, 0);
    if (rv < 0)
        return rv;
    msgpack_put_str(packed, bytes_str("kwargs"));
    if (kwargs)
        return put_packed_object(kwargs, OUTER_DEPTH, packed, why);
    msgpack_put_map(packed, 0);
    return 0;
}

int params_from_json(struct bytes json, struct buf *packed, const char **why)
{
    size_t start = packed->len;
    struct buf marked = {0};
    json_error_t error;
    mark_large_integers(json, &marked);
    json_t *root =
        json_loadb(buf_cstr(&marked), marked.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    buf_free(&marked);
    if (!root)
        return pb_fault(why, json_fault(&error));
    int rv = put_packed_params(root, packed, why);
    if (rv < 0)
        packed->len = start;
    json_decref(root);
    return rv;
}
