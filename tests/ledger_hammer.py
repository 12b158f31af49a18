"""Two processes that hammer one account of a shared store at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

__all__ = ["hammered"]

HAMMER = textwrap.dedent(
    """
    import asyncio, json, random, sys
    from pathlib import Path
    from negotiator.order import Reservation
    from negotiator.store import Hold
    from negotiator.store_redis import RedisStore

    T0 = 1_795_500_000_000
    async def main():
        url, rows, name = sys.argv[1:]
        draw = random.Random(name)
        store = await RedisStore.open(url, rows=Path(rows), rng=draw)
        posted, refused = [], 0
        async def buyer(number):
            nonlocal refused
            for turn in range(15):
                hold = Hold(reservation_id=f"{name}-{number}-{turn}", order_id=f"{name}-{number}-{turn}",
                            account="team", hold_nusd=draw.randrange(1, 60), hold_ms=60_000)
                outcome = await store.reserve(hold, T0)
                if not isinstance(outcome, Reservation):
                    refused += 1
                    continue
                await store.begin(outcome.reservation_id, T0, 1_000)
                if draw.random() < 0.2:
                    await store.void(outcome.reservation_id, T0)
                else:
                    bill = draw.randrange(0, hold.hold_nusd + 1)
                    await store.post(outcome.reservation_id, bill, T0)
                    posted.append(bill)
        await asyncio.gather(*(buyer(number) for number in range(40)), sweeping(store))
        print(json.dumps({"posted": sum(posted), "refused": refused}))
        await store.aclose()

    async def sweeping(store):
        for _ in range(10):
            await store.sweep(T0)
            await asyncio.sleep(0.01)

    asyncio.run(main())
    """
)


def hammered(url: str, rows: Path) -> list[dict[str, int]]:
    """Two processes on one account at the same time; what each says it did."""
    words = [[sys.executable, "-c", HAMMER, url, str(rows), name] for name in ("p1", "p2")]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in words]
    reports = []
    for process in running:
        with process:
            assert process.stdout is not None
            reports.append(json.loads(process.stdout.read()))
        assert process.returncode == 0
    return reports
