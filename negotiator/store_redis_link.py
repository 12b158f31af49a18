"""How commands reach Redis: what arrives in one turn of the loop travels in one pipeline per node.

A node that fails is left alone for a jittered moment, and meanwhile every command fails at once. No command waits
longer than ``timeout_s`` in the queue and ``timeout_s`` on the wire. Only commands that may run twice are repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final, Protocol

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as SocketTimeout

from .errors import StoreUnavailable

__all__ = ["FAULTS", "Link", "Router", "Script"]

logger = logging.getLogger("negotiator.store")

MAX_BATCH: Final = 500
MAX_RUNNING: Final = 4
"""Pipelines on the way to one node; what comes meanwhile waits for the next."""

MAX_WAITING: Final = 10_000
"""Commands waiting for one node; beyond, a command fails at once."""

FAULTS: Final = (RedisError, RedisClusterException, OSError)
"""What a server that is away raises."""

BACKOFF_S: Final = (0.05, 2.0)
"""The first and the longest pause after a node failed."""


class Script:
    """A Lua script by its digest. files: beside this module, joined in order."""

    def __init__(self, *files: str) -> None:
        package = resources.files(__package__)
        self.text = "".join(package.joinpath(name).read_text(encoding="utf-8") for name in files)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Router(Protocol):
    """Which server has a key."""

    def client_for(self, key: str) -> Redis:
        """The client of the node that has the key; raises RedisError when no node has."""

    def client_at(self, host: str, port: int) -> Redis:
        """The client of a node that another node named."""

    async def refresh(self) -> None:
        """Learn again which node has what."""

    async def aclose(self) -> None:
        """Close all clients."""


@dataclass(slots=True, eq=False)
class _Command:
    key: str
    words: tuple[Any, ...]
    script: Script | None
    again: bool
    due_s: float
    answer: asyncio.Future[Any]

    def in_full(self) -> tuple[Any, ...]:
        """The command with its script's text in place of the digest."""
        return self.words if self.script is None else ("EVAL", self.script.text, *self.words[2:])


@dataclass(slots=True, eq=False)
class _Lane:
    """One node: what waits for it, and how it fares."""

    client: Redis
    waiting: list[_Command] = field(default_factory=list)
    running: int = 0
    failures: int = 0
    down_until_s: float = 0.0
    fault: str = ""


class Link:
    """Commands and scripts to all nodes behind one router."""

    def __init__(self, router: Router, *, timeout_s: float, rng: random.Random) -> None:
        self._router = router
        self._timeout_s = timeout_s
        self._rng = rng
        self._lanes: dict[int, _Lane] = {}
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, key: str, *words: Any, again: bool = True) -> asyncio.Future[Any]:
        """Send a command that uses ``key``; ``again``: it may run twice. The answer raises StoreUnavailable."""
        return self._send(key, words, None, again)

    def script(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], *, again: bool = True
    ) -> asyncio.Future[Any]:
        """Run a script on keys of one slot; ``again``: it may run twice."""
        return self._send(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args), script, again)

    async def aclose(self) -> None:
        """Wait for what is on its way, then close."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=self._timeout_s)
        await self._router.aclose()

    # queue

    def _send(
        self, key: str, words: tuple[Any, ...], script: Script | None, again: bool
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        try:
            client = self._router.client_for(key)
        except FAULTS as error:
            answer.set_exception(StoreUnavailable(f"no server has {key}: {error}"))
            return answer
        lane = self._lanes.get(id(client))
        if lane is None:
            lane = self._lanes[id(client)] = _Lane(client)
        if lane.down_until_s > loop.time() or len(lane.waiting) >= MAX_WAITING:
            answer.set_exception(StoreUnavailable(lane.fault or "too many commands are waiting"))
            return answer
        lane.waiting.append(_Command(key, words, script, again, loop.time() + self._timeout_s, answer))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return answer

    def _flush(self) -> None:
        self._scheduled = False
        for lane in self._lanes.values():
            self._start(lane)

    def _start(self, lane: _Lane) -> None:
        now_s = asyncio.get_running_loop().time()
        while lane.waiting and lane.running < MAX_RUNNING:
            batch, lane.waiting = lane.waiting[:MAX_BATCH], lane.waiting[MAX_BATCH:]
            late = [command for command in batch if command.due_s < now_s]
            _fail(late, "the store is too slow: a command waited too long")
            batch = [command for command in batch if command.due_s >= now_s]
            if batch:
                lane.running += 1
                task = asyncio.get_running_loop().create_task(self._run(lane, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    # wire

    async def _run(self, lane: _Lane, batch: list[_Command]) -> None:
        try:
            await self._exchange(lane, batch)
        except asyncio.CancelledError:
            _fail(batch, "the store is closing")
            raise
        except Exception as error:  # a bug: nobody waits for ever
            logger.exception("a pipeline failed")
            _fail(batch, f"{type(error).__name__}: {error}")
        finally:
            lane.running -= 1
        self._start(lane)

    async def _exchange(self, lane: _Lane, batch: list[_Command]) -> None:
        """Send a batch; what failed on the wire and may run twice goes once more, after a moment."""
        for last in (False, True):
            try:
                async with asyncio.timeout(self._timeout_s):
                    answers = await self._pipeline(lane.client, batch)
            except (*FAULTS, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}".rstrip(": ")
                if last or isinstance(error, (TimeoutError, SocketTimeout)):
                    _fail(batch, fault)
                    self._rest(lane, fault)
                    await self._recover(lane)
                    return
                _fail([command for command in batch if not command.again], fault)
                batch = [command for command in batch if command.again]
                if not batch:
                    return
                await asyncio.sleep(self._rng.uniform(*BACKOFF_S) / 10)
            else:
                lane.failures, lane.fault = 0, ""
                await self._deliver(list(zip(batch, answers, strict=True)))
                return

    def _rest(self, lane: _Lane, fault: str) -> None:
        lane.failures += 1
        longest_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** min(lane.failures, 10))
        lane.down_until_s = asyncio.get_running_loop().time() + self._rng.uniform(BACKOFF_S[0], longest_s)
        lane.fault = fault
        logger.warning("the store does not answer: %s", fault)
        _fail(lane.waiting, fault)
        lane.waiting = []

    async def _pipeline(self, client: Redis, batch: Sequence[_Command]) -> list[Any]:
        answers = await _execute(client, [command.words for command in batch])
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # the whole text teaches the server the script, and cannot be unknown
            again = await _execute(client, [batch[number].in_full() for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        return answers

    async def _recover(self, lane: _Lane) -> None:
        """Let go of a failed node's connections, and ask the others who has its keys now."""
        with suppress(*FAULTS, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await lane.client.connection_pool.disconnect()
                await self._router.refresh()

    async def _deliver(self, answered: list[tuple[_Command, Any]]) -> None:
        moved = [each for each in answered if isinstance(each[1], (AskError, TryAgainError))]
        if moved:
            with suppress(*FAULTS, TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._router.refresh()
        for command, answer in answered:
            if isinstance(answer, (AskError, TryAgainError)):
                answer = await self._follow(command, answer)
            if command.answer.done():
                continue
            if isinstance(answer, Exception):
                logger.error("the store refused %s: %s", command.words[0], answer)
                command.answer.set_exception(StoreUnavailable(f"{type(answer).__name__}: {answer}"))
            else:
                command.answer.set_result(answer)

    async def _follow(self, command: _Command, answer: AskError | TryAgainError) -> Any:
        """Run a command where its key is now; while a slot moves, that is the node it moves to."""
        asking = isinstance(answer, AskError) and not isinstance(answer, MovedError)
        try:
            async with asyncio.timeout(self._timeout_s):
                if isinstance(answer, AskError) and asking:
                    client = self._router.client_at(answer.host, answer.port)
                    return (await _execute(client, [("ASKING",), command.in_full()]))[-1]
                return (await _execute(self._router.client_for(command.key), [command.in_full()]))[-1]
        except (*FAULTS, TimeoutError) as error:
            return error


async def _execute(client: Redis, batch: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands on one connection and read their raw answers; a refusal is an answer.

    Plain reads of packed commands: the client's pipeline object costs twice as much.
    """
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_packed_command([pack_command(words) for words in batch])
        answers: list[Any] = []
        for _ in batch:
            try:
                answers.append(await connection.read_response())
            except ResponseError as refusal:
                answers.append(refusal)
        return answers
    except BaseException:
        await connection.disconnect(nowait=True)  # nobody may read the answers that are still to come
        raise
    finally:
        await pool.release(connection)


def _fail(commands: Sequence[_Command], fault: str) -> None:
    for command in commands:
        if not command.answer.done():
            command.answer.set_exception(StoreUnavailable(fault))
