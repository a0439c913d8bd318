# SPDX-License-Identifier: Apache-2.0
import hashlib
import time

from taskmill_worker import Retry, call, serve, task


@task("python.digest")
def digest(data, expect):
    if isinstance(data, str):
        data = data.encode()
    found = hashlib.sha256(data).hexdigest()
    if found != expect:
        raise ValueError(f"it is {found}")


@task("python.flaky")
def flaky(times):
    print(f"attempt {call['attempt']}, {call['retries_left']} left")  # goes to the worker's log
    if call["attempt"] + 1 < times:
        raise Retry("not in the mood")


@task("python.slow")
def slow(seconds):
    time.sleep(seconds)


if __name__ == "__main__":
    serve()
