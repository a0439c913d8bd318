# SPDX-License-Identifier: Apache-2.0
"""Pages of docs/ that a reader follows step by step are followed here (harness/docs.py)."""

import os

import pytest

from harness.broker import build_folder
from harness.cache import ROOT
from harness.docs import Page, find_lines
from harness.process import free_port


def play(name, folder):
    """With what the pages take for granted: the programs in the PATH, and the usual ports, here free ones."""
    port = str(free_port())
    Page(ROOT / "docs" / name, folder, replace={"127.0.0.1:50051": f"127.0.0.1:{port}"}, env={
        "PATH": f"{build_folder()}:{os.environ['PATH']}", "TASKMILL_SOURCE": str(ROOT),
        "TASKBROKER_GRPC_ADDR": "127.0.0.1", "TASKBROKER_GRPC_PORT": port,
        "TASKBROKER_ADMIN_ADDR": f"127.0.0.1:{free_port()}", "TASKMILL_BROKER": f"127.0.0.1:{port}",
        "TASKMILL_STATE_FILE": str(folder / "scheduler.sqlite")}).play()


def test_tutorial_commands(tmp_path):
    play("tutorial-commands.md", tmp_path)


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
