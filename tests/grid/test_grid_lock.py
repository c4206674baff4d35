"""A lock that is held by processes, not by files."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from common.grid.lock import lock


def test_only_one_holds_it_and_nothing_is_left_of_it(tmp_path):
    file = tmp_path / "new" / ".lock"
    with lock(file), pytest.raises(BlockingIOError), lock(file):
        pass
    with lock(file):
        pass


def test_a_child_holds_it_on_until_it_is_killed(tmp_path):
    file = tmp_path / ".lock"
    with lock(file) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[descriptor])
    with pytest.raises(BlockingIOError), lock(file):
        pass
    child.kill()
    child.wait()
    with lock(file, wait=True):
        pass


def test_waiting_for_the_one_who_holds_it(tmp_path):
    file, start = tmp_path / ".lock", time.monotonic()
    with lock(file) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], pass_fds=[descriptor])
    with lock(file, wait=True):
        assert time.monotonic() - start >= 0.4
    child.wait()
