# SPDX-License-Identifier: Apache-2.0
"""Reads deploy/ and runs what it says, without containers.

A file's own command line, environment and probes are taken; what a container would bring is put in
their place, and nothing else:

* paths: programs of the image become those of the build, mounts become folders of the test;
* the network: each broker has a loopback address of its own (127.x.y.z, told by two variables) and
  keeps the documented port; libnss_wrapper resolves the names for workers, as a container's or a
  cluster's DNS does.
"""

import os
import random
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import yaml

from harness import cache
from harness.broker import build_folder, program
from harness.process import Process, wait_for
from harness.rpc import Client

DEPLOY = cache.ROOT / "deploy"
GRPC_PORT = 50051
DURATION_S = {"s": 1, "m": 60}


def load(path):
    return yaml.safe_load(Path(path).read_text())


def merge(base, over):
    """Compose's rule for several files, as far as ours need it: maps key by key, `command` and `test`
    as a whole, other lists one behind the other."""
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        elif isinstance(old, list) and isinstance(value, list) and key not in ("command", "test"):
            merged[key] = old + value
        else:
            merged[key] = value
    return merged


def interpolate(value, variables):
    """${NAME:-default} in every text of a document."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m.group(1), m.group(2)), value)
    assert "$" not in text, f"unknown kind of variable in {value!r}"
    return text


def compose(*names, **variables):
    """The services of these files of deploy/compose/, merged."""
    merged = {}
    for name in names:
        merged = merge(merged, load(DEPLOY / "compose" / name))
    return interpolate(merged["services"], variables)


def seconds(text):
    """A duration of Compose: 15s, 1m30s."""
    parts = re.findall(r"(\d+)([ms])", text)
    assert "".join(n + unit for n, unit in parts) == text, text
    return sum(int(n) * DURATION_S[unit] for n, unit in parts)


def map_text(text, places):
    """`text` with every path of a container (keys of `places`, or below one) replaced."""
    known = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({known})(?=$|[/\s\"',;)])", lambda m: str(places[m.group(1)]), text)


def image_places():
    """Where deploy/Dockerfile puts the programs."""
    return {"/opt/taskbroker": build_folder() / "taskbroker",
            "/usr/bin/taskbroker": build_folder() / "taskbroker", "/usr/bin/taskmill": program()}


class Network:
    """Names that workers resolve (libnss_wrapper), each a loopback address that nobody else has."""

    def __init__(self, folder):
        self.hosts = folder / "hosts"
        self.hosts.write_text("")

    def add(self, name, address=None):
        draw = random.SystemRandom().randrange
        address = address or f"127.{draw(1, 255)}.{draw(256)}.{draw(1, 255)}"
        with open(self.hosts, "a") as hosts:
            hosts.write(f"{address} {name}\n")
        return address

    def env(self):
        return {"LD_PRELOAD": "libnss_wrapper.so", "NSS_WRAPPER_HOSTS": str(self.hosts)}


class Service:
    """One process of a deployment, in the place of a container.

    argv, env   as the file has them
    places      paths of the container: {"/opt/sqlite": folder, ...}; those of the image are known
    address     of a broker; None for a worker
    check       argv of the health check or probe, or None
    grace_s     time from SIGTERM to SIGKILL
    """

    def __init__(self, folder, argv, env, places, network, address=None, check=None, grace_s=30):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.address = address
        self.grace_s = grace_s
        self._places = {**image_places(), **places}
        for place in places.values():
            if not Path(place).exists():
                Path(place).mkdir(parents=True)
        self.env = {key: map_text(value, self._places) for key, value in env.items()}
        if address:
            self.env |= {"TASKBROKER_GRPC_ADDR": address, "TASKBROKER_ADMIN_ADDR": f"{address}:9464"}
        else:
            self.env |= network.env()
        self._check = check
        self.process = Process(self._argv(argv), folder / "log.txt", self.env, folder)

    def _argv(self, argv):
        mapped = [map_text(text, self._places) for text in argv]
        return [program() if mapped[0] == "taskmill" else mapped[0], *mapped[1:]]

    def check(self):
        """Exit code of the health check."""
        argv = self._argv(self._check)
        if self.address:  # in a container the broker has all of its loopback
            argv = [str(text).replace("127.0.0.1:", f"{self.address}:") for text in argv]
        return subprocess.run([str(text) for text in argv], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=30).returncode

    def wait_healthy(self, timeout_s=30):
        def healthy():
            assert self.process.running, f"ended with {self.process.wait()}:\n{self.log()[-4000:]}"
            return self.check() == 0
        wait_for(healthy, lambda: f"a healthy {self.folder.name}:\n{self.log()[-4000:]}", timeout_s, 0.2)
        return self

    def client(self):
        return Client(f"{self.address}:{GRPC_PORT}")

    def log(self):
        return self.process.log()

    def count(self, text):
        return self.log().count(text)

    def partitions(self):
        """How many partitions it has now."""
        said = [line for line in self.log().splitlines() if re.search("partitions (assigned|revoked)", line)]
        if not said or "partitions revoked" in said[-1]:
            return 0
        return int(re.search(r'[" ]partitions"?[=:] ?(\d+)', said[-1]).group(1))

    def stop(self):
        """SIGTERM, and it must exit 0 within its grace; returns how long it took."""
        started = time.monotonic()
        self.process.signal(signal.SIGTERM)
        code = self.process.wait(self.grace_s)
        assert code == 0, f"exit {code}:\n{self.log()[-4000:]}"
        return time.monotonic() - started


def _volumes(service, folder, volumes_folder):
    """{path in the container: path here} of a Compose service."""
    places = {}
    for text in service.get("volumes", []):
        source, target = text.split(":")[:2]
        local = source.startswith(".")
        places[target] = (DEPLOY / "compose" / source).resolve() if local else volumes_folder / source
    for text in service.get("tmpfs", []):
        places[text.split(":")[0]] = folder / "tmpfs"
    return places


def image_command():
    """CMD of the Dockerfile: what a service without a command runs."""
    text = (DEPLOY / "Dockerfile").read_text()
    return yaml.safe_load(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])


def start_compose(folder, network, services, name):
    """A Service that does what Compose would do for one replica of `name`."""
    service = services[name]
    places = _volumes(service, folder / name, folder / "volumes")
    test = service["healthcheck"]["test"]
    check = test[1:] if test[0] == "CMD" else ["/bin/sh", "-c", *test[1:]]
    is_broker = name.startswith("taskbroker")
    return Service(folder / name, service.get("command") or image_command(), service.get("environment", {}),
                   places, network, network.add(name) if is_broker else None, check,
                   seconds(service["stop_grace_period"]))


# --- systemd


def unit(name):
    """{"Section.Key": [values]} of a file of deploy/systemd/."""
    found = {}
    section = None
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif line and line[0] not in "#;":
            key, value = line.split("=", 1)
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


def env_file(path, uncommented=()):
    """Variables of an environment file, with those that it proposes in a comment if they are named."""
    lines = [line[1:] if line[1:].split("=")[0] in uncommented else line
             for line in path.read_text().splitlines()]
    pairs = [line.split("=", 1) for line in lines if line and line[0] != "#"]
    return {key: " ".join(shlex.split(value)) for key, value in pairs}


def start_unit(folder, network, name, instance, variables, address=None, places=None):
    """Runs ExecStart as systemd would: specifiers, then ${NAME} as one word and $NAME as several."""
    definition = unit(f"{name}@.service")
    specifiers = {"%i": instance, "%S": str(folder / "state"), "%t": str(folder / "run")}

    def expand(text):
        return re.sub(r"%[a-zA-Z]", lambda m: specifiers[m.group(0)], text)

    env = dict(expand(pair).split("=", 1) for pair in definition.get("Service.Environment", []))
    env |= variables
    for key, base in (("StateDirectory", "state"), ("RuntimeDirectory", "run")):
        for made in definition.get(f"Service.{key}", []):
            (folder / base / expand(made)).mkdir(parents=True, exist_ok=True)
    argv = []
    for word in expand(definition["Service.ExecStart"][0]).split():
        if re.fullmatch(r"\$\w+", word):
            argv += env.get(word[1:], "").split()
        else:
            argv.append(re.sub(r"\$\{(\w+)\}", lambda m: env.get(m.group(1), ""), word))
    return Service(folder / f"{name}-{instance}", argv, env, places or {}, network, address,
                   grace_s=int(definition["Service.TimeoutStopSec"][0]))


def clean_environment(monkeypatch):
    """No variable of whoever runs the tests reaches a broker or worker."""
    for name in list(os.environ):
        if name.upper().startswith(("TASKBROKER_", "TASKWORKER_", "TASKMILL_RPC")):
            monkeypatch.delenv(name)
