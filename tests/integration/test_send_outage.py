# SPDX-License-Identifier: Apache-2.0
"""libtaskmill when what it sends to is not there, or dies: a send that waits never reports success."""

import ctypes
import signal
import threading
import time

import pytest

from harness.broker import build_folder
from harness.process import wait_for

NOT_FOUND, TIMEOUT, UNAVAILABLE = -4, -11, -12  # of enum taskmill_error
TIMEOUT_S = 6
PAYLOAD = 100000


class AppOptions(ctypes.Structure):
    """The beginning of struct taskmill_app_options; `size` says where it ends."""
    _fields_ = [("size", ctypes.c_size_t), ("broker", ctypes.c_char_p), ("rpc_secret", ctypes.c_char_p),
                ("kafka", ctypes.c_char_p), ("topic", ctypes.c_char_p), ("send_timeout_s", ctypes.c_uint32)]


class Sender:
    """One task through the shared library as a program would; one thread at a time."""

    def __init__(self, **options):
        given = AppOptions(ctypes.sizeof(AppOptions), send_timeout_s=TIMEOUT_S,
                           **{name: value.encode() for name, value in options.items()})
        self._lib = ctypes.CDLL(str(build_folder() / "src/client/libtaskmill.so"))
        for name in ("app_new_with", "namespace_with", "params_new"):
            getattr(self._lib, f"taskmill_{name}").restype = ctypes.c_void_p
        self._lib.taskmill_last_error.restype = ctypes.c_char_p
        self._app = ctypes.c_void_p(self._lib.taskmill_app_new_with(b"shop", ctypes.byref(given)))
        namespace = ctypes.c_void_p(self._lib.taskmill_namespace_with(self._app, b"n", None))
        assert self._lib.taskmill_task_with(namespace, b"t", None, None) == 0

    def send(self):
        """(0 or an enum taskmill_error, its text, seconds)"""
        params = ctypes.c_void_p(self._lib.taskmill_params_new())
        self._lib.taskmill_params_bytes(params, bytes(PAYLOAD), ctypes.c_size_t(PAYLOAD))
        started = time.monotonic()
        code = self._lib.taskmill_send_with(self._app, b"n", b"t", params, None)
        return code, self._lib.taskmill_last_error().decode(), time.monotonic() - started

    def close(self):
        self._lib.taskmill_app_free(self._app)


@pytest.fixture
def sender():
    made = []

    def make(**options):
        made.append(Sender(**options))
        return made[-1]

    yield make
    for it in made:
        it.close()


def unread(address):
    """Bytes that the kernel holds for the server at this address."""
    port = int(address.rsplit(":", 1)[1])
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return max((int(row[4].split(":")[1], 16) for row in rows if int(row[1].split(":")[1], 16) == port), default=0)


def killed_while_waiting(sender, address, pause, kill9):
    """What a send says whose server took the bytes, but never read them, and was killed."""
    said = []
    pause()
    thread = threading.Thread(target=lambda: said.append(sender.send()))
    thread.start()
    wait_for(lambda: unread(address) > PAYLOAD / 2 or said, "the task on its way", TIMEOUT_S, 0.005)
    assert not said
    kill9()
    thread.join(TIMEOUT_S + 5)
    return said[0]


def test_no_such_topic(kafka, sender):
    code, text, seconds = sender(kafka=kafka.bootstrap, topic="never-created").send()
    assert code == NOT_FOUND
    assert f"Kafka {kafka.bootstrap} has no topic never-created" in text and "create it" in text
    assert seconds < TIMEOUT_S
    assert not kafka.has_topic("never-created")


def test_kafka_dies_while_a_send_waits(own_kafka, sender):
    topic = own_kafka.unique_topic("send")
    it = sender(kafka=own_kafka.bootstrap, topic=topic)
    assert it.send()[0] == 0
    code, text, seconds = killed_while_waiting(it, own_kafka.bootstrap, own_kafka.pause, own_kafka.kill9)
    assert code in (TIMEOUT, UNAVAILABLE), text
    assert own_kafka.bootstrap in text and seconds < TIMEOUT_S + 2
    code, text, _ = it.send()  # nobody is there
    assert code == UNAVAILABLE and "cannot be reached" in text
    own_kafka.start()
    wait_for(lambda: it.send()[0] == 0, "Kafka's return")


def test_broker_dies_while_a_send_waits(broker, sender):
    b = broker()
    it = sender(broker=b.address)
    assert it.send()[0] == 0
    code, text, seconds = killed_while_waiting(it, b.address, lambda: b.signal(signal.SIGSTOP), b.kill9)
    assert code in (TIMEOUT, UNAVAILABLE), text
    assert b.address in text and seconds < TIMEOUT_S + 2
    code, text, _ = it.send()
    assert code == UNAVAILABLE and b.address in text
    b.start()
    wait_for(lambda: it.send()[0] == 0, "the broker's return")
