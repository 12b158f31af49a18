"""Vendors' batch endpoints on a local server, in the shapes their references show; what goes wrong is told beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from vendor_playback import vendor_at

from negotiator import batch_errand, batch_vendor
from providers import batch_single
from providers.base import ModelSettings, ProviderSettings
from providers.clock import Clock, SystemClock
from providers.http_sellers import http_seller
from providers.terms import RateLimit
from providers.vendor import VendorSeller

__all__ = ["MODELS", "BatchVendor", "batch_seller", "hurry"]

MODELS = {
    "openai": "gpt-6-luna",
    "groq": "openai/gpt-oss-20b",
    "mistral": "mistral-small-2603",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-3.8-flash",
}

KEY = "key-that-nobody-sees"


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask in milliseconds how a batch stands: waits of real vendors' size would make tests last for hours."""
    monkeypatch.setattr(batch_single, "SHORTEST_POLL_MS", 2)
    monkeypatch.setattr(batch_single, "LONGEST_POLL_MS", 20)
    monkeypatch.setattr(batch_vendor, "SUBMIT_AGAIN_MS", (2, 5))
    monkeypatch.setattr(batch_errand, "LOOK_AFTER_MS", (2, 5))
    monkeypatch.setattr("negotiator.batches.ROUND_WAIT_MS", 5)


def batch_seller(
    base_url: str,
    kind: str,
    clock: Clock | None = None,
    limits: Sequence[RateLimit] = (),
    **more: Any,
) -> VendorSeller:
    """A real seller of one model in the standard and the batch tier."""
    settings = ProviderSettings(
        kind=kind,
        name="shop",
        base_url=base_url,
        api_key_env=("KEY",),
        tiers=("standard", "batch"),
        models=(ModelSettings(name=MODELS[kind]),),
        limits=tuple(limits),
        **more,
    )
    return http_seller(settings, clock or SystemClock(), {"KEY": KEY})


@dataclass
class _Batch:
    lines: list[dict[str, Any]]
    name: str
    made: datetime
    looks: int = 0
    state: str = "running"


@dataclass
class BatchVendor:
    """One vendor, by the kind of its preset.

    fates: by a word of a line's prompt what becomes of it: ``error``, ``expired``, ``missing``; others are answered.
    ends_after: times it is asked until a batch has ended. ends_as: ``done``, ``expired``, ``failed``. create: what
    happens to a request that starts a batch: ``ok``, ``cut`` (taken, and the connection cut), ``lost`` (not taken, and
    the connection cut), ``refused``, ``unclear`` (500, not taken). down: everything answers 503.
    """

    kind: str
    fates: Mapping[str, str] = field(default_factory=dict)
    ends_after: int = 1
    ends_as: str = "done"
    create: str = "ok"
    down: bool = False
    torn: int = 0
    batches: dict[str, _Batch] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    chats: int = 0
    keys: set[str] = field(default_factory=set)

    def at(self) -> AbstractAsyncContextManager[str]:
        """Serve; gives the base URL."""
        return vendor_at(self._handle)

    @property
    def answered(self) -> list[str]:
        """The prompts of all batches' lines, as often as they were handed in."""
        return [self._prompt(line) for batch in self.batches.values() for line in batch.lines]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        self.calls.append(f"{request.method} {path}")
        headers = request.headers
        self.keys.add(
            headers.get("x-api-key")
            or headers.get("x-goog-api-key")
            or headers.get("authorization", "").removeprefix("Bearer ")
        )
        if self.down:
            return _json({"error": {"type": "api_error", "message": "down"}}, 503)
        data = await request.read()
        if path in ("/chat/completions", "/embeddings", "/messages") or path.endswith(":generateContent"):
            self.chats += 1
            return _json(self._answer(json.loads(data), "now"))
        shape = {"anthropic": self._anthropic, "gemini": self._gemini, "mistral": self._mistral}
        return await shape.get(self.kind, self._openai)(request, path, data)

    async def _started(self, request: web.Request, lines: list[dict[str, Any]], name: str) -> str | None:
        """The id of a batch that was handed in; None = the connection is cut."""
        batch_id = f"batch-{len(self.batches) + 1}"
        if self.create in ("ok", "cut"):
            self.batches[batch_id] = _Batch(lines, name, datetime.now(UTC))
        if self.create in ("cut", "lost"):
            assert request.transport is not None
            request.transport.abort()
            return None
        return batch_id

    def _looked(self, batch_id: str) -> _Batch | None:
        batch = self.batches.get(batch_id)
        if batch is not None:
            batch.looks += 1
            if batch.looks >= self.ends_after and batch.state == "running":
                batch.state = self.ends_as
        return batch

    # What each vendor says ----------------------------------------------------------------------------------------

    async def _openai(self, request: web.Request, path: str, data: bytes) -> web.StreamResponse:
        if path == "/files":
            return _json(self._file(data))
        if path.startswith("/files/"):
            return await self._content(request, self.files[path.split("/")[2]])
        if path == "/batches" and request.method == "GET":
            rows = [self._openai_batch(batch_id) for batch_id in self.batches]
            return _json({"object": "list", "data": rows, "has_more": False})
        if path == "/batches":
            if self.create in ("refused", "unclear"):
                status = 400 if self.create == "refused" else 500
                return _json({"error": {"message": "no", "type": "invalid_request_error"}}, status)
            asked = json.loads(data)
            lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
            assert (asked["endpoint"], asked["completion_window"]) == (_endpoint(lines), "24h")
            assert all((line["method"], line["url"]) == ("POST", asked["endpoint"]) for line in lines)
            batch_id = await self._started(request, lines, asked["metadata"]["negotiator"])
            return web.Response() if batch_id is None else _json(self._openai_batch(batch_id))
        batch_id = path.split("/")[2]
        if path.endswith("/cancel"):
            self.batches[batch_id].state = "cancelled"
        if self._looked(batch_id) is None:
            return _json({"error": {"message": f"No batch {batch_id}", "type": "invalid_request_error"}}, 404)
        return _json(self._openai_batch(batch_id))

    def _openai_batch(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        words = {"running": "in_progress", "done": "completed"}
        out: dict[str, Any] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "status": words.get(batch.state, batch.state),
            "metadata": {"negotiator": batch.name},
            "request_counts": {"total": len(batch.lines), "completed": 0, "failed": 0},
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
        }
        if batch.state == "failed":
            out["errors"] = {"object": "list", "data": [{"code": "x", "message": "line 1 is no request"}]}
        elif batch.state != "running":
            self._write_results(batch_id, out, "output_file_id", "error_file_id")
        return out

    async def _mistral(self, request: web.Request, path: str, data: bytes) -> web.StreamResponse:
        if path == "/files":
            return _json(self._file(data))
        if path.startswith("/files/"):
            return web.Response(body=self.files[path.split("/")[2]])
        if path == "/batch/jobs" and request.method == "GET":
            rows = [self._mistral_job(batch_id) for batch_id in self.batches]
            return _json({"object": "list", "data": rows, "total": len(rows)})
        if path == "/batch/jobs":
            asked = json.loads(data)
            lines = [json.loads(line) for line in self.files[asked["input_files"][0]].splitlines()]
            assert (asked["endpoint"], asked["model"]) == (_endpoint(lines), MODELS["mistral"])
            assert all("model" not in line["body"] for line in lines)
            batch_id = await self._started(request, lines, asked["metadata"]["negotiator"])
            return web.Response() if batch_id is None else _json(self._mistral_job(batch_id))
        batch_id = path.split("/")[3]
        if path.endswith("/cancel"):
            self.batches[batch_id].state = "cancelled"
        self._looked(batch_id)
        return _json(self._mistral_job(batch_id))

    def _mistral_job(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        words = {"running": "RUNNING", "done": "SUCCESS", "expired": "TIMEOUT_EXCEEDED"}
        out: dict[str, Any] = {
            "id": batch_id,
            "object": "batch",
            "status": words.get(batch.state, batch.state.upper()),
            "metadata": {"negotiator": batch.name},
            "errors": [{"message": "no such model"}] if batch.state == "failed" else [],
            "total_requests": len(batch.lines),
            "output_file": None,
            "error_file": None,
        }
        if batch.state not in ("running", "failed"):
            self._write_results(batch_id, out, "output_file", "error_file")
        return out

    async def _anthropic(self, request: web.Request, path: str, data: bytes) -> web.StreamResponse:
        assert request.headers["anthropic-version"]
        parts = path.split("/")
        if path == "/messages/batches" and request.method == "GET":
            rows = [self._anthropic_batch(batch_id) for batch_id in self.batches]
            return _json({"data": rows, "has_more": False, "first_id": None, "last_id": None})
        if path == "/messages/batches":
            lines = [
                {"custom_id": line["custom_id"], "body": line["params"]}
                for line in json.loads(data)["requests"]
            ]
            batch_id = await self._started(request, lines, "")
            return web.Response() if batch_id is None else _json(self._anthropic_batch(batch_id))
        batch_id = parts[3]
        if path.endswith("/results"):
            batch = self.batches[batch_id]
            results = [self._anthropic_result(batch, line) for line in batch.lines]
            return web.Response(text="\n".join(json.dumps(row) for row in results if row is not None))
        if path.endswith("/cancel"):
            self.batches[batch_id].state = "canceled"
        self._looked(batch_id)
        return _json(self._anthropic_batch(batch_id))

    def _anthropic_batch(self, batch_id: str) -> dict[str, Any]:
        batch, ended = self.batches[batch_id], self.batches[batch_id].state != "running"
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        counts["succeeded" if ended else "processing"] = len(batch.lines)
        return {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": batch.made.isoformat().replace("+00:00", "Z"),
            "results_url": f"http://127.0.0.1:9/{batch_id}" if ended else None,
        }

    def _anthropic_result(self, batch: _Batch, line: dict[str, Any]) -> dict[str, Any] | None:
        fate = self._fate(batch, line)
        result: dict[str, Any]
        if fate == "missing":
            return None
        if fate == "error":
            error = {"type": "invalid_request_error", "message": "too hard"}
            result = {"type": "errored", "error": {"type": "error", "error": error}}
        elif fate in ("expired", "canceled"):
            result = {"type": fate}
        else:
            result = {"type": "succeeded", "message": self._answer(line["body"], "then")}
        return {"custom_id": line["custom_id"], "result": result}

    async def _gemini(self, request: web.Request, path: str, data: bytes) -> web.StreamResponse:
        if path.endswith(":batchGenerateContent"):
            assert path == f"/models/{MODELS['gemini']}:batchGenerateContent"
            asked = json.loads(data)["batch"]
            lines = [
                {"custom_id": line["metadata"]["key"], "body": line["request"]}
                for line in asked["inputConfig"]["requests"]["requests"]
            ]
            batch_id = await self._started(request, lines, asked["displayName"])
            return web.Response() if batch_id is None else _json(self._gemini_batch(batch_id))
        if path == "/batches":
            return _json({"operations": [self._gemini_batch(batch_id) for batch_id in self.batches]})
        batch_id = path.split("/")[2].removesuffix(":cancel")
        if path.endswith(":cancel"):
            self.batches[batch_id].state = "cancelled"
            return _json({})
        self._looked(batch_id)
        return _json(self._gemini_batch(batch_id))

    def _gemini_batch(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        words = {"running": "RUNNING", "done": "SUCCEEDED"}
        out: dict[str, Any] = {
            "name": f"batches/{batch_id}",
            "metadata": {
                "state": f"BATCH_STATE_{words.get(batch.state, batch.state.upper())}",
                "displayName": batch.name,
                "batchStats": {"requestCount": str(len(batch.lines))},
            },
        }
        if batch.state == "failed":
            out |= {"done": True, "error": {"code": 3, "message": "no such model"}}
        elif batch.state != "running":
            rows = []
            for line in batch.lines:
                fate, key = self._fate(batch, line), {"metadata": {"key": line["custom_id"]}}
                if fate == "error":
                    rows.append({"error": {"code": 3, "message": "too hard"}, **key})
                elif fate == "":
                    rows.append({"response": self._answer(line["body"], "then"), **key})
            out |= {"done": True, "response": {"inlinedResponses": {"inlinedResponses": rows}}}
        return out

    # What all have in common --------------------------------------------------------------------------------------

    def _file(self, data: bytes) -> dict[str, Any]:
        head, _, rest = data.partition(b"application/jsonl\r\n\r\n")
        assert b'name="purpose"\r\n\r\nbatch\r\n' in head
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = rest[: rest.rindex(b"\r\n--")]
        return {"id": file_id, "object": "file", "purpose": "batch"}

    async def _content(self, request: web.Request, data: bytes) -> web.StreamResponse:
        if not self.torn:
            return web.Response(body=data)
        self.torn -= 1
        response = web.StreamResponse()
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    def _write_results(self, batch_id: str, out: dict[str, Any], answers: str, errors: str) -> None:
        batch, good, bad = self.batches[batch_id], [], []
        for line in batch.lines:
            row, fate = {"id": "x", "custom_id": line["custom_id"]}, self._fate(batch, line)
            if fate == "error":
                body = {"error": {"message": f"too hard for {KEY}", "type": "invalid_request_error"}}
                bad.append(row | {"response": {"status_code": 400, "body": body}, "error": None})
            elif fate == "expired":
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append(row | {"response": None, "error": error})
            elif fate == "":
                body = self._answer(line["body"], "then")
                good.append(row | {"response": {"status_code": 200, "body": body}, "error": None})
        for key, rows in ((answers, good), (errors, bad)):
            if rows:
                self.files[f"{key}-{batch_id}"] = b"\n".join(json.dumps(row).encode() for row in rows)
                out[key] = f"{key}-{batch_id}"

    def _fate(self, batch: _Batch, line: dict[str, Any]) -> str:
        words = self._prompt(line).split()
        fate = next((self.fates[word] for word in words if word in self.fates), "")
        if batch.state in ("cancelled", "canceled") and not fate:
            return "canceled" if self.kind == "anthropic" else "missing"
        return fate

    def _prompt(self, line: dict[str, Any]) -> str:
        return _text_of(line["body"])

    def _answer(self, body: dict[str, Any], when: str) -> dict[str, Any]:
        text = f"{when}: {_text_of(body)}"
        if self.kind == "anthropic":
            return {
                "type": "message",
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 20, "output_tokens": 5},
            }
        if self.kind == "gemini":
            return {
                "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}],
                "usageMetadata": {
                    "promptTokenCount": 20,
                    "candidatesTokenCount": 5,
                    "totalTokenCount": 25,
                },
            }
        if "input" in body:
            vectors = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            return {"object": "list", "data": vectors, "usage": {"prompt_tokens": 20, "total_tokens": 20}}
        return {
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
        }


def _endpoint(lines: Sequence[Mapping[str, Any]]) -> str:
    """What all lines of a batch ask for."""
    (embeds,) = {"input" in line["body"] for line in lines}
    return "/v1/embeddings" if embeds else "/v1/chat/completions"


def _text_of(body: Mapping[str, Any]) -> str:
    if "contents" in body:
        return str(body["contents"][-1]["parts"][0]["text"])
    if "input" in body:
        return str(body["input"])
    content = body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def _json(body: Any, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)
