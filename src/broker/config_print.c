/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration as YAML that loads again, the table of all keys, and the command `taskmill
 * config`. */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "broker/config_keys.h"

#define REDACTED "'******'"

struct printer {
    const struct config *cfg;
    struct buf *out;
    bool origins;
    size_t base;       /* levels above the table's own */
    char section[128]; /* the table's section that is open, "store.sqlite" */
};

static void indent(struct printer *p, size_t level)
{
    for (size_t i = 0; i < level; i++)
        buf_append_str(p->out, "  ");
}

/* Text that reads as text without quotes: nothing YAML gives a meaning to, nothing that is a
 * number. */
static bool is_plain(const char *text)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off"};
    size_t len = strlen(text);

    if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ./", text[0]) || !len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-:=,+",
                    text[i]))
            return false;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasecmp(text, words[i]) == 0)
            return false;
    return text[len - 1] != ':' && !(text[0] == '.' && text[1] != '/');
}

/* One character of valid UTF-8: both readers let nothing else in. */
static uint32_t decode(const uint8_t *c, size_t *len)
{
    *len = c[0] < 0x80 ? 1 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
    uint32_t code = *len == 1 ? c[0] : c[0] & (0x7fu >> *len);
    for (size_t i = 1; i < *len; i++)
        code = code << 6 | (c[i] & 0x3f);
    return code;
}

/* Quoted where YAML would read something else; what YAML does not allow at all is escaped. */
static void print_text(struct buf *out, const char *text)
{
    if (!text) {
        buf_append_str(out, "null");
        return;
    }
    if (is_plain(text)) {
        buf_append_str(out, text);
        return;
    }
    buf_append_byte(out, '"');
    for (const uint8_t *c = (const uint8_t *)text; *c;) {
        size_t len;
        uint32_t code = decode(c, &len);
        if (code == '"' || code == '\\')
            buf_printf(out, "\\%c", (int)code);
        else if (code < ' ' || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 ||
                 code == 0xfeff || code == 0xfffe || code == 0xffff)
            buf_printf(out, "\\u%04" PRIx32, code);
        else
            buf_append(out, c, len);
        c += len;
    }
    buf_append_byte(out, '"');
}

static void print_origin(struct printer *p, const char *key)
{
    struct config_origin from = config_origin(p->cfg, key);
    size_t start = p->out->len;

    if (!p->origins)
        return;
    if (from.source == CONFIG_FROM_DEFAULT)
        buf_append_str(p->out, "  # default");
    else if (from.source == CONFIG_FROM_DERIVED)
        buf_append_str(p->out, "  # derived");
    else if (from.source == CONFIG_FROM_ENV)
        buf_printf(p->out, "  # environment %s", from.name);
    else
        buf_printf(p->out, "  # %s:%" PRIu32, from.name, from.line);
    /* A name with a line break in it must not end the comment. */
    for (; start < p->out->len; start++)
        if (p->out->ptr[start] < ' ')
            p->out->ptr[start] = ' ';
    if (from.deprecated)
        buf_printf(p->out, " (%s)", from.deprecated);
}

static void end_line(struct printer *p, const char *key)
{
    print_origin(p, key);
    buf_append_byte(p->out, '\n');
}

static void print_list(struct printer *p, const struct config_list *list, const char *label,
                       bool secret, size_t level)
{
    buf_append_str(p->out, list->count ? "" : " []");
    end_line(p, label);
    for (size_t i = 0; i < list->count; i++) {
        indent(p, level + 1);
        buf_append_str(p->out, "- ");
        print_text(p->out, secret ? NULL : list->items[i]);
        if (secret) {
            p->out->len -= 4; /* "null" */
            buf_append_str(p->out, REDACTED);
        }
        buf_append_byte(p->out, '\n');
    }
}

static void print_map(struct printer *p, const struct config_map *map, const char *label,
                      size_t level)
{
    buf_append_str(p->out, map->count ? "" : " {}");
    end_line(p, label);
    for (size_t i = 0; i < map->count; i++) {
        indent(p, level + 1);
        print_text(p->out, map->pairs[i].key);
        buf_append_str(p->out, ": ");
        print_text(p->out, map->pairs[i].value);
        buf_append_byte(p->out, '\n');
    }
}

static void print_choice(struct buf *out, const char *choices, unsigned index)
{
    for (; index; index--)
        choices += strcspn(choices, "|") + 1;
    buf_printf(out, "%.*s", (int)strcspn(choices, "|"), choices);
}

static void print_unsigned(struct buf *out, uint64_t value, const char *unit)
{
    if (value == CONFIG_NONE)
        buf_append_str(out, "null");
    else
        buf_printf(out, "%" PRIu64 "%s", value, unit);
}

static void print_real(struct buf *out, double value)
{
    char text[40];

    snprintf(text, sizeof(text), "%.17g", value);
    buf_append_str(out, text);
    if (!strpbrk(text, ".en"))
        buf_append_str(out, ".0");
}

static void print_scalar(struct buf *out, const struct config_key *key, const void *member)
{
    unsigned choice;

    switch (key->type) {
    case CONFIG_T_BOOL:
        buf_append_str(out, *(const bool *)member ? "true" : "false");
        break;
    case CONFIG_T_U32:
        buf_printf(out, "%" PRIu32, *(const uint32_t *)member);
        break;
    case CONFIG_T_I32:
        buf_printf(out, "%" PRId32, *(const int32_t *)member);
        break;
    case CONFIG_T_I64:
        buf_printf(out, "%" PRId64, *(const int64_t *)member);
        break;
    case CONFIG_T_F64:
        print_real(out, *(const double *)member);
        break;
    case CONFIG_T_ENUM:
        memcpy(&choice, member, sizeof(choice));
        print_choice(out, key->choices, choice);
        break;
    case CONFIG_T_DUR:
        print_unsigned(out, *(const uint64_t *)member, "ms");
        break;
    case CONFIG_T_STR:
        print_text(out, *(char *const *)member);
        break;
    default:
        print_unsigned(out, *(const uint64_t *)member, "");
    }
}

/* Opens the sections that lead to `path`, and returns its level. */
static size_t open_sections(struct printer *p, const char *path)
{
    const char *last = strrchr(path, '.');
    size_t len = last ? (size_t)(last - path) : 0, level = p->base, start = 0;

    while (start < len) {
        size_t end = start + strcspn(path + start, ".");
        bool open = strlen(p->section) >= end && memcmp(p->section, path, end) == 0 &&
                    (p->section[end] == 0 || p->section[end] == '.');
        if (!open) {
            indent(p, level);
            buf_printf(p->out, "%.*s:\n", (int)(end - start), path + start);
        }
        level++;
        start = end + 1;
    }
    snprintf(p->section, sizeof(p->section), "%.*s", (int)len, path);
    return level;
}

static void print_key(struct printer *p, const struct config_key *key, const void *base,
                      const char *label)
{
    const void *member = (const char *)base + key->offset;
    size_t level = open_sections(p, key->path);
    const char *dot = strrchr(key->path, '.');
    bool secret = key->flags & CONFIG_F_SECRET;

    indent(p, level);
    buf_printf(p->out, "%s:", dot ? dot + 1 : key->path);
    if (key->type == CONFIG_T_LIST) {
        print_list(p, member, label, secret, level);
        return;
    }
    if (key->type == CONFIG_T_MAP) {
        print_map(p, member, label, level);
        return;
    }
    buf_append_byte(p->out, ' ');
    if (secret && key->type == CONFIG_T_STR && *(char *const *)member)
        buf_append_str(p->out, REDACTED);
    else
        print_scalar(p->out, key, member);
    end_line(p, label);
}

static void print_element(struct printer *p, const char *map, const struct config_table *table,
                          const void *element, bool raw)
{
    const char *name = *(char *const *)element;
    struct buf label = {0};

    p->base = 2;
    p->section[0] = 0;
    indent(p, 1);
    print_text(p->out, name);
    buf_append_str(p->out, ":\n");
    for (size_t i = 0; i < table->count; i++) {
        if (!raw && strncmp(table->keys[i].path, "raw.", 4) == 0)
            continue;
        buf_clear(&label);
        buf_printf(&label, "%s.%s.%s", map, name, table->keys[i].path);
        print_key(p, &table->keys[i], element, buf_cstr(&label));
    }
    buf_free(&label);
}

static void print_document(struct printer *p)
{
    const struct config *cfg = p->cfg;

    for (size_t i = 0; i < config_main_keys.count; i++)
        print_key(p, &config_main_keys.keys[i], cfg, config_main_keys.keys[i].path);
    buf_append_str(p->out, cfg->embedded ? "kafka_clusters: {}\n" : "kafka_clusters:\n");
    for (size_t i = 0; !cfg->embedded && i < cfg->cluster_count; i++)
        print_element(p, "kafka_clusters", &config_cluster_keys, &cfg->clusters[i], true);
    buf_append_str(p->out, "kafka_topics:\n");
    for (size_t i = 0; i < cfg->topic_count; i++)
        print_element(p, "kafka_topics", &config_topic_keys, &cfg->topics[i],
                      cfg->topics[i].raw.set);
}

void config_print(const struct config *cfg, struct buf *out)
{
    struct printer p = {.cfg = cfg, .out = out};
    print_document(&p);
}

void config_print_origins(const struct config *cfg, struct buf *out)
{
    struct printer p = {.cfg = cfg, .out = out, .origins = true};
    print_document(&p);
}

/* --- the table of keys ------------------------------------------------------------------------ */

static void print_type(struct buf *out, const struct config_key *key)
{
    static const char *const names[] = {
        [CONFIG_T_BOOL] = "bool",       [CONFIG_T_U32] = "u32",
        [CONFIG_T_I32] = "i32",         [CONFIG_T_I64] = "i32",
        [CONFIG_T_U64] = "u64",         [CONFIG_T_MS] = "u64 ms",
        [CONFIG_T_SEC] = "u64 s",       [CONFIG_T_DUR] = "duration",
        [CONFIG_T_F64] = "float",       [CONFIG_T_STR] = "text",
        [CONFIG_T_ENUM] = NULL,         [CONFIG_T_LIST] = "list of text",
        [CONFIG_T_MAP] = "map of text",
    };

    if (key->flags & CONFIG_F_OPTIONAL)
        buf_append_str(out, "optional ");
    if (key->type == CONFIG_T_SEC && key->max == 65535)
        buf_append_str(out, "u16 s");
    else if (key->type == CONFIG_T_U32 && key->max == 65535)
        buf_append_str(out, "u16");
    else if (key->type != CONFIG_T_ENUM)
        buf_append_str(out, names[key->type]);
    else
        for (const char *c = key->choices; *c; c++)
            buf_append_str(out, *c == '|' ? " or " : (char[]){*c, 0});
    if (key->min > 0 && key->type != CONFIG_T_DUR)
        buf_printf(out, ", from %" PRId64, key->min);
    if (key->max && key->max != 65535 && key->max < INT32_MAX)
        buf_printf(out, " to %" PRIu64, key->max);
}

static void print_variable(struct buf *out, const char *path)
{
    buf_append_str(out, "TASKBROKER_");
    for (; *path; path++) {
        if (*path == '.')
            buf_append_str(out, "__");
        else
            buf_append_byte(out, (uint8_t)(*path >= 'a' && *path <= 'z' ? *path - 32 : *path));
    }
}

static void print_row(struct buf *out, const char *prefix, const struct config_key *key)
{
    struct buf path = {0};

    buf_printf(&path, "%s%s", prefix, key->path);
    buf_printf(out, "| `%s` | ", buf_cstr(&path));
    print_type(out, key);
    if (key->def)
        buf_printf(out, " | `%s` | `", key->def);
    else
        buf_printf(out, " | %s | `", key->flags & CONFIG_F_REQUIRED ? "required" : "null");
    print_variable(out, buf_cstr(&path));
    buf_printf(out, "` | %s%s |\n", key->flags & CONFIG_F_NO_EFFECT ? "No effect: " : "",
               key->help);
    buf_free(&path);
}

void config_print_keys(struct buf *out)
{
    buf_append_str(out, "| Key | Type | Default | Environment | What it does here |\n"
                        "|---|---|---|---|---|\n");
    for (size_t i = 0; i < config_main_keys.count; i++)
        print_row(out, "", &config_main_keys.keys[i]);
    for (size_t i = 0; i < config_cluster_keys.count; i++)
        print_row(out, "kafka_clusters.<name>.", &config_cluster_keys.keys[i]);
    for (size_t i = 0; i < config_topic_keys.count; i++)
        print_row(out, "kafka_topics.<name>.", &config_topic_keys.keys[i]);
    buf_append_str(out, "\n| Deprecated key | Stands for |\n|---|---|\n");
    for (size_t i = 0; i < config_alias_count; i++)
        buf_printf(out, "| `%s` | `%s`%s |\n", config_aliases[i].name, config_aliases[i].path,
                   config_aliases[i].type == CONFIG_T_MS ? ", an integer of milliseconds" : "");
    for (size_t i = 0; i < config_legacy_keys.count; i++)
        buf_printf(out, "| `%s` | %s |\n", config_legacy_keys.keys[i].path,
                   config_legacy_keys.keys[i].help);
}
