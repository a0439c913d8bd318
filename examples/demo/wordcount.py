# SPDX-License-Identifier: Apache-2.0
"""wordcount(text, expect=N): counts words. Asks for a second attempt when told to."""
import json
import os
import sys

EX_TEMPFAIL = 75

call = json.load(sys.stdin)
words = len(call["args"][0].split())
if call["kwargs"].get("flaky") and os.environ["TASKMILL_TASK_ATTEMPT"] == "0":
    print("not in the mood, try again", file=sys.stderr)
    sys.exit(EX_TEMPFAIL)
if words != call["kwargs"]["expect"]:
    sys.exit(f"{words} words, not {call['kwargs']['expect']}")
