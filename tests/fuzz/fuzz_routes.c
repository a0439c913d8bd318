/* SPDX-License-Identifier: Apache-2.0 */
/* The file of route overrides. */
#include <stdlib.h>

#include "client/routes_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct routes_file routes;
    struct err_text why = {{0}};

    if (routes_file_parse(&routes, "fuzz.yml", bytes_of(data, size), &why)) {
        if (!why.s[0] || routes.count)
            abort(); /* an error without a word, or with a result */
        return 0;
    }
    for (size_t i = 0; i < routes.count; i++)
        if (!routes.pairs[i].route[0] || strlen(routes.pairs[i].topic) > ROUTES_TOPIC_MAX)
            abort();
    routes_file_free(&routes);
    return 0;
}
