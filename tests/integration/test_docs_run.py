# SPDX-License-Identifier: Apache-2.0
"""Pages of docs/ that a reader follows step by step are followed here (harness/docs.py)."""

import os
import subprocess

import pytest

from harness.broker import build_folder
from harness.cache import ROOT
from harness.docs import Page, find_lines
from harness.process import free_port


compiles = pytest.mark.skipif(build_folder().name != "build",
                              reason="what plain cc links cannot use a library with sanitizers")


def play(name, folder, programs=None, env=None, kafka="127.0.0.1:9092"):
    """With what the pages take for granted: the programs in the PATH, and the usual ports, here free ones."""
    port, admin = free_port(), free_port()
    folder.mkdir(exist_ok=True)
    Page(ROOT / "docs" / name, folder, replace={"127.0.0.1:50051": f"127.0.0.1:{port}",
                                                "127.0.0.1:9464": f"127.0.0.1:{admin}",
                                                "127.0.0.1:9092": kafka}, env={
        "PATH": f"{programs or build_folder()}:{os.environ['PATH']}", "TASKMILL_SOURCE": str(ROOT),
        "TASKBROKER_GRPC_ADDR": "127.0.0.1", "TASKBROKER_GRPC_PORT": str(port),
        "TASKBROKER_ADMIN_ADDR": f"127.0.0.1:{admin}", "TASKMILL_BROKER": f"127.0.0.1:{port}",
        "TASKMILL_STATE_FILE": str(folder / "scheduler.sqlite"), **(env or {})}).play()


def install(folder):
    """`meson install` into the folder; (bin, environment) of whoever has only what is there."""
    subprocess.run(["meson", "install", "-C", build_folder(), "--no-rebuild", "--quiet", "--destdir", folder],
                   check=True, stdout=subprocess.DEVNULL)
    program = next(folder.glob("**/bin/taskmill"))
    pkgconfig = next(folder.glob("**/pkgconfig/taskmill.pc")).parent
    return program.parent, {"PKG_CONFIG_PATH": str(pkgconfig), "PKG_CONFIG_SYSROOT_DIR": str(folder),
                            "LD_LIBRARY_PATH": str(pkgconfig.parent)}


def test_tutorial_commands(tmp_path):
    play("tutorial-commands.md", tmp_path)


@compiles
def test_tutorial(tmp_path):
    """Nothing but the installed tree: no header, library or program of the build folder."""
    programs, env = install(tmp_path / "installed")
    play("tutorial.md", tmp_path / "reports", programs, env)


@compiles
def test_readme(tmp_path, own_kafka):
    """In a folder that looks like the repository after ./dev build. The topics are the usual ones: hence a
    Kafka of its own."""
    for name, target in {"build": build_folder(), "examples": ROOT / "examples", "include": ROOT / "include"}.items():
        (tmp_path / name).symlink_to(target)
    play("../README.md", tmp_path, kafka=own_kafka.bootstrap)


def test_find_lines():
    text = "one two three\nfour (five)\nsix\n"
    assert find_lines(text, "one ... three\nfour (five)\n") == len("one two three\nfour (five)")
    assert find_lines(text, "four\none\n") is None
    assert find_lines(text, "one ... six\n") is None, "within one line"


def test_a_page_that_is_wrong_is_named_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```sh run\necho hello; exit 3\n```\n")
    with pytest.raises(AssertionError, match=r"(?s)page.md line 3: exit 3.*hello"):
        Page(page, tmp_path).play()
    page.write_text("```sh run\necho hello\n```\n```text expect\nbye\n```\n")
    with pytest.raises(AssertionError, match=r"(?s)page.md line 4: bye.*hello"):
        Page(page, tmp_path).play()
