/* SPDX-License-Identifier: Apache-2.0 */
#include "base/health_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

struct fixture {
    char folder[32], path[64];
    struct health_file file;
    struct err_text why;
};

static int set_up(void **state)
{
    static struct fixture f;

    f = (struct fixture){.folder = "/tmp/test-health-XXXXXX"};
    assert_non_null(mkdtemp(f.folder));
    snprintf(f.path, sizeof f.path, "%s/health", f.folder);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    (void)unlink(f->path);
    (void)rmdir(f->folder);
    return 0;
}

static bool exists(const struct fixture *f)
{
    return access(f->path, F_OK) == 0;
}

static void it_comes_back(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(health_file_open(&f->file, f->path, 1000, "test", 5000, &f->why), 0);
    assert_true(exists(f));
    assert_int_equal(unlink(f->path), 0);
    assert_false(health_file_tick(&f->file, 5999));
    assert_false(exists(f));
    assert_true(health_file_tick(&f->file, 6000));
    assert_true(exists(f));
    assert_int_equal(f->file.next_ms, 7000);
}

static void its_age_is_renewed(void **state)
{
    struct fixture *f = *state;
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    struct stat now;

    assert_int_equal(health_file_open(&f->file, f->path, 1000, "test", 0, &f->why), 0);
    assert_int_equal(utimensat(AT_FDCWD, f->path, old, 0), 0);
    assert_true(health_file_tick(&f->file, 1000));
    assert_int_equal(stat(f->path, &now), 0);
    assert_true(now.st_mtime > 1000);
}

static void trouble_is_told(void **state)
{
    struct fixture *f = *state;
    char lost[80];

    snprintf(lost, sizeof lost, "%s/not/there", f->folder);
    assert_int_equal(health_file_open(&f->file, lost, 1000, "test", 0, &f->why), ERR_INVALID);
    assert_non_null(strstr(f->why.s, lost));
    assert_false(health_file_tick(&f->file, 1000));
    assert_int_equal(f->file.told_ms, 1000);
    assert_false(health_file_tick(&f->file, 60999));
    assert_int_equal(f->file.told_ms, 1000);
    assert_false(health_file_tick(&f->file, 61999));
    assert_int_equal(f->file.told_ms, 61999);
}

static void none_is_wanted(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(health_file_open(&f->file, NULL, 1000, "test", 0, &f->why), 0);
    assert_int_equal(f->file.next_ms, CLOCK_NEVER);
    assert_false(health_file_tick(&f->file, INT64_MAX - 1));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(it_comes_back), TEST(its_age_is_renewed),
                                       TEST(trouble_is_told), TEST(none_is_wanted)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
