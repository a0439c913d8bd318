# SPDX-License-Identifier: Apache-2.0
"""The answers of Python's cronsim, for test_schedule_differential.py, which runs this with the Python that
has the original's client. A line each, `next FROM ZONE EXPRESSION`, as in schedule_oracle.c."""

import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

UTC = timezone.utc


def next_match(start, zone, expression):
    """The first one at or after `start`: cronsim's own begin after the time that they are given."""
    # A fixed zone object would be taken for one with clock changes: UTC must be the module's own.
    where = UTC if zone == "-" else ZoneInfo(zone)
    begin = datetime.fromtimestamp(start, UTC) - timedelta(seconds=1)
    try:
        for match in CronSim(expression, begin.astimezone(where)):
            # In a repeated hour cronsim starts from the wall's time in the first pass, which may be past.
            if match.timestamp() >= start:
                return str(int(match.timestamp()))
    except CronSimError as error:
        return f"error {error}"
    return "error never"


def main():
    for line in sys.stdin.buffer.read().decode().split("\n")[:-1]:
        _, start, zone, expression = line.split(" ", 3)
        print(next_match(int(start), zone, expression))


main()
