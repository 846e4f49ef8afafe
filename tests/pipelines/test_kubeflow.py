"""The one client of Kubeflow Pipelines, against a server that does everything a server can do wrong."""

import socket
import threading
import time
from pathlib import Path

import pytest

from limaml.errors import ConfigError, KubeflowError
from pipelines import kubeflow as kf
from pipelines import kubeflow_errors
from pipelines.kubeflow import Access, connect
from pipelines.kubeflow_errors import Refusal
from tests.pipelines.fake_kubeflow import FakeKubeflow

pytestmark = pytest.mark.usefixtures("nothing_around")


def _list(kubeflow: kf.Kubeflow) -> list[str]:
    found = kubeflow.each("list pipelines", kubeflow.pipelines.pipeline_service_list_pipelines, "pipelines")
    return [each["display_name"] for each in found]


def _experiment(kubeflow: kf.Kubeflow) -> None:
    body = kf.kfp_server_api.V2beta1Experiment(display_name="ptap")
    kubeflow.call(
        "create an experiment",
        kubeflow.experiments.experiment_service_create_experiment,
        safe=False,
        patience=2,
        experiment=body,
    )


def test_a_listing_is_read_to_its_last_page(server: FakeKubeflow) -> None:
    for number in range(5):
        server.add("pipelines", display_name=f"p{number}")
    assert _list(connect(Access(server.host))) == [f"p{number}" for number in range(5)]


def test_a_listing_that_goes_round_in_circles_ends(server: FakeKubeflow) -> None:
    server.add("pipelines", display_name="p")
    server.fault("GET", "/pipelines$", status=200, body='{"pipelines": [], "next_page_token": "7"}', times=0)
    with pytest.raises(KubeflowError, match="comes back to a page"):
        _list(connect(Access(server.host)))


@pytest.mark.parametrize(
    ("version", "good"),
    [("2.15.2", False), ("1.8.5", False), ("2.16.0", True), ("v3.0.1-rc.1", True), ("unknown", True), ("", True)],
)
def test_a_version_that_is_too_old_is_refused(server: FakeKubeflow, version: str, good: bool) -> None:
    server.version = version
    if good:
        assert connect(Access(server.host)).version == version
        return
    with pytest.raises(KubeflowError, match=rf"{version}, 2.16 or newer is needed.*upgrade"):
        connect(Access(server.host))


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, '{"message": "no identity"}', "unauthorized: no identity; give a valid token"),
        (403, '{"message": "no list for runs"}', "forbidden: no list for runs; give this account the role"),
        (404, '{"message": "pipeline x not found"}', "not found: pipeline x not found"),
        (400, '{"message": "bad filter"}', "refuses with 400: bad filter"),
        (500, '{"message": "database is gone"}', "fails with 500: database is gone; look at the log"),
        (
            400,
            '{"code": 3, "message": "Failed to do: Invalid input error: no such thing: colour", "details": '
            '[{"@type": "type.googleapis.com/google.rpc.Status", "code": 3, "message": "no such thing: colour"}]}',
            "refuses with 400: no such thing: colour; correct",
        ),
        (
            500,
            '{"code": 13, "message": "InternalServerError: PipelineVersion 7 not found", "details": '
            '[{"@type": "type.googleapis.com/google.rpc.Status", "code": 13, "message": "Internal Server Error"}]}',
            "fails with 500: InternalServerError: PipelineVersion 7 not found; look at the log",
        ),
        (302, "", "a log-in page"),
        (503, "<html><b>upstream</b> connect error</html>", "fails with 503: upstream connect error"),
    ],
)
def test_every_refusal_says_what_to_do(server: FakeKubeflow, status: int, body: str, says: str) -> None:
    kubeflow = connect(Access(server.host))
    server.fault("GET", "/pipelines$", status=status, body=body, headers={"Location": "/dex/auth"}, times=0)
    with pytest.raises(Refusal, match=says) as caught:
        _list(kubeflow)
    assert caught.value.status == status
    assert server.host in str(caught.value)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404, "body": "404 page not found"},
        {"status": 200, "body": "<html>Grafana</html>"},
        {"status": 200, "body": "[1, 2]"},
    ],
)
def test_something_else_behind_the_endpoint_is_recognized(server: FakeKubeflow, fault: dict) -> None:
    server.fault("GET", "healthz", **fault, times=0)
    with pytest.raises(KubeflowError, match=r"something else answers.*give the URL"):
        connect(Access(server.host))


def test_a_page_of_html_instead_of_a_listing_is_an_error_not_an_empty_answer(server: FakeKubeflow) -> None:
    kubeflow = connect(Access(server.host))
    server.fault("GET", "/pipelines$", status=200, body="<html>next_page_token pipelines</html>", times=0)
    with pytest.raises(KubeflowError, match="something else answers"):
        _list(kubeflow)


def test_what_fails_for_a_moment_is_asked_again(server: FakeKubeflow) -> None:
    kubeflow = connect(Access(server.host))
    server.add("pipelines", display_name="p")
    server.fault("GET", "/pipelines$", status=503)
    server.fault("GET", "/pipelines$", cut=True)
    assert _list(kubeflow) == ["p"]
    assert len(server.asked("GET", "/pipelines$")) == 3


def test_what_was_sent_is_not_sent_twice_unless_that_is_safe(server: FakeKubeflow) -> None:
    kubeflow = connect(Access(server.host))
    server.fault("POST", "/experiments$", cut=True, after=True)
    with pytest.raises(KubeflowError, match="whether it was done is not known"):
        _experiment(kubeflow)
    assert len(server.asked("POST", "/experiments$")) == 1
    assert len(server.items("experiments")) == 1


def test_a_server_that_never_answers_is_an_error_not_a_hang(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow = connect(Access(server.host))
    monkeypatch.setattr(kubeflow_errors, "ANSWER_SECONDS", 1)
    server.fault("GET", "/pipelines$", seconds=2, times=0)
    start = time.monotonic()
    with pytest.raises(KubeflowError, match="no answer within 1 s"):
        _list(kubeflow)
    assert time.monotonic() - start < 20


def test_nobody_there_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(KubeflowError, match=f"127.0.0.1:{port}: can't reach it: nothing listens there; check --host"):
        connect(Access(f"http://127.0.0.1:{port}"))
    assert time.monotonic() - start < 20


def test_a_host_that_does_not_exist_and_plain_http_behind_https(server: FakeKubeflow) -> None:
    with pytest.raises(KubeflowError, match="there is no such host"):
        connect(Access("http://kubeflow.invalid"))
    with pytest.raises(KubeflowError, match=r"certificate|connection was lost"):
        connect(Access(server.host.replace("http:", "https:")))


@pytest.mark.parametrize(
    ("access", "says"),
    [
        (Access(), "where is Kubeflow Pipelines"),
        (Access("localhost:8888"), "begins with http"),
        (Access("https://me:secret@kubeflow.example.com"), "//…@kubeflow.example.com': give a URL"),
        (Access("http://x", token_variable="NOT_SET_ANYWHERE"), "empty or not set"),
        (Access("http://x", ca="/no/such/file"), "no such file"),
    ],
)
def test_arguments_are_checked_before_anything_is_asked(access: Access, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        connect(access)


def test_tokens_come_from_a_variable_or_are_read_anew_from_the_pods_file(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = "one"
    with pytest.raises(Refusal, match="unauthorized"):
        _list(connect(Access(server.host)))
    monkeypatch.setenv("MINE", "one")
    assert _list(connect(Access(server.host, token_variable="MINE"))) == []
    file = tmp_path / "token"
    file.write_text("one")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    kubeflow = connect(Access(server.host))
    assert _list(kubeflow) == []
    server.token = "two"
    file.write_text("two")
    assert _list(kubeflow) == []
    file.unlink()
    with pytest.raises(KubeflowError, match="token can't be read"):
        _list(kubeflow)


def test_a_namespace_is_asked_for_where_there_are_teams_and_only_there(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert connect(Access(server.host, namespace="team-a")).namespace is None
    server.multi_user = True
    with pytest.raises(ConfigError, match="--kfp-namespace"):
        connect(Access(server.host))
    assert connect(Access(server.host, namespace="team-a")).namespace == "team-a"
    monkeypatch.setattr(kf, "POD_ACCOUNT", tmp_path)
    (tmp_path / "namespace").write_text("team-b\n")
    assert connect(Access(server.host)).namespace == "team-b"
    assert Access().endpoint() == kf.IN_CLUSTER


def test_connecting_writes_nothing_and_prints_nothing(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    connect(Access(server.host))
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "home").exists()


def test_threads_may_share_a_connection(server: FakeKubeflow) -> None:
    for number in range(3):
        server.add("pipelines", display_name=f"p{number}")
    kubeflow, found = connect(Access(server.host)), []
    threads = [threading.Thread(target=lambda: found.append(len(_list(kubeflow)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 8
