# SPDX-License-Identifier: Apache-2.0
"""Tasks in Python for `mode: persistent` of a Taskmill commands file. Copy this file beside yours:

    from taskmill_worker import Retry, call, serve, task

    @task("thumbs.resize")
    def resize(path, width=100):
        ...                          # returning completes the task, Retry asks for another attempt,
                                     # any other exception fails it
    if __name__ == "__main__":
        serve()

`call` tells about the task that runs: id, task, namespace, attempt, retries_left, deadline, headers, sent.
"""
import base64
import json
import os
import sys
import traceback

call = {}
_tasks = {}


class Retry(Exception):
    """Raise it to ask for another attempt; its text is the reason in the worker's log."""


def task(name):
    def register(function):
        _tasks[name] = function
        return function
    return register


def _value(found):
    """What JSON lacks comes as an object of one key."""
    if len(found) == 1 and "$bytes" in found:
        return base64.b64decode(found["$bytes"])
    if len(found) == 1 and "$float" in found:
        return float(found["$float"])
    return found


def _run(given):
    args, kwargs = given.pop("args"), given.pop("kwargs")
    call.clear()
    call.update(given)
    try:
        _tasks[call["task"]](*args, **kwargs)
        return {"id": call["id"], "status": "complete"}
    except Retry as reason:
        return {"id": call["id"], "status": "retry", "error": str(reason)[:1000]}
    except Exception as error:
        traceback.print_exc()
        return {"id": call["id"], "status": "failure", "error": f"{type(error).__name__}: {error}"[:1000]}


def serve():
    """Runs tasks until the worker ends. print() and programs that tasks start get stderr, not the answers."""
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in tasks:
        answer = _run(json.loads(line, object_hook=_value))
        sys.stdout.flush()
        print(json.dumps(answer), file=answers, flush=True)
