"""What the scorer counts: KServe's names for a request's steps, and `limaml_` ones for what only this scorer knows."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# Scores take tens of microseconds to milliseconds, and a deadline ends what takes longer.
BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counters of one worker; `text` adds up all workers' where `PROMETHEUS_MULTIPROC_DIR` says where they meet."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self.preprocess = self._seconds("request_preprocess_seconds", "reading and encoding a request")
        self.predict = self._seconds("request_predict_seconds", "reading embeddings and scoring")
        self.postprocess = self._seconds("request_postprocess_seconds", "writing the answer")
        self.requests = self._counter("limaml_requests", "requests by path and HTTP status", "path", "status")
        self.seconds = self._histogram("limaml_request_seconds", "a request from its head to its answer", "path")
        self.candidates = self._counter("limaml_candidates", "scored candidates by reason code", "reason")
        self.degraded = self._counter("limaml_degraded_answers", "answers without the store", "store")
        self.exposures = self._counter("limaml_exposures", "rows of the exposure log by what became of them", "outcome")
        self.swaps = self._counter("limaml_swaps", "changes of release, by how they ended", "result")
        self.in_flight = self._gauge("limaml_in_flight_requests", "requests under way", "livesum")
        self.breaker = self._gauge("limaml_store_breaker_open", "whether the store is being left alone", "livemax")
        self.release = self._gauge("limaml_release_number", "release being served", "livemin")
        self.release_age = self._gauge("limaml_release_age_seconds", "since the cutoff of its events", "livemax")
        self.ready = self._gauge("limaml_ready", "whether a release is loaded and checked", "livemin")

    def _seconds(self, name: str, what: str) -> Histogram:
        return self._histogram(name, what, "model_name").labels(self._model)

    def _histogram(self, name: str, what: str, *labels: str) -> Histogram:
        return Histogram(name, what, labels, buckets=BUCKETS, registry=self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _gauge(self, name: str, what: str, of_workers: str) -> Gauge:
        return Gauge(name, what, registry=self._registry, multiprocess_mode=of_workers)  # type: ignore[arg-type]

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
