# SPDX-License-Identifier: Apache-2.0
"""Pages of docs/ that are executed. What follows ``` says what a block is:

    ```python file=resize.py    a file (any language); written when the page comes to it
    ```sh run                   commands, run by bash -eu until they end with 0
    ```sh run=worker            the same in the background until the page ends, or another block starts it again
                                (SIGTERM, and it must exit 0)
    ```text expect              lines that the last `run` has written, in this order
    ```text expect=worker       lines that the background process writes sooner or later, in any order, after
                                what the last such block has found

In an expected line, ` ... ` stands for anything. Other blocks are only read by people.
"""

import os
import re
import signal
import subprocess

from harness.process import Process, wait_for

FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


class Page:
    """Plays a page in a folder of its own.

    env      is added to the environment of what it runs
    replace  {text: other}: say, a usual port by a free one
    """

    def __init__(self, path, folder, env=None, replace=None):
        self.path = path
        self.folder = folder
        self.env = env or {}
        self._replace = replace or {}
        self.output = ""
        self._processes = {}
        self._seen = {}  # how much of a log was expected already

    def play(self):
        text = self.path.read_text()
        for usual, other in self._replace.items():
            text = text.replace(usual, other)
        try:
            for match in FENCE.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                try:
                    self._block(match.group(2).strip(), match.group(3))
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    raise AssertionError(f"{self.path.name} line {line}: {error}") from error
            for name in reversed(list(self._processes)):  # the broker was first, and is last
                self._stop(name)
        finally:
            for process in self._processes.values():
                process.kill9()

    def _block(self, what, content):
        kind, _, name = what.partition("=")
        if kind == "file":
            assert re.fullmatch(r"[\w.-]+", name), f"no file name: {name}"
            (self.folder / name).write_text(content)
        elif kind == "run" and name:
            self._start(name, content)
        elif kind == "run":
            self._run(content)
        elif kind == "expect" and name:
            self._expect_later(name, content)
        elif kind == "expect":
            assert find_lines(self.output, content) is not None, f"{content}in:\n{self.output}"
        else:
            assert not what, f"what is '{what}'?"

    def _run(self, script):
        done = subprocess.run(["bash", "-euc", script], cwd=self.folder, env={**os.environ, **self.env},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=60)
        self.output = done.stdout
        assert done.returncode == 0, f"exit {done.returncode}:\n{done.stdout}"

    def _start(self, name, script):
        """A process that is started again is stopped first, as its reader would."""
        if name in self._processes:
            self._stop(name)
        log = self.folder / f"{name}.log"
        self._seen[name] = len(log.read_text()) if log.exists() else 0
        # env: the command may begin with NAME=VALUE. exec: signals must reach it, not a shell.
        self._processes[name] = Process(["bash", "-euc", f"exec env {script.strip()}"], log, env=self.env,
                                        cwd=self.folder)

    def _stop(self, name):
        process = self._processes.pop(name)
        process.signal(signal.SIGTERM)
        code = process.wait()
        assert code == 0, f"{name} ended with {code}:\n{process.log()[-4000:]}"

    def _expect_later(self, name, lines):
        process = self._processes[name]

        def ends():
            log = process.log()[self._seen[name]:]
            return [find_lines(log, line) for line in lines.splitlines()]

        wait_for(lambda: None not in ends() or not process.running,
                 lambda: f"{lines}in the log of {name}:\n{process.log()[self._seen[name]:][-4000:]}")
        found = ends()
        assert None not in found, f"{name} has ended:\n{process.log()[-4000:]}"
        self._seen[name] += max(found)


def find_lines(text, wanted):
    """Where the last of the wanted lines ends in the text, if they are there in this order; else None."""
    at = 0
    for line in wanted.splitlines():
        pattern = "[^\n]*".join(re.escape(part) for part in line.strip().split(" ... "))
        match = re.compile(pattern).search(text, at)
        if match is None:
            return None
        at = match.end()
    return at
