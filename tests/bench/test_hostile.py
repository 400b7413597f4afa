"""Every bad client once, and that a service which is none would be seen."""

import socket
import threading
from unittest.mock import Mock

import pytest

import pdrec_fast as pf

pytest.importorskip("uvicorn", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("fastapi", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("scipy")

from bench.hostile import __main__ as command
from bench.hostile import campaign
from bench.hostile.cases import CASES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "model"
    settings = {"modules": (), "epochs": 1, "encoder_options": {"width": 8}}
    pf.PDRec("sasrec", **settings).fit(pf.synthetic(100, 1200), progress=False).save(path)
    return path


def test_bad_clients_break_nothing(model):
    # Times and memory are measured by the command; here they only must have an end.
    found = command.attacked(model, seconds=1.0, timeout=1.0, slack=60.0, most_mib=1e3)
    assert found["faults"] == {}
    assert {row["case"] for row in found["cases"]} == set(CASES)
    assert all(row["times"] >= 1 for row in found["cases"])
    assert found["beside bad ones"]["requests"] > 0
    assert found["SIGTERM"] == {"statuses": {"200": 16}, "exit": 0}
    lines = command.table(found).splitlines()
    assert lines[1].startswith("large body")
    assert lines[-1] == "0 kinds of faults"


def test_a_service_that_waits_for_ever_is_seen(monkeypatch):
    names = ["silent", "large body", "half closed", "never reads"]
    monkeypatch.setattr(campaign, "CASES", {name: CASES[name] for name in names})
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # connects, and that is all
        port = nobody.getsockname()[1]
        attack = campaign.Campaign(port, timeout=0.2, slack=0.2, seed=0)
        attack.run(until=0.0)
    assert attack.faults == {f"{name}: open": 1 for name in names}
    again = campaign.Campaign(port, timeout=0.2, slack=0.2, seed=0)
    again.run(until=0.0)  # nobody listens any more
    assert again.faults.keys() >= {"silent: RefusedError"}


def test_a_wrong_and_a_late_answer_are_seen(monkeypatch):
    monkeypatch.setattr(campaign, "CASES", {"large body": CASES["large body"]})

    def answer(listening, status):
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 %d x\r\n\r\n" % status)

    for status, slack, fault in ((500, 60.0, "large body: 500"), (413, 0.0, "after more than 0 s")):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=answer, args=(listening, status), daemon=True)
            thread.start()
            port = listening.getsockname()[1]
            attack = campaign.Campaign(port, timeout=5.0, slack=slack, seed=0)
            attack.run(until=0.0)
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
        assert [fault in each for each in attack.faults] == [True]


def test_a_connection_that_makes_room_counts_no_more_at_once():
    # asyncio tells of its end a turn later; who asks meanwhile would be answered 503.
    from bench.soak.jobs import example

    dropped = object.__new__(example().Connection)
    dropped.connections, dropped.transport = {dropped}, Mock()
    dropped.drop()
    assert dropped.connections == set()
    dropped.transport.abort.assert_called_once_with()
