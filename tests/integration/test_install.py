# SPDX-License-Identifier: Apache-2.0
"""`meson install`: what a user finds is enough to build on, shared and static, in C and C++, to run and to read."""

import os
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.broker import program
from harness.cache import ROOT
from harness.rpc import FAILURE
from harness.worker import FakeBroker, Worker

sys.path.insert(0, str(ROOT / "scripts"))
import check_man3  # noqa: E402

SOURCE = Path(__file__).parent / "clients" / "installed.c"
FLAGS = ["-Wall", "-Wextra", "-Werror"]


def run(*argv, env=None):
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=120, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """(folder of the libraries, function that asks pkg-config) of an installed tree."""
    folder = tmp_path_factory.mktemp("installed")
    build = Path(program()).resolve().parents[0]
    while not (build / "build.ninja").exists():
        build = build.parent
    run("meson", "install", "-C", build, "--no-rebuild", "--destdir", folder)
    description = next(folder.rglob("taskmill.pc"))
    env = {"PKG_CONFIG_PATH": str(description.parent), "PKG_CONFIG_SYSROOT_DIR": str(folder)}
    return description.parent.parent, lambda *options: run("pkg-config", *options, "taskmill", env=env).split()


def test_names(tree):
    libraries, _ = tree
    shared = libraries / "libtaskmill.so"
    assert "libtaskmill.so.0" in run("readelf", "-d", shared)
    symbols = [line.split() for line in run("nm", "-D", "--defined-only", shared).splitlines()]
    names = {words[2].split("@")[0] for words in symbols if words[1] in "TBDR"}
    assert names and all(name.startswith("taskmill_") for name in names)
    assert all(words[2].endswith("@@TASKMILL_1") for words in symbols if words[1] in "TBDR")


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-std=c++20", "-x", "c++"]], ids=["c", "cpp"])
@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_builds_and_runs(tree, tmp_path, compiler, static):
    libraries, pkg_config = tree
    if static:
        private = [word for word in pkg_config("--static", "--libs") if word != "-ltaskmill"]
        link = [libraries / "libtaskmill.a", *private]
    else:
        link = pkg_config("--libs")
    test = tmp_path / "test"
    run(*compiler, *FLAGS, *pkg_config("--cflags"), SOURCE, "-x", "none", *link, "-o", test)
    assert run(test, env={"LD_LIBRARY_PATH": str(libraries)}) == '0 {"args":[42],"kwargs":{}}'


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-std=c++20", "-x", "c++"]], ids=["c", "cpp"])
def test_module(tree, tmp_path, compiler):
    """It has the two names that a worker looks for, whatever the language."""
    _, pkg_config = tree
    module = tmp_path / "module.so"
    run(*compiler, *FLAGS, "-shared", "-fPIC", *pkg_config("--cflags"), SOURCE, "-o", module)
    symbols = run("nm", "-D", "--defined-only", module)
    assert " T taskmill_module_init" in symbols and "taskmill_module_abi" in symbols


def test_an_installed_worker_runs_an_installed_module(tree, tmp_path):
    libraries, pkg_config = tree
    module = tmp_path / "module.so"
    run("cc", *FLAGS, "-shared", "-fPIC", *pkg_config("--cflags"), SOURCE, "-o", module)
    installed = next(folder for folder in libraries.parents if (folder / "bin" / "taskmill").exists())
    broker = FakeBroker()
    worker = Worker(tmp_path / "worker", [broker.address], modules=[module], program_path=installed / "bin" / "taskmill",
                    arguments=["--application", "shop"])
    try:
        broker.tasks.append(pb.TaskActivation(id="0" * 32, application="shop", namespace="n", taskname="twice",
                                              parameters_bytes=msgpack.packb({"args": [], "kwargs": {}}),
                                              processing_deadline_duration=5))
        assert broker.wait_reports(1)[0].status == FAILURE
        worker.wait_log("needs (number)")
        worker.stop()
    finally:
        worker.kill9()
        broker.stop()


def test_manual(tree):
    """Every function has a page under its own name."""
    libraries, _ = tree
    folder = next(path for path in libraries.parents if (path / "share" / "man").exists()) / "share" / "man"
    names = {path.name for path in (folder / "man3").iterdir() if path.exists()}
    assert names >= {f"{name}.3" for name in check_man3.declarations(check_man3.HEADER.read_text())}
    for name in ("taskmill.3", "taskmill_kwarg_str.3", "TASKMILL_MODULE.3"):
        assert run("mandoc", "-Tascii", folder / "man3" / name)


def test_the_example_of_taskmill_test(tree, tmp_path):
    """It is the one that ends by itself; check_man3.py compiles the others."""
    libraries, pkg_config = tree
    source = tmp_path / "example.c"
    [text] = check_man3.examples((check_man3.PAGES / "taskmill_test.3").read_text())
    source.write_text(text)
    run("cc", *FLAGS, *pkg_config("--cflags"), source, *pkg_config("--libs"), "-o", tmp_path / "example")
    run(tmp_path / "example", env={"LD_LIBRARY_PATH": str(libraries)})
