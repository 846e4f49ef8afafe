"""New releases under load: every answer is whole, from one release or the other, and none fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from limaml.online.release import rollback
from limaml.online.store import open_store
from limaml.storage import local_path
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import request_of, running, until, with_serve
from tests.limaml.serve.faults import FaultyStore


def test_swaps_under_load(fresh: Served) -> None:
    store = open_store(fresh.url, "small")
    bodies = [orjson.dumps(request_of(fresh, member, 8)) for member in (3, 17, 55)]
    seen: list[tuple[int, int, bytes, tuple]] = []
    failed: list[object] = []
    done = threading.Event()

    # Two engines' answers to one request differ in the last bit.
    with running(with_serve(fresh.application, runtime="onnxruntime"), store) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)

        def ask(number: int) -> None:
            while not done.is_set():
                reply = client.post("/v1/score", bodies[number])
                if reply.status != 200:
                    failed.append(reply)
                    continue
                answer = reply.json
                candidates = orjson.dumps(answer["candidates"])
                pair = (answer["model_version"], answer["generation"], answer["as_of"])
                seen.append((number, answer["release"], candidates, pair))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask, number) for number in range(3)]
            fresh.publish_model("m2")
            for _ in range(8):
                current = store.current()
                assert current is not None
                until(lambda number=current.number: any(each[1] == number for each in seen[-50:]))
                moved = rollback(store) if current.number % 2 == 0 else None
                if moved is None:
                    target = next(each for each in store.releases() if each.model_version == "m2")
                    store.flip(target.model_copy(update={"number": current.number + 1}))
            last = current.number + 1
            until(lambda: any(each[1] == last for each in seen[-50:]))
            done.set()
            for each in asking:
                each.result()
        assert client.metric('limaml_swaps_total{result="done"}') >= 9

    assert failed == []
    releases = {each.number: each for each in store.releases()}
    assert {number for _, number, _, _ in seen} >= set(range(2, last + 1))
    whole: dict[tuple, set[bytes]] = {}
    for member, number, candidates, pair in seen:
        release = releases[number]
        assert pair == (release.model_version, release.generation, release.as_of.isoformat())
        whole.setdefault((member, release.model_version), set()).add(candidates)
    assert len(whole) == 6
    assert all(len(answers) == 1 for answers in whole.values()), "a model's answers are the same each time it serves"
    assert whole[0, "m1"] != whole[0, "m2"]


def test_a_request_under_way_finishes_on_its_release(fresh: Served) -> None:
    store = FaultyStore(open_store(fresh.url, "small"), "redis://far.away:6379/0")
    with running(with_serve(fresh.application, deadline_ms=30_000), store) as client:  # type: ignore[arg-type]
        until(lambda: client.get("/v2/health/ready").status == 200)
        before = client.score(request_of(fresh, 3)).json
        store.hang = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.score, request_of(fresh, 3))
            until(lambda: store.reads > 3)
            held, store.hang = store.hang, None
            fresh.publish_model("m2")
            until(lambda: client.score(request_of(fresh, 3)).json["release"] == 2)
            held.set()
            late = waiting.result().json
        assert (late["release"], late["model_version"], late["candidates"]) == (1, "m1", before["candidates"])


def test_not_ready_until_there_is_a_release_and_then_it_stays(fresh: Served, tmp_path) -> None:
    store = open_store(f"lmdb://{tmp_path}/late", "small")
    with running(with_serve(fresh.application), store) as client:
        until(lambda: client.get("/v2/health/live").status == 200)
        time.sleep(0.2)
        assert client.metric('limaml_swaps_total{result="failed"}') == 0
        for path in ("/v2/health/ready", "/v2/models/small/ready", "/v2/models/small"):
            assert client.get(path).status == 503
        reply = client.score(request_of(fresh, 3))
        assert (reply.status, "no release is loaded yet" in reply.json["error"]) == (503, True)
        fresh.url = f"lmdb://{tmp_path}/late"
        fresh.publish(fresh.chain.model, "late")
        until(lambda: client.get("/v2/health/ready").status == 200)
        assert client.score(request_of(fresh, 3)).json["release"] == 1


def test_ready_without_a_release_where_asked_for_until_there_is_one(fresh: Served, tmp_path) -> None:
    store = open_store(f"lmdb://{tmp_path}/late", "small")
    with running(with_serve(fresh.application, ready_without_release=True), store) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        assert client.get("/v2/models/small/ready").status == 503
        assert client.score(request_of(fresh, 3)).status == 503
        assert client.metric("limaml_ready") == 0
        fresh.url = f"lmdb://{tmp_path}/late"
        fresh.publish(fresh.chain.model, "late")
        until(lambda: client.score(request_of(fresh, 3)).status == 200)
        # What was current and is gone is a fault, not a beginning.
        (tmp_path / "late/small/current.json").rename(tmp_path / "gone.json")
        until(lambda: client.metric('limaml_swaps_total{result="failed"}') >= 1)
        assert client.get("/v2/health/ready").status == 200


def test_a_store_that_cannot_be_read_is_no_store_without_releases(fresh: Served) -> None:
    store = open_store("redis://127.0.0.1:1/0", "small")
    with running(with_serve(fresh.application, ready_without_release=True), store) as client:
        until(lambda: client.metric('limaml_swaps_total{result="failed"}') >= 1)
        assert client.get("/v2/health/ready").status == 503


def test_a_release_that_does_not_check_is_not_served(fresh: Served) -> None:
    store = open_store(fresh.url, "small")
    with running(with_serve(fresh.application), store) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        second = fresh.publish_model("m2")
        until(lambda: client.score(request_of(fresh, 3)).json["release"] == 2)
        weights = local_path(second.model_uri) / "theta.safetensors"
        damaged = bytearray(weights.read_bytes())
        damaged[-1] ^= 1
        rollback(store)
        until(lambda: client.score(request_of(fresh, 3)).json["release"] == 3)
        weights.write_bytes(bytes(damaged))
        store.flip(second.model_copy(update={"number": 4}))
        until(lambda: client.metric('limaml_swaps_total{result="failed"}') >= 1)
        answer = client.score(request_of(fresh, 3)).json
        assert (answer["release"], answer["model_version"]) == (3, "m1")
        assert client.get("/v2/health/ready").status == 200


@pytest.mark.parametrize("audit", [True, False])
def test_rows_that_changed_since_they_were_written(fresh: Served, audit: bool) -> None:
    """A record's bytes, changed on the disk: an audit finds it before anybody is served from it."""
    data = local_path(fresh.url.replace("lmdb", "file")) / "small/generations" / fresh.release.generation / "data.mdb"
    content = data.read_bytes()
    reader = open_store(fresh.url, "small").open(fresh.release.generation)
    vector = reader.get(["3"]).embedding[0].astype("<f2").tobytes()
    reader.close()
    place = content.index(vector)
    data.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with running(with_serve(fresh.application, audit=audit), open_store(fresh.url, "small")) as client:
        if audit:
            until(lambda: client.metric('limaml_swaps_total{result="failed"}') >= 1)
            assert client.get("/v2/health/ready").status == 503
        else:
            until(lambda: client.get("/v2/health/ready").status == 200)
