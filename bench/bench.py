# SPDX-License-Identifier: Apache-2.0
"""The run as a whole: which cases, in which order, and what is said at the end."""

import json
import os
import platform
import shutil
import sys
import time
from contextlib import ExitStack

import cases
import table
from servers import BenchError, check_disk


def say(text):
    print(text, file=sys.stderr, flush=True)


def machine(folder):
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        models = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return {"cpus": os.cpu_count(), "cpu": models[0] if models else platform.machine(),
            "kernel": platform.release(), "filesystem": check_disk(folder),
            "load_before": round(os.getloadavg()[0], 1)}


def measure(selected, rounds):
    """{case name: [figures of each round]}; the rounds go over all cases in turn."""
    figures = {case.name: [] for case in selected}
    for number in range(rounds):
        for case in selected:
            if number >= case.rounds:
                continue
            started = time.monotonic()
            found = case.run()
            figures[case.name].append(found)
            say(f"round {number + 1}/{min(rounds, case.rounds)}  {case.name:22} "
                f"{case.headline(found):28} {time.monotonic() - started:5.1f} s")
    return figures


def main(options):
    started = time.monotonic()
    folder = options.folder.resolve()
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        where = machine(folder)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            selected = cases.make(options.only, folder, options.quick, stack, say)
            figures = measure(selected, 1 if options.quick else 3)
    except (BenchError, AssertionError, OSError) as error:
        say(f"bench/run: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench/run: stopped")
        return 130
    where["load_after"] = round(os.getloadavg()[0], 1)
    where["seconds"] = round(time.monotonic() - started)
    print(table.render(figures, where, options.quick))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": where, "quick": options.quick, "rounds": figures}, file, indent=1)
    return 0
