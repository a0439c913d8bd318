# SPDX-License-Identifier: Apache-2.0
"""A real redis-server on loopback, in a folder of its own. Every write is on disk before the reply."""

import os
import signal
import subprocess

from .process import Process, free_port, wait_for


class Redis:
    """redis = Redis(tmp_path / "redis").start(); redis.url; redis.cli("GET", "key"); redis.stop()

    stop() and kill9() keep folder and port, so start() brings the same data back. pause() stops the
    process as SIGSTOP does: connections stay open and nothing is answered until resume().
    """

    def __init__(self, folder, *options, port=None):
        self.folder = folder
        self.port = port or free_port()
        self.socket = folder / "redis.sock"
        self.options = [str(option) for option in options]
        self._process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self):
        return self._process is not None and self._process.running

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        socket = ["--unixsocket", str(self.socket)] if len(str(self.socket)) < 100 else []
        self._process = Process(
            ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no", *socket, *self.options],
            self.folder / "redis.log", cwd=self.folder)
        wait_for(self._answers, lambda: f"redis-server to answer:\n{self._process.log()[-2000:]}")
        return self

    def _answers(self):
        assert self.running, f"redis-server ended:\n{self._process.log()[-2000:]}"
        # A server that wants a password answers, too: NOAUTH.
        done = self._run("PING", timeout=2)
        return done.returncode == 0 and ("PONG" in done.stdout or "NOAUTH" in done.stdout)

    def _run(self, *words, timeout=10):
        return subprocess.run(["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), *map(str, words)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
                              env={**os.environ, "REDISCLI_AUTH": ""} if "-a" in words else None)

    def cli(self, *words, timeout=10):
        """What redis-cli prints for one command, without the last newline; "" for nil."""
        done = self._run(*words, timeout=timeout)
        assert done.returncode == 0 and not done.stdout.startswith("ERR"), done.stdout + done.stderr
        return done.stdout.rstrip("\n")

    def keys(self, pattern="*"):
        return sorted(self.cli("KEYS", pattern).splitlines())

    def pause(self):
        self._process.signal(signal.SIGSTOP)

    def resume(self):
        self._process.signal(signal.SIGCONT)

    def stop(self):
        """SIGTERM; a paused server is resumed first."""
        self.resume()
        self._process.signal(signal.SIGTERM)
        assert self._process.wait(10) == 0, self._process.log()[-2000:]

    def kill9(self):
        if self._process is not None:
            self._process.kill9()
