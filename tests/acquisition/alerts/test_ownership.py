"""One owner, and who it is."""

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import text

from acquisition.log import Log
from acquisition.ownership import Owned, Ownership, holder


def test_a_second_owner_is_told_who_is_the_first(tmp_path):
    with Ownership.take(tmp_path, "calendar") as first:
        assert first.held
        assert holder(tmp_path, "calendar").pid == os.getpid()
        with pytest.raises(Owned, match=rf"calendar is owned by process {os.getpid()} on .* since 20.* UTC; end that"):
            Ownership.take(tmp_path, "calendar")
        Ownership.take(tmp_path, "alerts").release()
    assert not first.held
    assert holder(tmp_path, "calendar") is None
    Ownership.take(tmp_path, "calendar").release()


def test_a_killed_owner_owns_nothing(tmp_path):
    program = (
        "import sys, time, pathlib\nfrom acquisition.ownership import Ownership\n"
        "lock = Ownership.take(pathlib.Path(sys.argv[1]), 'calendar')\nprint('taken', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    assert holder(tmp_path, "calendar").pid == process.pid
    with pytest.raises(Owned, match=f"process {process.pid}"):
        Ownership.take(tmp_path, "calendar")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Ownership.take(tmp_path, "calendar").release()


def test_a_server_is_owned_from_every_folder(tmp_path, postgresql):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Log.open(postgresql) as log, Log.open(postgresql) as other:
        with Ownership.take(tmp_path / "one", "calendar", log.engine) as first:
            with pytest.raises(Owned, match=r"calendar of this database is owned by a process on .* since 20"):
                Ownership.take(tmp_path / "two", "calendar", other.engine)
            assert first.held
            with other.engine.connect() as connection:  # as when the server was restarted
                connection.execute(text(f"SELECT pg_terminate_backend({first._session})"))
            assert not first.held
            Ownership.take(tmp_path / "two", "calendar", other.engine).release()
        Ownership.take(tmp_path / "two", "calendar", other.engine).release()
