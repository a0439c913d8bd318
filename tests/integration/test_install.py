# SPDX-License-Identifier: Apache-2.0
"""`meson install`: what a user finds is enough to build on, shared and static, in C and C++."""

import os
import subprocess
from pathlib import Path

import pytest

from harness.broker import program

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
