# SPDX-License-Identifier: Apache-2.0
"""The broker under test, as a process with its own folder and ports."""

import http.client
import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import grpc
import yaml

from harness import cache
from harness.process import Process, free_port, wait_for
from harness.rpc import Client


def build_folder():
    """Where the programs are: TASKMILL_BUILD (say build-asan), else build."""
    return cache.ROOT / os.environ.get("TASKMILL_BUILD", "build")


def program(name="taskmill"):
    path = build_folder() / name
    assert path.exists(), f"{path} is not there: run ./dev build"
    return path


class Broker:
    """One broker. start(), stop() and kill9() may be repeated: folder, database and port stay.

    folder      config.yml, the database tasks.sqlite and the log stderr.txt
    config      the configuration as a dict; change it between stop() and start()
    address     host:port of gRPC, those of the configuration if it names any
    admin_address  host:port of HTTP, unless the configuration names another
    """

    def __init__(self, folder, config=None, env=None, argv=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        config = config or {}
        self.port = config.get("grpc_port") or free_port()
        self.address = f"{config.get('grpc_addr', '127.0.0.1')}:{self.port}"
        self.admin_address = f"127.0.0.1:{free_port()}"
        self.db_path = self.folder / "tasks.sqlite"
        self.config_path = self.folder / "config.yml"
        self.config = {
            "grpc_addr": "127.0.0.1",
            "grpc_port": self.port,
            "admin_addr": self.admin_address,
            "db_path": str(self.db_path),
            **config,
        }
        self.env = env or {}
        self._argv = argv or [program("taskbroker"), "-c", self.config_path]
        self._log_path = self.folder / "stderr.txt"
        self._process = None

    # --- the process

    def start(self, wait=True, timeout_s=20):
        """Starts it; unless wait is False, returns when the health service says SERVING."""
        assert not self.running, "this broker runs already"
        self.config_path.write_text(yaml.safe_dump(self.config))
        self._process = Process(self._argv, self._log_path, env=self.env, cwd=self.folder)
        if wait:
            self.wait_serving(timeout_s)
        return self

    def wait_serving(self, timeout_s=20):
        with Client(self.address, options=[("grpc.initial_reconnect_backoff_ms", 50),
                                           ("grpc.max_reconnect_backoff_ms", 200)]) as client:
            def serving():
                assert self._process.running, \
                    f"the broker ended with {self._process.wait()} at start:\n{self.log()[-4000:]}"
                return client.health(timeout_s=0.5) == "SERVING"
            wait_for(serving, lambda: f"SERVING:\n{self.log()[-4000:]}", timeout_s)

    @property
    def pid(self):
        return self._process.pid

    @property
    def running(self):
        return self._process is not None and self._process.running

    def signal(self, number):
        self._process.signal(number)

    def stop(self, timeout_s=15):
        """SIGTERM, and it must exit 0 in time."""
        if self._process is None:
            return
        if self.running:
            self._process.signal(signal.SIGTERM)
        code = self._process.wait(timeout_s)
        assert code == 0, f"exit {code} after SIGTERM:\n{self.log()[-4000:]}"

    def wait(self, timeout_s=15):
        """Exit code of a broker that ends by itself."""
        return self._process.wait(timeout_s)

    def kill9(self):
        if self._process is not None:
            self._process.kill9()

    # --- what it says

    def log(self):
        """stdout and stderr of all starts so far."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def wait_log(self, pattern, timeout_s=15):
        """Waits for a line that matches the regular expression; returns the match."""
        return wait_for(lambda: re.search(pattern, self.log(), re.MULTILINE),
                        lambda: f"/{pattern}/ in:\n{self.log()[-4000:]}", timeout_s)

    # --- ways in

    def http(self, path, method="GET"):
        """(status, content type, body as text) of the admin port."""
        connection = http.client.HTTPConnection(self.admin_address, timeout=10)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.getheader("Content-Type"), reply.read().decode()
        finally:
            connection.close()

    def status(self):
        """/status.json"""
        status, _, body = self.http("/status.json")
        assert status == 200
        return json.loads(body)

    def client(self, **options):
        """A harness.rpc.Client (close it, or use it in a `with`)."""
        return Client(self.address, **options)

    def channel(self):
        return grpc.insecure_channel(self.address)

    def sql(self, query, *args):
        """Rows of a read-only query, while it runs or after."""
        db = sqlite3.connect(f"file:{self.db_path}?mode=ro", uri=True, timeout=10)
        try:
            return db.execute(query, args).fetchall()
        finally:
            db.close()

    def statuses(self):
        """{status: rows} of the store."""
        return dict(self.sql("SELECT status, count(*) FROM inflight_taskactivations GROUP BY status"))
