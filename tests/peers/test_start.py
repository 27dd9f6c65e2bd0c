"""The start of the command: what loads when, and Ctrl-C meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

import peers
from tests.peers.command import TIMEOUT_S, environment

_INTERRUPTED_WHILE = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["quicpipe", "--version"]
runpy.run_module("peers", run_name="__main__")
"""


def python(code: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(home),
        check=False,
    )


@pytest.mark.parametrize("module", ["peers.cli.main", "cryptography", "aioquic", "peers.dialer"])
def test_ctrl_c_while_modules_load_ends_the_command_quietly(module: str, tmp_path: Path) -> None:
    done = python(_INTERRUPTED_WHILE.format(module=module), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_package_loads_its_public_names_when_they_are_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, peers; early = 'aioquic' in sys.modules;"
        " from peers import *; print(early, accept.__name__, 'aioquic' in sys.modules)"
    )
    assert python(code, tmp_path).stdout == "False accept True\n"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in peers.__all__:
        assert getattr(peers, name) is not None
    with pytest.raises(AttributeError, match="module 'peers' has no attribute 'nothing'"):
        _ = getattr(peers, "nothing")  # noqa: B009  # the type checker knows better
