"""A report on every working day at nine, in the office's own time, and what its schedule knows about each of them.

`mesh.cron` takes a line of five fields and a zone. `upcoming` tells the due times without running anything; `ctx.fire` says in
the handler when the report was due, how many were missed, and how the one before ended.

    python examples/cron_report.py
"""

from datetime import UTC, datetime

import anyio

from flowmesh import Context, Mesh

mesh = Mesh("office")
sold: list[int] = []


@mesh.actor
async def sell(price: int) -> None:
    sold.append(price)


@mesh.actor
async def report(_: None, ctx: Context) -> None:
    assert ctx.fire is not None
    day = "today" if ctx.fire.scheduled.date() == ctx.fire.fired.date() else "late"
    print(f"report ({day}, the one before: {ctx.fire.previous}): {len(sold)} sold for {sum(sold)}")
    sold.clear()


daily = mesh.cron("0 9 * * mon-fri", report, tz="Europe/Berlin", catchup="latest", within=3600)


async def main() -> None:
    # Clocks go ahead on the Sunday in between: nine o'clock is an hour earlier for the rest of the world.
    friday = datetime(2026, 3, 27, tzinfo=UTC)
    for due in daily.upcoming(2, after=friday):
        print(f"{due:%a %d %b %H:%M %Z} is {due.astimezone(UTC):%H:%M} UTC")
    async with mesh:
        for price in (12, 30):
            await sell.tell(price)
        await mesh.idle()
        daily.trigger_now()  # we do not want to wait until nine
        await mesh.idle()
        daily.trigger_now()
        await mesh.idle()
        numbers = mesh.statistics().schedules["report"]
        print(f"{numbers.fired} fired, {numbers.skipped} skipped, {numbers.missed} missed")


if __name__ == "__main__":
    anyio.run(main)
