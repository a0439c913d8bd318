/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill config check|print|keys`: what broker/config_command.c says, on the right streams. */
#include <stdio.h>
#include <unistd.h>

#include "broker/config.h"
#include "cli/cli.h"

int cmd_config(int argc, char **argv)
{
    struct buf out = {0}, err = {0};
    int code = config_command(argc - 1, argv + 1, environ, &out, &err);
    if (fwrite(out.ptr, 1, out.len, stdout) != out.len ||
        fwrite(err.ptr, 1, err.len, stderr) != err.len) {
        perror("taskmill config");
        code = CLI_FAILED;
    }
    buf_free(&out);
    buf_free(&err);
    return code;
}
