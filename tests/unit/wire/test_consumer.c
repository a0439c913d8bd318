/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/consumer.h"

#include <stdio.h>

#include "hexed.h"

/* What the callbacks saw, as one text. */
struct seen {
    char text[64];
    size_t len;
    int stop_at; /* n > 0: the n-th call returns ERR_CANCELLED */
    int calls;
};

static int note(struct seen *seen, struct bytes what)
{
    seen->calls++;
    assert_true(seen->len + what.len + 2 < sizeof(seen->text));
    if (what.len > 0)
        memcpy(seen->text + seen->len, what.ptr, what.len);
    seen->len += what.len;
    seen->text[seen->len++] = ',';
    return seen->calls == seen->stop_at ? ERR_CANCELLED : 0;
}

static int note_update(void *ctx, const struct set_status_request *update)
{
    return note(ctx, update->id);
}

static int note_bytes(void *ctx, struct bytes what)
{
    return note(ctx, what);
}

/* spec/client.md 0 */
static void test_filter_vector(void **state)
{
    (void)state;
    struct task_filter filter = {.has_application = true, .application = bytes_str("sentry")};
    struct buf out = {0};
    const char *why;
    task_filter_encode(&filter, &out);
    assert_bytes_hex(buf_bytes(&out), "120673656e747279");
    assert_int_equal(task_filter_decode(buf_bytes(&out), &filter, &why), 0);
    assert_false(filter.has_namespace);
    assert_true(filter.has_application);
    assert_bytes_str(filter.application, "sentry");
    buf_free(&out);
}

static void test_filter_present_but_empty(void **state)
{
    (void)state;
    struct hexed message = unhex("0a00 1200 1801");
    struct task_filter filter;
    const char *why;
    assert_int_equal(task_filter_decode(hexed_bytes(&message), &filter, &why), 0);
    assert_true(filter.has_namespace && filter.has_application);
    assert_int_equal(filter.namespace.len + filter.application.len, 0);
    message = unhex("0a01ff");
    assert_int_equal(task_filter_decode(hexed_bytes(&message), &filter, &why), ERR_MALFORMED);
    assert_string_equal(why, "namespace: not valid UTF-8");
}

/* spec/client.md 0 */
static void test_status_vector(void **state)
{
    (void)state;
    struct set_status_request request = {
        .id = bytes_str("a"), .status = ACTIVATION_COMPLETE, .has_fetch_next = true};
    struct buf out = {0};
    const char *why;
    set_status_encode(&request, &out);
    assert_bytes_hex(buf_bytes(&out), "0a016110051a00");
    assert_int_equal(set_status_decode(buf_bytes(&out), &request, &why), 0);
    assert_bytes_str(request.id, "a");
    assert_int_equal(request.status, ACTIVATION_COMPLETE);
    assert_true(request.has_fetch_next);
    assert_false(request.fetch_next.has_namespace || request.fetch_next.has_application);
    assert_false(request.has_max_attempts || request.has_delay_on_retry);
    buf_free(&out);
}

static void test_status_full(void **state)
{
    (void)state;
    struct set_status_request request = {
        .id = bytes_str("a"),
        .status = -1,
        .has_fetch_next = true,
        .fetch_next = {.has_namespace = true, .namespace = bytes_str("n")},
        .has_max_attempts = true,
        .has_delay_on_retry = true,
        .delay_on_retry = UINT64_MAX,
    };
    struct buf out = {0};
    const char *why;
    set_status_encode(&request, &out);
    assert_bytes_hex(buf_bytes(&out), "0a0161 10 ffffffffffffffffff01 1a03 0a016e 2000"
                                      "28 ffffffffffffffffff01");
    memset(&request, 0, sizeof(request));
    assert_int_equal(set_status_decode(buf_bytes(&out), &request, &why), 0);
    assert_int_equal(request.status, -1);
    assert_bytes_str(request.fetch_next.namespace, "n");
    assert_true(request.has_max_attempts);
    assert_int_equal(request.max_attempts, 0);
    assert_true(request.delay_on_retry == UINT64_MAX);
    buf_free(&out);
}

static void test_status_fetch_next_merges(void **state)
{
    (void)state;
    struct hexed message = unhex("1a03 0a016e 1a03 120161 1a00");
    struct set_status_request request;
    const char *why;
    assert_int_equal(set_status_decode(hexed_bytes(&message), &request, &why), 0);
    assert_bytes_str(request.fetch_next.namespace, "n");
    assert_bytes_str(request.fetch_next.application, "a");
}

static void test_batch(void **state)
{
    (void)state;
    struct set_status_request one = {.id = bytes_str("one"), .status = ACTIVATION_RETRY},
                              two = {.id = bytes_str("two"), .status = ACTIVATION_FAILURE};
    struct buf out = {0};
    struct seen seen = {.calls = 0};
    const char *why;
    set_batch_encode_one(&one, &out);
    set_batch_encode_one(&two, &out);
    assert_bytes_hex(buf_bytes(&out), "0a07 0a036f6e65 1004 0a07 0a0374776f 1003");
    assert_int_equal(set_batch_decode(buf_bytes(&out), note_update, &seen, &why), 0);
    assert_string_equal(seen.text, "one,two,");
    seen = (struct seen){.stop_at = 1};
    assert_int_equal(set_batch_decode(buf_bytes(&out), note_update, &seen, &why), ERR_CANCELLED);
    assert_string_equal(seen.text, "one,");
    buf_free(&out);
}

static void test_bad_batch_calls_nobody(void **state)
{
    (void)state;
    struct hexed message = unhex("0a03 0a0161 0a03 0a01ff");
    struct seen seen = {.calls = 0};
    const char *why;
    assert_int_equal(set_batch_decode(hexed_bytes(&message), note_update, &seen, &why),
                     ERR_MALFORMED);
    assert_string_equal(why, "id: not valid UTF-8");
    assert_int_equal(seen.calls, 0);
}

static void test_task_response(void **state)
{
    (void)state;
    uint8_t prefix[TASK_RESPONSE_PREFIX_MAX];
    struct task_response response;
    const char *why;
    assert_int_equal(task_response_prefix(prefix, 3, 0), 2);
    struct hexed message = unhex("0a03 616263");
    assert_memory_equal(prefix, message.data, 2);
    assert_int_equal(task_response_decode(hexed_bytes(&message), &response, &why), 0);
    assert_true(response.has_task);
    assert_bytes_str(response.activation, "abc");
    assert_int_equal(response.claim, 0);
    assert_int_equal(task_response_decode(bytes_of(NULL, 0), &response, &why), 0);
    assert_false(response.has_task);
    message = unhex("0a00 0a00");
    assert_int_equal(task_response_decode(hexed_bytes(&message), &response, &why), ERR_MALFORMED);
    assert_int_equal(task_response_prefix(prefix, 300, 0), 3);
    assert_bytes_hex(bytes_of(prefix, 3), "0aac02");
    assert_int_equal(task_response_prefix(prefix, SIZE_MAX, 0), 11);
}

/* Extension 2001: asked for, told, and skipped by who does not know it. */
static void test_claim_of_a_task(void **state)
{
    (void)state;
    uint8_t prefix[TASK_RESPONSE_PREFIX_MAX];
    struct task_filter filter = {.wants_claim = true};
    struct task_response response;
    struct buf out = {0};
    const char *why;
    task_filter_encode(&filter, &out);
    assert_bytes_hex(buf_bytes(&out), "887d01");
    assert_int_equal(task_filter_decode(buf_bytes(&out), &filter, &why), 0);
    assert_true(filter.wants_claim);
    buf_free(&out);
    assert_int_equal(task_response_prefix(prefix, 3, UINT64_C(0x8000000000000102)), 12);
    assert_bytes_hex(bytes_of(prefix, 12), "897d 0201000000000080 0a03");
    struct hexed message = unhex("897d 0201000000000080 0a03 616263");
    assert_int_equal(task_response_decode(hexed_bytes(&message), &response, &why), 0);
    assert_true(response.has_task && response.claim == UINT64_C(0x8000000000000102));
    assert_bytes_str(response.activation, "abc");
    assert_int_equal(task_response_prefix(prefix, SIZE_MAX, 1), TASK_RESPONSE_PREFIX_MAX);
}

static int note_given_back(void *ctx, const struct give_back *entry)
{
    char text[32];
    snprintf(text, sizeof text, "%.*s=%llu", BYTES_FMT_ARG(entry->id),
             (unsigned long long)entry->claim);
    return note(ctx, bytes_str(text));
}

static void test_give_back(void **state)
{
    (void)state;
    struct give_back entry = {.id = bytes_str("a"), .claim = 258};
    struct seen seen = {.calls = 0};
    struct buf out = {0};
    const char *why;
    give_back_encode_one(&entry, &out);
    assert_bytes_hex(buf_bytes(&out), "0a0c 0a0161 110201000000000000");
    give_back_encode_one(&(struct give_back){.id = bytes_str("b")}, &out);
    assert_int_equal(give_back_decode(buf_bytes(&out), note_given_back, &seen, &why), 0);
    assert_string_equal(seen.text, "a=258,b=0,");
    seen = (struct seen){.stop_at = 1};
    assert_int_equal(give_back_decode(buf_bytes(&out), note_given_back, &seen, &why),
                     ERR_CANCELLED);
    assert_int_equal(seen.calls, 1);
    /* A bad entry after a good one: nobody sees either. */
    buf_append(&out, "\x0a\x03\x0a\x01\xff", 5);
    seen = (struct seen){.calls = 0};
    assert_int_equal(give_back_decode(buf_bytes(&out), note_given_back, &seen, &why),
                     ERR_MALFORMED);
    assert_int_equal(seen.calls, 0);
    buf_free(&out);
}

static void test_give_back_is_bounded(void **state)
{
    (void)state;
    struct buf out = {0};
    const char *why;
    for (int i = 0; i < GIVE_BACK_MAX; i++)
        give_back_encode_one(&(struct give_back){.claim = 1}, &out);
    assert_int_equal(give_back_decode(buf_bytes(&out), NULL, NULL, &why), 0);
    give_back_encode_one(&(struct give_back){.claim = 1}, &out);
    assert_int_equal(give_back_decode(buf_bytes(&out), NULL, NULL, &why), ERR_FULL);
    buf_free(&out);
}

static void test_give_back_response(void **state)
{
    (void)state;
    struct give_back_response response = {.returned = 300, .ignored = 1};
    struct buf out = {0};
    const char *why;
    give_back_response_encode(&response, &out);
    assert_bytes_hex(buf_bytes(&out), "08ac02 1001");
    assert_int_equal(give_back_response_decode(buf_bytes(&out), &response, &why), 0);
    assert_int_equal(response.returned, 300);
    assert_int_equal(response.ignored, 1);
    assert_int_equal(give_back_response_decode(bytes_of(NULL, 0), &response, &why), 0);
    assert_int_equal(response.returned + response.ignored, 0);
    buf_free(&out);
}

static void test_enqueue(void **state)
{
    (void)state;
    struct buf out = {0};
    struct enqueue_request head;
    struct seen seen = {.calls = 0};
    const char *why;
    enqueue_encode_activation(bytes_str("a1"), &out);
    enqueue_encode_topic(bytes_str("t"), &out);
    enqueue_encode_activation(bytes_str("a2"), &out);
    assert_bytes_hex(buf_bytes(&out), "0a026131 120174 0a026132");
    assert_int_equal(enqueue_decode(buf_bytes(&out), &head, note_bytes, &seen, &why), 0);
    assert_int_equal(head.activation_count, 2);
    assert_true(head.has_topic);
    assert_bytes_str(head.topic, "t");
    assert_string_equal(seen.text, "a1,a2,");
    seen = (struct seen){.stop_at = 2};
    assert_int_equal(enqueue_decode(buf_bytes(&out), NULL, note_bytes, &seen, &why), ERR_CANCELLED);
    assert_int_equal(enqueue_decode(buf_bytes(&out), &head, NULL, NULL, &why), 0);
    out.len--;
    seen = (struct seen){.calls = 0};
    assert_int_equal(enqueue_decode(buf_bytes(&out), &head, note_bytes, &seen, &why),
                     ERR_MALFORMED);
    assert_int_equal(seen.calls, 0);
    buf_free(&out);
}

static void test_enqueue_response(void **state)
{
    (void)state;
    struct buf out = {0};
    struct seen seen = {.calls = 0};
    const char *why;
    enqueue_response_add(bytes_str("id1"), &out);
    enqueue_response_add(bytes_of(NULL, 0), &out);
    assert_bytes_hex(buf_bytes(&out), "0a03696431 0a00");
    assert_int_equal(enqueue_response_decode(buf_bytes(&out), note_bytes, &seen, &why), 0);
    assert_string_equal(seen.text, "id1,,");
    buf_append(&out, "\x0a\x01\xff", 3);
    seen = (struct seen){.calls = 0};
    assert_int_equal(enqueue_response_decode(buf_bytes(&out), note_bytes, &seen, &why),
                     ERR_MALFORMED);
    assert_int_equal(seen.calls, 0);
    buf_free(&out);
}

static void test_health(void **state)
{
    (void)state;
    struct buf out = {0};
    struct bytes service;
    enum health_status status;
    const char *why;
    health_request_encode(bytes_str("svc"), &out);
    assert_bytes_hex(buf_bytes(&out), "0a03737663");
    assert_int_equal(health_request_decode(buf_bytes(&out), &service, &why), 0);
    assert_bytes_str(service, "svc");
    assert_int_equal(health_request_decode(bytes_of(NULL, 0), &service, &why), 0);
    assert_int_equal(service.len, 0);
    for (int s = HEALTH_UNKNOWN; s <= HEALTH_SERVICE_UNKNOWN; s++) {
        buf_clear(&out);
        health_response_encode((enum health_status)s, &out);
        assert_int_equal(out.len, s == HEALTH_UNKNOWN ? 0 : 2);
        assert_int_equal(health_response_decode(buf_bytes(&out), &status, &why), 0);
        assert_int_equal(status, s);
    }
    struct hexed message = unhex("0804");
    assert_int_equal(health_response_decode(hexed_bytes(&message), &status, &why), 0);
    assert_int_equal(status, HEALTH_UNKNOWN);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_vector),
        cmocka_unit_test(test_filter_present_but_empty),
        cmocka_unit_test(test_status_vector),
        cmocka_unit_test(test_status_full),
        cmocka_unit_test(test_status_fetch_next_merges),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_bad_batch_calls_nobody),
        cmocka_unit_test(test_task_response),
        cmocka_unit_test(test_claim_of_a_task),
        cmocka_unit_test(test_give_back),
        cmocka_unit_test(test_give_back_is_bounded),
        cmocka_unit_test(test_give_back_response),
        cmocka_unit_test(test_enqueue),
        cmocka_unit_test(test_enqueue_response),
        cmocka_unit_test(test_health),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
