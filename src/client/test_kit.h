/* SPDX-License-Identifier: Apache-2.0 */
/* What replaces sending in tests: eager mode runs a task at once, capturing keeps it. */
#ifndef TASKMILL_CLIENT_TEST_KIT_H
#define TASKMILL_CLIENT_TEST_KIT_H

#include "client/dispatch.h"

/* An eager handler that sends itself again, and so on, stops here. */
#define TEST_KIT_EAGER_DEPTH_MAX 100

/* Is sending replaced in this app? Then test_kit_send takes the task. */
bool test_kit_takes(const struct taskmill_app *app);
/* `application` is that of an external namespace, or NULL. The item stays the caller's. */
int test_kit_send(struct taskmill_app *app, const char *ns, const char *task,
                  const char *application, const struct dispatch_item *item);

struct capture;
void test_kit_free(struct capture *capture);

#endif
