#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the test suites in order and counts single tests (see ./dev test --help).

    scripts/run_tests.py [--quick] [--list] [SUITE...]

A suite is a function that returns Counts and prints what failed. What it ran goes whole to
build/test-logs/<suite>.log. Counted are: cmocka's tests one by one, other meson tests as one each,
pytest's tests one by one, and each house rule as one. A suite in which nothing ran counts as one
skipped test and says why.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import check_tidy

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test-logs"
SHOWN_LINES = 60
BESIDE = 3 * (os.cpu_count() or 1)  # unit tests: the longest of them wait for a mock cluster's time-outs
SERVERS = max(2, (os.cpu_count() or 1) // 2)  # pytest workers: each has a Kafka of its own

SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
# Each line of these files carries its reason.
SUPPRESSIONS = {"TSAN_OPTIONS": "tests/tsan.supp", "LSAN_OPTIONS": "tests/lsan.supp"}


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: list = field(default_factory=list)  # "name: reason"
    failures: list = field(default_factory=list)

    def fail(self, name):
        self.failed += 1
        self.failures.append(name)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures


class Context:
    """What a suite gets: options, the suites that it shall run beside its own tests (`also`), and a way
    to run a command into its log."""

    def __init__(self, suite, quick, also=()):
        self.suite = suite
        self.quick = quick
        self.also = also
        self.also_counts = Counts()
        self.log_path = LOGS / f"{suite}.log"
        self.log_path.write_text("")

    def run(self, argv, env=None):
        """Runs a command with its output in the log; returns (exit code, output)."""
        with open(self.log_path, "a") as log:
            log.write(f"\n$ {' '.join(map(str, argv))}\n")
            log.flush()
            start = log.tell()
            code = subprocess.run([str(part) for part in argv], cwd=ROOT, stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=subprocess.STDOUT,
                                  env={**os.environ, **(env or {})}).returncode
        with open(self.log_path, errors="replace") as log:
            log.seek(start)
            return code, log.read()


def show(text, lines=SHOWN_LINES):
    """Prints the end of a failed command's output, indented."""
    tail = text.rstrip().splitlines()
    if len(tail) > lines:
        print(f"      ... {len(tail) - lines} lines before, see the log")
    for line in tail[-lines:]:
        print("      " + line)


def check(context, counts, name, argv):
    """One command as one test."""
    code, output = context.run(argv)
    if code == 0:
        counts.passed += 1
    else:
        counts.fail(name)
        print(f"  FAILED {name}")
        show(output)


# --- meson


def sanitizer_env():
    env = dict(SANITIZER_ENV)
    for variable, name in SUPPRESSIONS.items():
        if (ROOT / name).exists():
            env[variable] = ":".join(filter(None, [env.get(variable), f"suppressions={ROOT / name}"]))
    return env


def build(context, counts, kind):
    """./dev build <kind>; returns its folder, or None after counting a failure."""
    code, output = context.run(["./dev", "build", kind])
    if code != 0:
        counts.fail(f"build {kind}")
        print(f"  FAILED build {kind}")
        show(output)
        return None
    return ROOT / ("build" if kind == "release" else f"build-{kind}")


def cmocka_counts(output):
    """(passed, failed, skipped) that cmocka's runner printed, or None if it was not cmocka."""
    started = len(re.findall(r"^\[ RUN      \]", output, re.MULTILINE))
    if not started:
        return None

    def total(word):
        return sum(int(n) for n in re.findall(rf"^\[  {word} *\] (\d+) test\(s\)", output, re.MULTILINE))

    passed, failed, skipped = total("PASSED"), total("FAILED"), total("SKIPPED")
    return passed, failed, skipped


def count_meson_test(counts, entry):
    """Adds one line of meson's testlog.json; returns its output if it failed."""
    name = entry["name"]
    output = entry.get("stdout", "") + entry.get("stderr", "")
    result = entry["result"]
    inner = cmocka_counts(output)
    if result == "SKIP":
        reason = (output.strip().splitlines() or ["the test gave no reason"])[-1]
        counts.skipped.append(f"{name}: {reason}")
        return None
    bad = result not in ("OK", "EXPECTEDFAIL")
    if inner is None:
        counts.passed += not bad
        failed = 0
    else:
        passed, failed, skipped = inner
        counts.passed += passed
        names = re.findall(r"^\[  SKIPPED \] (?!\d+ test)(\S+)", output, re.MULTILINE)
        reason = "skipped by the test itself, see the log"
        counts.skipped += [f"{name}: {inner_name}: {reason}" for inner_name in
                           (names + ["?"] * skipped)[:skipped]]
        for _ in range(failed - 1):
            counts.failed += 1
    if not bad and not failed:
        return None
    counts.fail(name)
    return f"[{result}, exit {entry.get('returncode')}]\n{output}"


def meson_test(context, folder, suites, env=None):
    """Runs the tests of some meson suites in a build folder."""
    counts = Counts()
    log_base = f"{context.suite}-{'-'.join(suites)}"
    argv = ["meson", "test", "-C", folder, "--no-rebuild", "--logbase", log_base, "--num-processes", BESIDE]
    for suite in suites:
        argv += ["--suite", suite]
    json_log = folder / "meson-logs" / f"{log_base}.json"
    json_log.unlink(missing_ok=True)
    code, output = context.run(argv, env)
    entries = [json.loads(line) for line in json_log.read_text().splitlines()] if json_log.exists() else []
    for entry in entries:
        text = count_meson_test(counts, entry)
        if text:
            print(f"  FAILED {entry['name']} in {folder.name}/")
            with open(context.log_path, "a") as log:
                log.write(f"\n--- {entry['name']}\n{text}\n")
            show(text)
    if not entries:
        if code == 0:
            counts.skipped.append(f"{context.suite}: {folder.name}/ has no test in suite {' or '.join(suites)}")
        else:
            counts.fail(f"meson test {' '.join(suites)}")
            show(output)
    elif code != 0 and not counts.failed:
        counts.fail(f"meson test {' '.join(suites)}: exit {code}")
        show(output)
    return counts


def meson_suite(context, kind, suites, env=None):
    counts = Counts()
    folder = build(context, counts, kind)
    if folder:
        counts.add(meson_test(context, folder, suites, env))
    return counts


# --- pytest


def pytest_suite(context, folder, *arguments, part=""):
    counts = Counts()
    report = LOGS / f"{context.suite}{part}.xml"
    report.unlink(missing_ok=True)
    code, output = context.run(["tests/integration/run", f"--junit-xml={report}", "-o",
                                "junit_logging=no", *arguments, folder])
    cases = ElementTree.parse(report).getroot().iter("testcase") if report.exists() else []
    for case in cases:
        name = f"{case.get('classname')}.{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.fail(name)
        elif skip is not None:
            counts.skipped.append(f"{name}: {skip.get('message')}")
        else:
            counts.passed += 1
    if code == 5:
        counts.skipped.append(f"{context.suite}: pytest found no test in {folder} ({' '.join(arguments)})")
    elif code != 0 and not counts.failed:
        counts.fail(f"pytest {folder}: exit {code}")
    if counts.failed:
        print(f"  FAILED {' '.join(counts.failures)}")
        show(output, 2 * SHOWN_LINES)
    return counts


# --- the suites


def tidy(context):
    counts = Counts()
    check(context, counts, "rooms", ["scripts/check_rooms.py"])
    for name in check_tidy.CHECKS:
        check(context, counts, name, ["scripts/check_tidy.py", name])
    check(context, counts, "compatibility", ["scripts/check_compatibility.py"])
    check(context, counts, "manual of the library", ["scripts/check_man3.py"])
    check(context, counts, "format", ["scripts/format.sh", "--check"])
    scripts = ["dev", ".ci/run", "tests/integration/run", *sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("*.sh"))]
    check(context, counts, "shellcheck", ["shellcheck", *scripts])
    check(context, counts, "scripts", [sys.executable, "-B", "-m", "unittest", "discover",
                                       "-s", "tests/scripts"])
    return counts


def lint(context):
    """Politely: it may run beside tests that wait (see WAITING)."""
    counts = Counts()
    check(context, counts, "clang-tidy", ["nice", "-n", "10", "./dev", "lint"])
    return counts


def unit(context):
    return meson_suite(context, "release", ["unit"])


def asan(context):
    return meson_suite(context, "asan", ["unit"], sanitizer_env())


def tsan(context):
    return meson_suite(context, "tsan", ["unit", "sim-short"], sanitizer_env())


def fuzz(context):
    return meson_suite(context, "asan", ["fuzz"], sanitizer_env())


def sim(context):
    return meson_suite(context, "release", ["sim-short" if context.quick else "sim"])


def wire(context):
    if not (ROOT / "tests/integration/wire").is_dir():
        return Counts(skipped=["wire: tests/integration/wire is not there"])
    counts = Counts()
    if build(context, counts, "release"):
        counts.add(pytest_suite(context, "wire", *(["-m", "not slow"] if context.quick else [])))
    return counts


def integration(context):
    """Most of these tests wait most of the time, for Kafka and for time-outs: they run beside each other
    and beside `also`. Those that measure or load the machine follow one by one."""
    counts = Counts()
    quick = " and not slow" if context.quick else ""
    if build(context, counts, "release"):
        with also_running(context):
            counts.add(pytest_suite(context, ".", "--ignore=wire", "-n", SERVERS, "--dist", "worksteal",
                                    "-m", f"not alone{quick}", part="-beside"))
        counts.add(pytest_suite(context, ".", "--ignore=wire", "-m", f"alone{quick}", part="-alone"))
    return counts


SUITES = {
    "tidy": (tidy, "house rules: rooms, format, SPDX, banned functions, sizes, shell scripts"),
    "lint": (lint, "clang-tidy over all C sources"),
    "unit": (unit, "unit tests, release build"),
    "asan": (asan, "unit tests under address and undefined-behaviour sanitizers (clang)"),
    "tsan": (tsan, "unit tests and a short simulation under the thread sanitizer (gcc)"),
    "fuzz": (fuzz, "fuzz corpus replayed under the address sanitizer"),
    "wire": (wire, "codecs against Python's protobuf, msgpack and hmac"),
    "sim": (sim, "deterministic simulation: crash images, planted bugs"),
    "integration": (integration, "real Kafka, real Python clients, every RPC, kill -9"),
}
NOT_QUICK = {"lint", "asan", "tsan", "fuzz"}
WAITING = "integration"  # leaves the processors enough time for these:
FILLING = {"lint"}


@contextmanager
def also_running(context):
    """Runs the suites context.also while the body runs, one after the other."""
    def run():
        for name in context.also:
            context.also_counts.add(run_suite(name, context.quick))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def run_suite(name, quick, also=()):
    print(f"--- {name}: {SUITES[name][1]}", flush=True)
    started = time.monotonic()
    context = Context(name, quick, also)
    try:
        counts = SUITES[name][0](context)
    except Exception:  # the other suites shall run all the same
        traceback.print_exc(file=sys.stdout)
        counts = Counts()
        counts.fail(f"{name}: the runner itself, see above")
    for reason in counts.skipped:
        print(f"  SKIPPED {reason}")
    print(f"  {name}: {counts.passed} passed, {counts.failed} failed, {len(counts.skipped)} skipped "
          f"in {time.monotonic() - started:.1f} s", flush=True)
    counts.add(context.also_counts)
    return counts


def main():
    parser = argparse.ArgumentParser(prog="./dev test", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    options = parser.parse_args()
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite is called {' or '.join(unknown)}; there are: {' '.join(SUITES)}")
    if options.list:
        for name, (_, what) in SUITES.items():
            print(f"{name:<12}{what}{'' if name not in NOT_QUICK else ' (not with --quick)'}")
        return 0

    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total = Counts()
    chosen = [name for name in SUITES if name in options.suites or
              (not options.suites and not (options.quick and name in NOT_QUICK))]
    also = [name for name in chosen if name in FILLING and WAITING in chosen]
    for name in chosen:
        if name not in also:
            total.add(run_suite(name, options.quick, also if name == WAITING else ()))

    print(f"--- {time.monotonic() - started:.0f} s, logs in {LOGS.relative_to(ROOT)}/")
    for name in total.failures:
        print(f"  FAILED {name}")
    print(f"{total.passed} passed, {total.failed} failed, {len(total.skipped)} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
