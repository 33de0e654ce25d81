"""A tracking server in memory that can fail in every way a real one does."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class FakeMlflow:
    """What arrived. ``points`` has every metric as it came, so whatever comes twice is seen.

    ``mode`` is ``work``, ``error`` (answers 500), ``hang`` (never answers) or ``lose`` (does what
    it is asked, and hangs up). ``failures`` are modes of single calls to come, by their endpoint.
    Files go to ``folder``, by the client itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mode = "work"
        self.failures: dict[str, list[str]] = {}
        self.calls: list[str] = []
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.authorisation: set[str | None] = set()
        self.released = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def points(self, key: str = "score") -> list[tuple[int, float]]:
        """Return ``(step, value)`` of a metric, of all runs, in the order of arrival."""
        runs = self.runs.values()
        return [(m["step"], m["value"]) for r in runs for m in r["metrics"] if m["key"] == key]

    @contextlib.contextmanager
    def serving(self, port: int = 0) -> Iterator[FakeMlflow]:
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Own", (_Handler,), {"fake": self}))
        server.daemon_threads = True
        server.block_on_close = False
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, endpoint: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        act = getattr(self, "_" + endpoint.replace("/", "_").replace("-", "_"), None)
        if act is None:
            return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": endpoint}
        return act(asked)  # type: ignore[no-any-return]

    def _experiments_get_by_name(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = asked["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": name}
        found = {"experiment_id": self.experiments[name], "name": name}
        return 200, {"experiment": {**found, "lifecycle_stage": "active"}}

    def _experiments_create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = self.experiments.setdefault(asked["name"], str(len(self.experiments) + 1))
        return 200, {"experiment_id": number}

    def _runs_search(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        wanted = asked["filter"].split("'")[1]
        found = [r for r in self.runs.values() if r["tags"].get("amc.search") == wanted]
        return 200, {"runs": [self._as_run(run) for run in found]}

    def _runs_create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = uuid.uuid4().hex  # MLflow remembers where the files of a run go, by its id
        tags = {tag["key"]: tag["value"] for tag in asked.get("tags", ())}
        name = asked.get("run_name")
        run = {"id": number, "name": name, "experiment_id": asked["experiment_id"], "tags": tags}
        self.runs[number] = {**run, "status": "RUNNING", "metrics": [], "params": {}}
        return 200, {"run": self._as_run(self.runs[number])}

    def _runs_get(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"run": self._as_run(self.runs[asked["run_id"]])}

    def _runs_update(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs[asked["run_id"]]
        run["status"] = asked["status"]
        return 200, {"run_info": self._as_run(run)["info"]}

    def _runs_delete(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        del self.runs[asked["run_id"]]
        return 200, {}

    def _runs_set_tag(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.runs[asked["run_id"]]["tags"][asked["key"]] = asked["value"]
        return 200, {}

    def _runs_log_batch(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs[asked["run_id"]]
        metrics = [{**m, "step": int(m.get("step", 0))} for m in asked.get("metrics", ())]
        run["metrics"] += metrics
        run["params"].update({p["key"]: p["value"] for p in asked.get("params", ())})
        return 200, {}

    def _metrics_get_history(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        metrics = self.runs[asked["run_id"]]["metrics"]
        return 200, {"metrics": [m for m in metrics if m["key"] == asked["metric_key"]]}

    def _as_run(self, run: dict[str, Any]) -> dict[str, Any]:
        uri = (self.folder / run["id"]).as_uri()
        info = {"run_id": run["id"], "experiment_id": run["experiment_id"], "artifact_uri": uri}
        last = {metric["key"]: metric for metric in run["metrics"]}
        return {
            "info": {**info, "status": run["status"], "lifecycle_stage": "active", "start_time": 1},
            "data": {
                "metrics": list(last.values()),
                "params": [{"key": k, "value": v} for k, v in run["params"].items()],
                "tags": [{"key": k, "value": v} for k, v in run["tags"].items()],
            },
        }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeMlflow

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self._serve({key: values[0] for key, values in query.items()})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0)))))

    def _serve(self, asked: dict[str, Any]) -> None:
        fake, endpoint = self.fake, urlsplit(self.path).path.partition("/mlflow/")[2]
        fake.authorisation.add(self.headers.get("Authorization"))
        fake.calls.append(endpoint)
        once = fake.failures.get(endpoint) or [fake.mode]
        mode = once.pop(0) if fake.failures.get(endpoint) else once[0]
        self.close_connection = True
        if mode == "hang":
            fake.released.wait()
        elif mode == "error":
            self._reply(500, {"error_code": "INTERNAL_ERROR", "message": "out of order"})
        else:
            status, answer = fake.answer(endpoint, asked)
            if mode != "lose":
                self._reply(status, answer)

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return
