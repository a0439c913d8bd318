# SPDX-License-Identifier: Apache-2.0
"""Crontabs against Python's cronsim, time zones against Python's zoneinfo."""

import os
import random
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest

from harness import cache
from harness.cache import ROOT

COUNT = 100_000
ZONE_COUNT = 10_000
HERE = Path(__file__).parent
UTC = timezone.utc
DAY = 86400

LIMITS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
WEEKDAYS = "SUN MON TUE WED THU FRI SAT".split()
MINUTE, HOUR, DATE, MONTH, WEEKDAY = range(5)
# What the grammar does not have, or only elsewhere.
BROKEN = ["", "?", "W", "15W", "L-3", "@daily", "+1", "-1", "1-", "-", "*/", "/2", "*/0", "*/-1", "1/", "1-2-3",
          "1//2", "1/2/3", "1,,2", ",1", "1,", "a", "MO", "MONDAY", "FRIL", "L5", "5LL", "LL", "8L", "1#0", "1#6",
          "#1", "1#", "*#1", "1#2#3", "1#2/2", "1L/2", "1-L", "L-1", "LW-1", "*-5", "**", "* ", "0x1", "1.5", "60",
          "24", "32", "13", "8", "SAT-SUN", "DEC-JAN", "5-1", "1-60", "L,W", "L#1", "1-5L", "1/2#3"]
# Clock changes at night and at midnight, by an hour, half an hour and a day, south and north, and none.
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "America/Havana",
         "Africa/Cairo", "Asia/Beirut", "Pacific/Apia", "Asia/Kolkata", "Africa/Casablanca", "America/Santiago",
         "Asia/Kathmandu", "Pacific/Chatham", "Antarctica/Troll", "Europe/London", "Asia/Tehran"]
# Of those, the ones in which cronsim can be asked about words that begin with an asterisk. In the others it returns
# midnights that clocks jump over (or never returns), or its minutes are out of step after changes of half an hour.
PLAIN_ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Casablanca",
               "Antarctica/Troll", "Europe/London"]


def ask(program, lines):
    answer = subprocess.run(program, input="".join(line + "\n" for line in lines).encode(),
                            stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    assert answer.pop() == "" and len(answer) == len(lines)
    return answer


def ours(lines):
    return ask([ROOT / os.environ.get("TASKMILL_BUILD", "build") / "tests/integration/wire/schedule_oracle"], lines)


def cronsim(lines):
    return ask([cache.venv("client-26.5.0"), "-B", HERE / "cronsim_peer.py"], lines)


def value(rng, field):
    low, high = LIMITS[field]
    number = rng.choice([low, high, rng.randint(low, high), rng.randint(low, high)])
    if field in (MONTH, WEEKDAY) and rng.random() < 0.3:
        name = MONTHS[number - 1] if field == MONTH else WEEKDAYS[number % 7]
        return rng.choice([name, name.lower(), name.capitalize()])
    return rng.choice([f"{number}", f"{number}", f"{number:02}", f"{number:05}"])


def item(rng, field):
    roll = rng.random()
    if field == DATE and roll < 0.1:
        return rng.choice(["L", "LW", "l", "lW", "L/2", "LW/5"])
    if field == WEEKDAY and roll < 0.2:
        return rng.choice([f"{rng.randint(0, 7)}L", f"{value(rng, field)}#{rng.randint(1, 5)}"])
    if roll < 0.3:
        return "*"
    if roll < 0.6:
        return value(rng, field)
    low, high = sorted(rng.randint(*LIMITS[field]) for _ in range(2))
    term = rng.choice(["*", f"{low}-{high}", value(rng, field), f"{value(rng, field)}-{value(rng, field)}"])
    if roll < 0.7:
        return term
    return f"{term}/{rng.choice([1, 2, 3, 5, 7, 15, 20, 29, 30, 59, 60, 100, '03', 10**12])}"


def word(rng, field):
    roll = rng.random()
    if roll < 0.25:
        return "*"
    if roll < 0.27:
        return rng.choice(BROKEN)
    return ",".join(item(rng, field) for _ in range(rng.choice([1, 1, 1, 1, 2, 3, 8])))


def expression(rng):
    words = [word(rng, field) for field in range(5)]
    if rng.random() < 0.01:
        words = words[:rng.randrange(5)]
    text = words[0] if words else ""
    for more in words[1:]:
        text += rng.choice([" "] * 9 + ["  ", "\t", " \t "]) + more
    return rng.choice([text] * 9 + [text + " ", " " + text])


def start(rng):
    """Any second of the years 1970 to 2199, and often one at the edge of a month."""
    at = rng.randrange(0, 7258118400)
    if rng.random() < 0.5:
        return at
    edge = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0)
    if rng.random() < 0.3:
        edge = edge.replace(year=rng.choice([1972, 2000, 2096, 2099, 2100, 2104]), month=3)
    return max(0, int(edge.timestamp()) + rng.choice([-DAY, -60, -1, 0, 1, 59, 60, DAY]))


def compare(lines, reference, same):
    """`same`: how much agreement is worth asserting, as a share of matches and of errors."""
    errors = 0
    for line, mine, theirs in zip(lines, ours(lines), reference):
        refused = theirs.startswith("error")
        assert mine.startswith("error") if refused else mine == theirs, (line, mine, theirs)
        errors += refused
    assert same * len(lines) < errors < (1 - same) * len(lines)


def test_expressions_match_when_those_of_cronsim_do():
    rng = random.Random(4)
    lines = [f"next {start(rng)} - {expression(rng)}" for _ in range(COUNT)]
    compare(lines, cronsim(lines), 0.05)


def test_broken_words():
    lines = ["next 0 - " + " ".join(text if at == field else "*" for at in range(5))
             for field in range(5) for text in BROKEN]
    for line, mine, theirs in zip(lines, ours(lines), cronsim(lines)):
        assert mine.startswith("error") == theirs.startswith("error"), (line, mine, theirs)


def test_six_words_and_other_letters_are_errors_here_alone():
    lines = ["next 0 - 0 30 * * * *", "next 0 - * * * * \u017fun", "next 0 - * * * *\u00a0*"]
    assert [answer.split(" ")[0] for answer in ours(lines)] == ["error"] * 3
    assert not any(answer.startswith("error") for answer in cronsim(lines))


def test_last_is_the_greatest_of_next():
    rng = random.Random(5)
    asked = [(start(rng), rng.choice([59, 3600, 3 * DAY, 400 * DAY]), expression(rng)) for _ in range(3000)]
    first = ours([f"next {at} - {text}" for at, _, text in asked])
    asked = [one for one, found in zip(asked, first) if not found.startswith("error")]
    assert len(asked) > 1000
    last = ours([f"last {at} {at + size} - {text}" for at, size, text in asked])
    probes = [at if found == "error never" else int(found) for (at, _, _), found in zip(asked, last)]
    at_last = ours([f"next {probe} - {text}" for probe, (_, _, text) in zip(probes, asked)])
    after = ours([f"next {probe + 1} - {text}" for probe, (_, _, text) in zip(probes, asked)])
    for (at, size, text), found, again, beyond in zip(asked, last, at_last, after):
        if found == "error never":
            assert int(again) > at + size, (at, size, text)
        else:
            assert at <= int(found) <= at + size < int(beyond) and again == found, (at, size, text)


# --- time zones


def changes(zone):
    """Moments near which the offset of a zone changes, 1973 to 2090."""
    info = ZoneInfo(zone)
    found = []
    before = None
    for at in range(94694400, 3786912000, 7 * DAY):
        offset = datetime.fromtimestamp(at, info).utcoffset()
        if before is not None and offset != before:
            low, high = at - 7 * DAY, at
            while high - low > 1:
                middle = (low + high) // 2
                same = datetime.fromtimestamp(middle, info).utcoffset() == before
                low, high = (middle, high) if same else (low, middle)
            found.append(high)
        before = offset
    return found or [10**9]


@pytest.fixture(scope="module")
def zone_changes():
    return {zone: changes(zone) for zone in ZONES}


def near_hours(rng):
    """Words for minutes and hours that fall near clock changes."""
    minute = rng.choice(["0", "30", "15,45", "*/15", "*", "59", "0-59/20", "5/30", "*/7"])
    hour = rng.choice(["0", "1", "2", "3", "1,2", "0-4", "1-23/2", "*/2", "*", "23", "2-3", "0,23"])
    return minute, hour


def near_expression(rng):
    minute, hour = near_hours(rng)
    rest = rng.choice(["* * *"] * 6 + ["* * 0", "L * *", "* * 7L", "1 * *", "* 3,10,11 *", "*/2 * *"])
    return f"{minute} {hour} {rest}"


def is_fixed(text):
    minute, hour = text.split()[:2]
    return not minute.startswith("*") and not hour.startswith("*")


def zone_lines(rng, zone_changes, wanted):
    lines = []
    while len(lines) < ZONE_COUNT:
        zone = rng.choice(ZONES)
        text = near_expression(rng)
        at = rng.choice(zone_changes[zone]) + rng.choice([0, rng.randint(-2 * DAY, DAY), rng.randint(-4 * 3600, 4 * 3600)])
        if wanted(zone, text):
            lines.append(f"next {at} {zone} {text}")
    return lines


def test_fixed_times_fire_once_as_in_cronsim(zone_changes):
    rng = random.Random(6)
    lines = zone_lines(rng, zone_changes, lambda zone, text: is_fixed(text))
    for line, mine, theirs in zip(lines, ours(lines), cronsim(lines)):
        assert mine == theirs, line


def test_others_go_by_the_clock_as_in_cronsim(zone_changes):
    rng = random.Random(7)
    lines = zone_lines(rng, zone_changes, lambda zone, text: not is_fixed(text) and zone in PLAIN_ZONES)
    for line, mine, theirs in zip(lines, ours(lines), cronsim(lines)):
        assert mine == theirs, line


def test_others_go_by_the_clock_as_defined(zone_changes):
    """Every minute's local time is held against the words: no shortcut that could be wrong in the same way."""
    rng = random.Random(8)
    lines, expected = [], []
    while len(lines) < 2000:
        zone = rng.choice(ZONES)
        info = ZoneInfo(zone)
        minute, hour = near_hours(rng)
        if is_fixed(f"{minute} {hour}"):
            continue
        minutes, hours = expand(minute, 59), expand(hour, 23)
        at = (rng.choice(zone_changes[zone]) + rng.randint(-4 * 3600, 4 * 3600)) // 60 * 60
        lines.append(f"next {at} {zone} {minute} {hour} * * *")
        expected.append(next(moment for moment in range(at, at + 3 * DAY, 60)
                             if (local := datetime.fromtimestamp(moment, info)).minute in minutes
                             and local.hour in hours))
    for line, mine, theirs in zip(lines, ours(lines), expected):
        assert int(mine) == theirs, line


def expand(text, top):
    """The simple words of near_hours."""
    values = set()
    for part in text.split(","):
        term, _, step = part.partition("/")
        low, _, high = term.partition("-")
        first = 0 if low == "*" else int(low)
        last = top if low == "*" or (step and not high) else int(high or low)
        values |= set(range(first, last + 1, int(step or 1)))
    return values


def test_offsets_of_all_zones():
    """At random times, and at those at which some zone's rules change, with a second before and after."""
    rng = random.Random(9)
    names = sorted(name for name in available_timezones() if not name.startswith(("posix", "right")))
    assert len(names) > 400
    lines, expected = [], []
    for name in names:
        info = ZoneInfo(name)
        times = [rng.randrange(-2 * 10**9, 2**33) for _ in range(60)]
        times += [rng.randrange(2000, 2400) * 31556952 - 62135596800 + rng.randrange(31556952) for _ in range(20)]
        for year in (1974, 2000, 2023, 2026, 2037, 2038, 2100):  # hour by hour would take long; days do not
            offsets = [(at, datetime.fromtimestamp(at, info).utcoffset())
                       for at in range(int(datetime(year, 1, 1, tzinfo=UTC).timestamp()), 366 * DAY +
                                       int(datetime(year, 1, 1, tzinfo=UTC).timestamp()), 5 * DAY)]
            for (low, before), (high, after) in zip(offsets, offsets[1:]):
                if before == after:
                    continue
                while high - low > 1:
                    middle = (low + high) // 2
                    same = datetime.fromtimestamp(middle, info).utcoffset() == before
                    low, high = (middle, high) if same else (low, middle)
                times += [low, high]
        for at in times:
            lines.append(f"offset {at} {name}")
            expected.append(int(datetime.fromtimestamp(at, info).utcoffset() / timedelta(seconds=1)))
    for line, mine, theirs in zip(lines, ours(lines), expected):
        assert int(mine) == theirs, line
