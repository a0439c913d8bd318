#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/configuration.md anew from `build/taskmill config keys`.

To be run after a change of src/broker/config_keys.c; a unit test compares the two.

example: ./dev build && scripts/config_docs.py
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADING = "## Keys\n\n"


def main():
    if len(sys.argv) > 1:
        print(__doc__.strip(), file=sys.stdout if sys.argv[1] in ("-h", "--help") else sys.stderr)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    keys = subprocess.run([ROOT / "build/taskmill", "config", "keys"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    page = ROOT / "docs/configuration.md"
    before, heading, _ = page.read_text().partition(HEADING)
    page.write_text(before + heading + keys)
    return 0


if __name__ == "__main__":
    sys.exit(main())
