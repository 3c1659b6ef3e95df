"""A worker process that spends a budget: each line on its standard input is an order, each line out an answer.

spend COUNT COST SECONDS PAY     that many calls at once, each pays after so many seconds: `cost`, `nothing` or `lost`
quit                             close in order
"""

import asyncio
import sys
from pathlib import Path

from gimle.foundation.db import Database
from gimle.foundation.errors import BudgetExceeded
from gimle.gateway.alerts import Alerts
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.spending import Claim


async def call(budgets: Budgets, payer: Payer, cost: int, seconds: float, pay: str) -> int:
    accounts = budgets.of(payer)
    claim = Claim(cost, cost, cost)
    try:
        held = budgets.reserve(accounts, claim, 60) or await budgets.acquire(accounts, claim, 60)
    except BudgetExceeded:
        return 0
    # Written at once: whoever is killed has told of every call that went out.
    print("sent", flush=True)
    await asyncio.sleep(seconds)
    held.settle({"cost": cost, "nothing": 0}.get(pay))
    return 1


async def main(url: str, folder: str, tenant: str) -> None:
    db = await Database.open(url, size=2)
    budgets = Budgets(db, Path(folder), Alerts(None))
    await budgets.open()
    print("ready", flush=True)
    while True:
        what, *rest = (await asyncio.to_thread(sys.stdin.readline)).split()
        if what == "quit":
            break
        count, cost, seconds, pay = rest
        calls = (call(budgets, Payer(tenant), int(cost), float(seconds), pay) for _ in range(int(count)))
        print("done", sum(await asyncio.gather(*calls)), flush=True)
    await budgets.close()
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
