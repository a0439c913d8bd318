/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill config`: what a configuration is worth before a broker is started with it. */
#include <string.h>

#include "broker/config.h"

static const char usage[] =
    "usage: taskmill config check [FILE]   load it as the broker would, show warnings\n"
    "       taskmill config print [FILE]   the whole effective configuration and where each value "
    "is\n"
    "                                      from; secrets are not shown\n"
    "       taskmill config keys           every key, its type, default and variable\n"
    "Without FILE: defaults and the environment (TASKBROKER_...) only.\n";

static int load_and_show(const char *path, bool print, char *const *environ_, struct buf *out,
                         struct buf *err)
{
    struct config_warnings warnings = {0};
    struct err_text why = {{0}};
    struct config *cfg = NULL;
    int rv = config_load(&cfg, path, environ_, &warnings, &why);

    for (size_t i = 0; i < warnings.count; i++)
        buf_printf(err, "warning: %s\n", warnings.lines[i]);
    config_warnings_free(&warnings);
    if (rv) {
        buf_printf(err, "Error: %s\n", why.s);
        return 1;
    }
    if (print)
        config_print_origins(cfg, out);
    else
        buf_printf(out, "%s: ok\n", path ? path : "defaults and environment");
    config_free(cfg);
    return 0;
}

int config_command(int argc, char *const *argv, char *const *environ_, struct buf *out,
                   struct buf *err)
{
    const char *verb = argc > 0 ? argv[0] : "";

    if (argc == 1 && (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0)) {
        buf_append_str(out, usage);
        return 0;
    }
    if (argc == 1 && strcmp(verb, "keys") == 0) {
        config_print_keys(out);
        return 0;
    }
    bool print = strcmp(verb, "print") == 0;
    if ((argc == 1 || argc == 2) && (print || strcmp(verb, "check") == 0))
        return load_and_show(argc == 2 ? argv[1] : NULL, print, environ_, out, err);
    buf_append_str(err, usage);
    return 2;
}
