"""Networks and services that misbehave: what lies between a store and its server in the tests of faults."""

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class FaultyDynamoDB:
    """A proxy before a DynamoDB server. `fault` names what goes wrong with a share `rate` of requests, or of items."""

    def __init__(self, endpoint: str) -> None:
        self.fault = ""
        self.rate = 0.0
        self.seen: Counter[str] = Counter()  # faults that happened
        self._target = urlsplit(endpoint).netloc
        self._random = random.Random(0)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy._handle(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _happens(self) -> bool:
        happened = bool(self.fault) and self._random.random() < self.rate
        self.seen[self.fault] += happened
        return happened

    def _handle(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        content = json.loads(body)
        if self.fault == "throttled" and self._happens():
            name = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
            return self._answer(request, 400, {"__type": name, "message": "slow down"})
        kept: dict[str, Any] = {}
        if self.fault == "unprocessed" and operation in ("BatchWriteItem", "BatchGetItem"):
            kept = self._keep_back(content)
            if not any(self._listed(each) for each in content["RequestItems"].values()):
                names = {"BatchWriteItem": "UnprocessedItems", "BatchGetItem": "UnprocessedKeys"}
                return self._answer(request, 200, {"Responses": {}, names[operation]: kept})
        if self.fault == "reordered" and "RequestItems" in content:
            for each in content["RequestItems"].values():
                self._random.shuffle(self._listed(each))
                self.seen["reordered"] += 1
        if self.fault == "duplicated" and self._happens():
            self._forward(request, content)
        status, answer = self._forward(request, content)
        if self.fault == "lost" and self._happens():
            request.close_connection = True  # done, but nobody hears of it
            return None
        if kept:
            answer["UnprocessedItems" if operation == "BatchWriteItem" else "UnprocessedKeys"] = kept
        return self._answer(request, status, answer)

    @staticmethod
    def _listed(requests: Any) -> list[Any]:
        return requests if isinstance(requests, list) else requests["Keys"]

    def _keep_back(self, content: dict[str, Any]) -> dict[str, Any]:
        """Take a share of a batch's items out, and return them as the service does."""
        kept = {}
        for table, requests in content["RequestItems"].items():
            back = [item for item in self._listed(requests) if self._happens()]
            for item in back:
                self._listed(requests).remove(item)
            if back:
                kept[table] = back if isinstance(requests, list) else requests | {"Keys": back}
        return kept

    def _forward(self, request: BaseHTTPRequestHandler, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self._target)
        passed = ("X-Amz-Target", "Content-Type", "Authorization", "X-Amz-Date")
        headers = {name: request.headers[name] for name in passed}
        connection.request("POST", "/", json.dumps(content).encode(), headers)
        answer = connection.getresponse()
        status, body = answer.status, json.loads(answer.read())
        connection.close()
        return status, body

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/x-amz-json-1.0")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


class FaultyNetwork:
    """A TCP proxy. A share `rate` of what clients send meets `fault`:

    `refused`: the connection breaks and nothing arrives. `lost`: it arrives and is done, and the connection breaks
    before the answer. `stalled`: it arrives, and the answer comes when nobody waits for it any more.
    """

    def __init__(self, port: int) -> None:
        self.fault = ""
        self.rate = 0.0
        self.seen: Counter[str] = Counter()
        self._target = port
        self._random = random.Random(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if not (self.fault and self._random.random() < self.rate):
                    server.sendall(data)
                    continue
                self.seen[self.fault] += 1
                if self.fault == "refused":
                    return
                if self.fault == "lost":
                    client.shutdown(socket.SHUT_WR)  # so that no answer goes back
                server.sendall(data)
                time.sleep(0.05 if self.fault == "lost" else 0.5)
                return

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
