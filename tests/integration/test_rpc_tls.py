# SPDX-License-Identifier: Apache-2.0
"""TLS and mTLS on the broker's port: with grpcio, with our own client, and files that are wrong."""

import os
import signal
import subprocess

import grpc
import pytest

from harness.broker import program
from harness.certs import Authority
from harness.process import wait_for
from harness.rpc import COMPLETE, Client, activation
from harness.worker import Worker


class Certs:
    def __init__(self, folder):
        self.ca = Authority(folder, "ca")
        self.other_ca = Authority(folder, "other")
        self.server = self.ca.issue("server", ["DNS:localhost", "IP:127.0.0.1"])
        self.client = self.ca.issue("client")
        self.expired = self.ca.issue("expired", expired=True)
        self.foreign = self.other_ca.issue("foreign")
        self.folder = folder

    def config(self, client_ca=None, server=None):
        pem, key = server or self.server
        config = {"grpc_tls_certificate_location": str(pem), "grpc_tls_key_location": str(key)}
        return {**config, "grpc_tls_client_ca_location": str(client_ca)} if client_ca else config


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))


def credentials(ca, client=None):
    pem, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.ssl_channel_credentials(ca.pem.read_bytes(), key, pem)


@pytest.fixture
def tls_broker(broker):
    """broker(config): started; SERVING as the program's own probe sees it, whatever TLS it wants."""
    def make(config, *probe_flags):
        b = broker(config=config, start=False)
        b.start(wait=False)
        wait_for(lambda: health(b, *probe_flags).returncode == 0 or not b.running, "SERVING", 20)
        assert b.running, b.log()
        return b
    return make


def health(b, *flags, host="127.0.0.1", env=None):
    return subprocess.run([program(), "health", f"{host}:{b.port}", *map(str, flags)],
                          capture_output=True, text=True, timeout=30, env={**os.environ, **(env or {})})


def outcome(address, creds):
    with Client(address, credentials=creds) as client:
        return client.health(timeout_s=10)


def test_tls(certs, tls_broker):
    ca = certs.ca
    b = tls_broker(certs.config(), "--tls-ca", ca.pem)
    with Client(b.address, credentials=credentials(ca)) as client:
        id = client.enqueue([activation()]).ids[0]
        assert client.get_task().id == id
        client.set_status(id, COMPLETE)
        big = activation(args=["x" * 2000000])
        client.enqueue([big])
        assert client.get_task() == big
    assert outcome(f"localhost:{b.port}", credentials(ca)) == "SERVING"
    assert outcome(b.address, credentials(certs.other_ca)) == "UNAVAILABLE"
    with Client(b.address) as plain:
        assert plain.health() == "UNAVAILABLE"
    # A client may show a certificate although nobody asks for one.
    assert outcome(b.address, credentials(ca, certs.client)) == "SERVING"


def test_mtls(certs, tls_broker):
    ca = certs.ca
    mine = ["--tls-ca", ca.pem, "--tls-cert", certs.client[0], "--tls-key", certs.client[1]]
    b = tls_broker(certs.config(ca.pem), *mine)
    assert outcome(b.address, credentials(ca, certs.client)) == "SERVING"
    for creds in (credentials(ca), credentials(ca, certs.expired), credentials(ca, certs.foreign)):
        assert outcome(b.address, creds) == "UNAVAILABLE"
    b.wait_log("connection refused: TLS: peer did not return a certificate")
    b.wait_log("connection refused: TLS: .*certificate has expired")


def test_our_client(certs, tls_broker):
    ca = certs.ca
    mine = ["--tls-ca", ca.pem, "--tls-cert", certs.client[0], "--tls-key", certs.client[1]]
    b = tls_broker(certs.config(ca.pem), *mine)

    done = health(b, *mine)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert health(b, *mine, host="localhost").returncode == 0
    assert health(b, "--tls-name", "localhost", *mine).returncode == 0
    env = {"TASKMILL_TLS_CA": str(ca.pem), "TASKMILL_TLS_CERT": str(certs.client[0]),
           "TASKMILL_TLS_KEY": str(certs.client[1])}
    assert health(b, env=env).returncode == 0

    def refused(text, *flags):
        done = health(b, *flags)
        assert done.returncode == 1 and done.stdout == ""
        assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr

    refused("certificate required", "--tls-ca", ca.pem)
    refused("certificate of the peer is refused: self-signed", *mine[2:], "--tls-ca",
            certs.other_ca.pem)
    refused("hostname mismatch", *mine, "--tls-name", "elsewhere.example")
    refused("expired", "--tls-ca", ca.pem, "--tls-cert", certs.expired[0], "--tls-key",
            certs.expired[1])
    refused("/nowhere.pem: cannot read", "--tls-ca", "/nowhere.pem")
    refused("go together", "--tls-ca", ca.pem, "--tls-cert", certs.client[0])
    refused("is not the private key of", "--tls-ca", ca.pem, "--tls-cert", certs.client[0],
            "--tls-key", certs.server[1])
    refused("speaks TLS")  # plain text


def test_tls_client_meets_a_plain_broker(certs, broker):
    b = broker()
    done = health(b, "--tls-ca", certs.ca.pem)
    assert done.returncode == 1 and "TLS" in done.stderr
    assert outcome(b.address, credentials(certs.ca)) == "UNAVAILABLE"
    assert health(b).returncode == 0


def test_worker_and_send(certs, tls_broker, tmp_path):
    """The whole way over mTLS: taskmill send, taskmill worker, a command that writes a file."""
    mine = ["--tls-ca", str(certs.ca.pem), "--tls-cert", str(certs.client[0]), "--tls-key",
            str(certs.client[1])]
    b = tls_broker(certs.config(certs.ca.pem), *mine)
    commands = {"application": "app", "namespaces": {"ns": {"tasks": {
        "ns.touch": {"command": ["touch", str(tmp_path / "touched")]}}}}}
    sent = subprocess.run([program(), "send", "ns:ns.touch", "--application", "app", "--rpc-host",
                           b.address, *mine], capture_output=True, text=True, timeout=30)
    assert sent.returncode == 0, sent.stderr
    worker = Worker(tmp_path / "worker", [b.address], commands, arguments=mine)
    try:
        wait_for(lambda: (tmp_path / "touched").exists(), "the task to run", 20)
        wait_for(lambda: b.statuses() == {}, "its report", 20)
    finally:
        worker.stop()


def test_sighup_takes_renewed_certificates(certs, tls_broker, tmp_path):
    pem, key = tmp_path / "broker.pem", tmp_path / "broker.key"

    def install(pair):
        pem.write_bytes(pair[0].read_bytes())
        key.write_bytes(pair[1].read_bytes())

    install(certs.server)
    b = tls_broker(certs.config(server=(pem, key)), "--tls-ca", certs.ca.pem)
    with Client(b.address, credentials=credentials(certs.ca)) as old:
        assert old.health() == "SERVING"
        pem.write_text("garbage")
        b.signal(signal.SIGHUP)
        b.wait_log(f"the old ones stay in use: {pem}: not a usable certificate")
        assert outcome(b.address, credentials(certs.ca)) == "SERVING"
        install(certs.other_ca.issue("renewed", ["IP:127.0.0.1"]))
        b.signal(signal.SIGHUP)
        b.wait_log("certificates reloaded")
        assert outcome(b.address, credentials(certs.other_ca)) == "SERVING"
        assert outcome(b.address, credentials(certs.ca)) == "UNAVAILABLE"
        assert old.health() == "SERVING", "an open connection keeps what it has"


@pytest.mark.parametrize("change, named, text", [
    ({"grpc_tls_certificate_location": "/nowhere.pem"}, "/nowhere.pem", "No such file"),
    ({"grpc_tls_key_location": "/nowhere.key"}, "/nowhere.key", "No such file"),
    ({"grpc_tls_client_ca_location": "/nowhere.ca"}, "/nowhere.ca", "No such file"),
    ({"grpc_tls_key_location": "client.key"}, "client.key", "is not the private key of"),
    ({"grpc_tls_certificate_location": "server.key"}, "server.key", "not a usable certificate"),
])
def test_wrong_files_fail_the_start(certs, broker, change, named, text):
    config = certs.config()
    for key, value in change.items():
        config[key] = value if value.startswith("/") else str(certs.folder / value)
    b = broker(config=config, start=False)
    b.start(wait=False)
    assert b.wait() == 1
    errors = [line for line in b.log().splitlines() if named in line and text in line]
    assert len(errors) == 1, b.log()
    b.kill9()
