/* SPDX-License-Identifier: Apache-2.0 */
/* One producer for each address, up to the limit, until the stop. Nothing listens anywhere. */
#include "config_fixture.h"

#include "base/clock.h"
#include "base/log.h"
#include "broker/forward_sinks.h"

struct place {
    struct loaded loaded;
    struct inbox inbox;
    struct forward_sinks *sinks;
};

static void open_place(struct place *place, const char *config)
{
    log_init(LOG_TEXT, "off", NULL);
    place->loaded = load_ok(config, NO_ENV);
    assert_int_equal(inbox_init(&place->inbox), 0);
    place->sinks = forward_sinks_new(place->loaded.cfg, &place->inbox);
}

static void close_place(struct place *place)
{
    forward_sinks_stop(place->sinks, clock_boot_ms());
    assert_null(forward_sinks_get(place->sinks, "127.0.0.1:1")); /* stopped */
    forward_sinks_free(place->sinks);
    inbox_destroy(&place->inbox);
    unload(&place->loaded);
}

static void one_for_each_address(void **state)
{
    (void)state;
    struct place place;
    char address[32];
    open_place(&place, KAFKA);
    struct topic_sink *first = forward_sinks_get(place.sinks, "127.0.0.1:1");
    assert_non_null(first);
    for (int i = 2; i <= FORWARD_SINKS_MAX; i++) {
        snprintf(address, sizeof address, "127.0.0.1:%d", i);
        struct topic_sink *sink = forward_sinks_get(place.sinks, address);
        assert_true(sink && sink != first);
        assert_ptr_equal(forward_sinks_get(place.sinks, address), sink);
    }
    assert_null(forward_sinks_get(place.sinks, "127.0.0.1:99"));
    assert_ptr_equal(forward_sinks_get(place.sinks, "127.0.0.1:1"), first);
    close_place(&place);
}

static void none_without_kafka(void **state)
{
    (void)state;
    struct place place;
    open_place(&place, "embedded: true\n");
    assert_null(forward_sinks_get(place.sinks, "127.0.0.1:1"));
    close_place(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_for_each_address),
        cmocka_unit_test(none_without_kafka),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
