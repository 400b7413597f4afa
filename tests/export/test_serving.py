"""examples/serve.py, as a process, asked over HTTP."""

import gc
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pdrec_fast as pf

pytest.importorskip("fastapi", reason="pip install 'pdrec_fast[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'pdrec_fast[serve]'")
ROOT = Path(__file__).resolve().parents[2]
DATA = pf.synthetic(n_users=60, n_items=50, seed=2)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Client:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path, body=None):
        """(status, JSON) of a POST of ``body``, or of a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def recommend(self, history, **options):
        status, answer = self.get("/recommend", {"history": history, **options})
        assert status == 200, answer
        return answer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    settings = {"modules": (), "epochs": 2, "loss": "shared_softmax", "lr": 0.02}
    model = pf.PDRec("sasrec", encoder_options={"width": 8, "blocks": 1}, **settings)
    model.path = tmp_path_factory.mktemp("serving") / "model"
    model.fit(DATA, progress=False).save(model.path)
    return model


def start(model):
    port = free_port()
    # Long enough that requests that are sent together come together.
    options = ["--port", str(port), "--batch-size", "16", "--wait-ms", "60", "--threads", "1"]
    script = str(ROOT / "examples" / "serve.py")
    process = subprocess.Popen(
        [sys.executable, script, str(model.path), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client, deadline = Client(port), time.monotonic() + 90
    while True:
        try:
            assert client.get("/health")[0] == 200
            return process, client
        except urllib.error.URLError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the service did not start: {process.communicate()[0]}")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def client(model):
    process, client = start(model)
    yield client
    process.kill()
    process.wait()


def history_of(user):
    return DATA.item_ids[DATA.items[DATA.indptr[user] : DATA.indptr[user + 1]]].tolist()


def test_requests_together_get_the_items_of_recommend_in_few_batches(model, client):
    before = client.get("/health")[1]
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda u: client.recommend(history_of(u), k=5), range(60)))
    wanted, scores = model.recommend(DATA.user_ids, k=5)
    for answer, items, theirs in zip(answers, wanted, scores, strict=True):
        there = theirs > -np.inf
        assert [item["item"] for item in answer["items"]] == items[there].tolist()
        got = [item["score"] for item in answer["items"]]
        np.testing.assert_allclose(got, theirs[there], rtol=1e-4, atol=1e-5)
        assert answer["unknown"] == 0
    after = client.get("/health")[1]
    assert after["requests"] - before["requests"] == 60
    assert after["batches"] - before["batches"] < 40
    assert (after["waiting"], after["items"]) == (0, 50)


def test_filters_of_every_request_are_its_own(client):
    history = history_of(0)
    best = [item["item"] for item in client.recommend(history, k=50)["items"]]
    assert len(best) == 50 - len(set(history))
    with ThreadPoolExecutor(5) as pool:
        asked = [
            {"exclude": best[:2]},
            {"allow": best[5:8]},
            {"allow": [*best[5:8], 10**9], "exclude": [best[5]]},
            {"filter_seen": False},
            {},
        ]
        found = list(pool.map(lambda o: client.recommend(history, k=50, **o), asked))
    items = [[item["item"] for item in answer["items"]] for answer in found]
    assert items[0] == best[2:]
    assert items[1] == best[5:8]
    assert items[2] == best[6:8]
    assert [item for item in items[3] if item not in history] == best
    assert len(items[3]) == 50
    assert items[4] == best


def test_unknown_items_are_counted_and_times_are_read(client):
    history = history_of(1)
    plain = client.recommend(history)
    mixed = client.recommend([*history, "nobody's", 10**9])
    assert (mixed["unknown"], mixed["items"]) == (2, plain["items"])
    times = list(range(len(history)))
    assert client.recommend(history, times=times)["items"] == plain["items"]
    unknown = client.recommend(["nobody's"], k=4)  # gets what is popular
    counts = np.bincount(DATA.items, minlength=50)[
        DATA.item_index([item["item"] for item in unknown["items"]])
    ]
    assert counts.tolist() == np.sort(np.bincount(DATA.items))[::-1][:4].tolist()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"history": []}, "at least 1"),
        ({"history": [1.5]}, "integer"),
        ({"history": [1], "k": 0}, "greater than or equal to 1"),
        ({"history": [1], "top": 3}, "not permitted"),
        ({"history": [1, 2], "times": [1.0]}, "times has 1 values for 2 items"),
        ({"history": [1, 2], "times": [2.0, 1.0]}, "ascending"),
        ({"history": [1], "times": [float("nan")]}, "less than 9007199254740992"),
        ({"history": [1], "times": [10**400]}, "valid"),
        ({"history": [1], "times": [2**63]}, "less than 9223372036854775808"),
        ({"history": [True]}, "integer"),
        ({"history": [1], "k": "3"}, "integer"),
        ({"history": [1], "\ud800": 3}, "unicode"),
        ({}, "required"),
    ],
)
def test_bad_input_is_a_client_error_that_says_why(client, body, why):
    status, answer = client.get("/recommend", body)
    assert status == 422
    assert why in json.dumps(answer)
    assert client.get("/health")[0] == 200


def test_a_refusal_does_not_send_the_input_back(client):
    status, answer = client.get("/recommend", {"history": [["private"]] * 5000, "x" * 5000: 1})
    assert status == 422
    text = json.dumps(answer)
    assert "private" not in text
    assert len(text) < 5000
    assert answer["detail"][0]["loc"][:2] == ["body", "history"]
    assert "valid integer" in answer["detail"][0]["msg"]


def test_times_in_nanoseconds_are_kept_exactly(client):
    now = 1_796_000_000_000_000_000
    assert client.recommend([1, 2], times=[now, now + 1])["items"]


@pytest.mark.parametrize(
    "option",
    ["--batch-size=0", "--wait-ms=-1", "--threads=0", "--timeout=0", "--connections=0"],
)
def test_options_out_of_range_are_refused_at_once(option):
    script = str(ROOT / "examples" / "serve.py")
    done = subprocess.run(
        [sys.executable, script, "nowhere", option], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    name, value = option.split("=")
    assert f"error: {name} must " in done.stderr
    assert f"got {float(value):g}" in done.stderr.replace("-1.0", "-1")


def test_on_sigterm_waiting_requests_are_answered(model):
    process, client = start(model)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.recommend, history_of(user), k=3) for user in range(8)]
        deadline = time.monotonic() + 10
        while client.get("/health")[1]["waiting"] == 0 and time.monotonic() < deadline:
            if all(answer.done() for answer in answers):
                break
        process.send_signal(signal.SIGTERM)
        assert all(len(answer.result()["items"]) == 3 for answer in answers)
    process.communicate(timeout=30)
    assert process.returncode == 0
    with pytest.raises(urllib.error.URLError):
        client.get("/health")


def test_an_application_that_goes_lets_go_of_its_model(model):
    spec = importlib.util.spec_from_file_location("serve", ROOT / "examples" / "serve.py")
    module = sys.modules["serve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    served = pf.PDRec.load(model.path)
    app, alive = module.make_app(served), weakref.ref(served)
    del served
    assert alive() is not None
    del app
    gc.collect()
    assert alive() is None
