/* SPDX-License-Identifier: Apache-2.0 */
/* What all storages share: the texts, and the rules of a step. */
#include "scheduler/run_storage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "scheduler/civil.h"

void run_key_make(struct run_key *out, const struct schedule_names *names)
{
    struct buf text = {0};

    for (int form = 0; form < SCHEDULE_KEY_COUNT; form++) {
        buf_clear(&text);
        schedule_storage_key(names, (enum schedule_key)form, &text);
        out->forms[form] = mem_strdup(buf_cstr(&text));
    }
    buf_free(&text);
}

void run_key_free(struct run_key *key)
{
    for (int form = 0; form < SCHEDULE_KEY_COUNT; form++)
        mem_free(key->forms[form]);
    *key = (struct run_key){{0}};
}

/* --- steps ----------------------------------------------------------------------------------- */

static bool same_state(const struct run_state *a, const struct run_state *b)
{
    return a->known == b->known && a->open == b->open && a->first_s == b->first_s &&
           a->last_s == b->last_s && strcmp(a->owner, b->owner) == 0;
}

bool run_step_allowed(enum run_step step, const struct run_record *believed,
                      const struct run_record *stored)
{
    if (!same_state(&believed->state, &stored->state))
        return false;
    if (step == RUN_TAKE)
        return stored->lease_ms == 0;
    for (size_t i = 0; step == RUN_CLAIM && i < RUN_VALUES; i++)
        if (stored->values[i][0] != '\0' && strcmp(stored->values[i], believed->values[i]) != 0)
            return false;
    return true;
}

/* --- the original's value -------------------------------------------------------------------- */

void run_value_print(char out[RUN_VALUE_SIZE], int64_t time_s)
{
    int64_t days = civil_floor_div(time_s, CIVIL_DAY_S), rest = time_s - days * CIVIL_DAY_S;
    struct civil date = civil_of_days(days);

    (void)snprintf(out, RUN_VALUE_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d+00:00", (int)date.year,
                   (int)date.month, (int)date.day, (int)(rest / 3600), (int)(rest / 60 % 60),
                   (int)(rest % 60));
}

/* Takes exactly `digits` digits off *text. */
static bool take_number(const char **text, int digits, int64_t max, int64_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        *out = *out * 10 + (**text - '0');
    }
    return *out <= max;
}

static bool take_mark(const char **text, const char *marks)
{
    if (**text == '\0' || strchr(marks, **text) == NULL)
        return false;
    (*text)++;
    return true;
}

static bool take_fraction(const char **text)
{
    const char *start = *text;

    while (**text >= '0' && **text <= '9')
        (*text)++;
    return *text > start;
}

/* Z, +HH:MM, +HHMM, +HH or nothing, up to the end. */
static bool take_offset(const char *text, int64_t *offset_s)
{
    int64_t hours, minutes = 0;
    bool minus = *text == '-';

    *offset_s = 0;
    if (*text == '\0' || ((*text == 'Z' || *text == 'z') && text[1] == '\0'))
        return true;
    if (!take_mark(&text, "+-") || !take_number(&text, 2, 23, &hours))
        return false;
    if (*text != '\0') {
        (void)take_mark(&text, ":");
        if (!take_number(&text, 2, 59, &minutes))
            return false;
    }
    *offset_s = (hours * 60 + minutes) * (minus ? -60 : 60);
    return *text == '\0';
}

int run_value_parse(const char *text, int64_t *time_s)
{
    int64_t year, month, day, hour, minute, second, offset_s;

    if (!take_number(&text, 4, CIVIL_YEAR_MAX, &year) || !take_mark(&text, "-") ||
        !take_number(&text, 2, 12, &month) || !take_mark(&text, "-") ||
        !take_number(&text, 2, 31, &day) || !take_mark(&text, "Tt ") ||
        !take_number(&text, 2, 23, &hour) || !take_mark(&text, ":") ||
        !take_number(&text, 2, 59, &minute) || !take_mark(&text, ":") ||
        !take_number(&text, 2, 59, &second))
        return ERR_MALFORMED;
    if (take_mark(&text, ".,") && !take_fraction(&text))
        return ERR_MALFORMED;
    if (year < 1 || month < 1 || day < 1 || day > civil_month_days((int32_t)year, (int32_t)month) ||
        !take_offset(text, &offset_s))
        return ERR_MALFORMED;
    *time_s = civil_to_days((int32_t)year, (int32_t)month, (int32_t)day) * CIVIL_DAY_S +
              hour * 3600 + minute * 60 + second - offset_s;
    return 0;
}

/* --- the state as text ----------------------------------------------------------------------- */

void run_state_print(char out[RUN_STATE_SIZE], const struct run_state *state)
{
    if (!state->known)
        out[0] = '\0';
    else
        (void)snprintf(out, RUN_STATE_SIZE, "1 %" PRId64 " %" PRId64 " %s %s", state->first_s,
                       state->last_s, state->open ? "open" : "done",
                       state->owner[0] != '\0' ? state->owner : "-");
}

void run_state_parse(struct run_state *out, const char *text)
{
    char word[8], owner[RUN_OWNER_SIZE], again[RUN_STATE_SIZE];
    struct run_state state = {.known = true};

    *out = (struct run_state){0};
    /* NOLINTNEXTLINE(cert-err34-c): a number out of range does not survive the comparison below */
    if (sscanf(text, "1 %" SCNd64 " %" SCNd64 " %7s %32s", &state.first_s, &state.last_s, word,
               owner) != 4)
        return;
    state.open = strcmp(word, "open") == 0;
    if (strcmp(owner, "-") != 0)
        memcpy(state.owner, owner, sizeof owner);
    run_state_print(again, &state);
    if (strcmp(again, text) == 0)
        *out = state;
}
