/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cli_args cli_args_init(const char *command, int argc, char **argv)
{
    return (struct cli_args){.command = command, .argc = argc, .argv = argv, .next = 1};
}

int cli_error(const struct cli_args *args, int code, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, code, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s: %s\n", args->command, text.s);
    return code;
}

static int bad(const struct cli_args *args, const char *word, const char *what)
{
    cli_error(args, CLI_USAGE, "%s %s; %s --help tells more", word, what, args->command);
    return CLI_BAD;
}

static const struct cli_option *find_long(const struct cli_option *options, const char *name,
                                          size_t len)
{
    for (; options->id != 0; options++)
        if (strlen(options->name) == len && memcmp(options->name, name, len) == 0)
            return options;
    return NULL;
}

static const struct cli_option *find_letter(const struct cli_option *options, char letter)
{
    for (; options->id != 0; options++)
        if (options->letter == letter)
            return options;
    return NULL;
}

static int take_value(struct cli_args *args, const struct cli_option *option, const char *word,
                      const char *attached)
{
    if (!option->has_value)
        return attached ? bad(args, word, "takes no value") : option->id;
    if (attached == NULL && args->next < args->argc)
        attached = args->argv[args->next++];
    if (attached == NULL)
        return bad(args, word, "needs a value");
    args->value = attached;
    return option->id;
}

static int next_long(struct cli_args *args, const struct cli_option *options, const char *word)
{
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct cli_option *option = find_long(options, name, len);

    if (option != NULL)
        return take_value(args, option, word, equals ? equals + 1 : NULL);
    if (strcmp(name, "help") == 0)
        return CLI_HELP;
    return bad(args, word, "is no option");
}

static int next_short(struct cli_args *args, const struct cli_option *options, const char *word)
{
    const struct cli_option *option = find_letter(options, word[1]);

    if (option != NULL)
        return take_value(args, option, word, word[2] != '\0' ? word + 2 : NULL);
    if (strcmp(word, "-h") == 0)
        return CLI_HELP;
    return bad(args, word, "is no option");
}

int cli_next(struct cli_args *args, const struct cli_option *options)
{
    const char *word;

    args->value = NULL;
    if (args->next >= args->argc)
        return CLI_END;
    word = args->word = args->argv[args->next++];
    if (!args->only_positional && strcmp(word, "--") == 0) {
        args->only_positional = true;
        return cli_next(args, options);
    }
    if (!args->only_positional && word[0] == '-' && word[1] == '-')
        return next_long(args, options, word);
    if (!args->only_positional && word[0] == '-' && isalpha((unsigned char)word[1]))
        return next_short(args, options, word);
    args->value = word;
    return CLI_POSITIONAL;
}

bool cli_number(const struct cli_args *args, const char *option, uint64_t min, uint64_t max,
                uint64_t *out)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(args->value, &end, 10);
    if (!isdigit((unsigned char)args->value[0]) || *end != '\0' || errno != 0 || value < min ||
        value > max) {
        cli_error(args, CLI_USAGE, "%s '%s': needs a whole number from %llu to %llu", option,
                  args->value, (unsigned long long)min, (unsigned long long)max);
        return false;
    }
    *out = value;
    return true;
}
