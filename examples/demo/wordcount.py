# SPDX-License-Identifier: Apache-2.0
"""wordcount(text, expect=N): counts words. Asks for a second attempt when told to."""
from taskmill_worker import Retry, call, serve, task


@task("scripts.wordcount")
def wordcount(text, expect, flaky=False):
    if flaky and call["attempt"] == 0:
        raise Retry("not in the mood, try again")
    words = len(text.split())
    if words != expect:
        raise ValueError(f"{words} words, not {expect}")


serve()
