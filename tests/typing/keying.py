"""Classes with `by=`, and the types that both checkers infer for them and their instances. Checked, never run."""

from typing import Any, assert_type

from msgspec import Struct

from flowmesh import (
    Actor,
    ClassActor,
    Context,
    InstanceHandle,
    InstanceStatistics,
    KeyedActor,
    Machine,
    Mesh,
    Receipt,
    Request,
    Restart,
    on,
)


class Deposit(Struct, frozen=True):
    account: str
    cents: int


class GetBalance(Struct, Request[int], frozen=True):
    account: str


class Account:
    @on
    async def deposit(self, message: Deposit) -> None: ...

    @on
    async def get_balance(self, message: GetBalance) -> int:
        return 0


def account_of(message: Deposit | GetBalance) -> str:
    return message.account


mesh = Mesh("bank")

accounts = mesh.actor(Account, by=account_of, idle=60.0, max_active=1000, concurrency=8, restart=Restart())
assert_type(accounts, KeyedActor[Account, str])
assert_type(accounts.handler(Account.get_balance), Actor[GetBalance, int])
one: ClassActor[Account] = accounts

keyed = mesh.actor(by=account_of, idle=60.0)
assert_type(keyed(Account), KeyedActor[Account, str])


@keyed
async def note(message: Deposit) -> None: ...


assert_type(note, Actor[Deposit, None])


class Safe(Machine, initial="shut"):
    @on("shut", to="open")
    async def deposit(self, message: Deposit) -> None: ...

    @on("open", postpone="shut")
    async def get_balance(self, message: GetBalance) -> int:
        return 0


safes = mesh.actor(Safe, by=account_of, idle=60.0)
assert_type(safes, KeyedActor[Safe, str])
assert_type(safes.handler(Safe.get_balance), Actor[GetBalance, int])


async def talk(ctx: Context) -> None:
    ann = accounts.at("ann")
    assert_type(ann, InstanceHandle)
    assert_type(ann.name, str)
    assert_type(await ann.tell(Deposit("ann", 1), delay=1.0), Receipt)
    assert_type(ann.tell_nowait(Deposit("ann", 1)), Receipt)
    assert_type(await ann.ask(GetBalance("ann")), int)
    assert_type(await accounts.ask(GetBalance("ann"), timeout=None), int)
    answer: Any = await ann.ask(Deposit("ann", 1))
    del answer
    ctx.tell(ann, Deposit("ann", 1))
    assert_type(mesh.statistics().actors["Account"].instances, InstanceStatistics | None)


def refused() -> None:
    accounts.at(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.actor(Account, by=account_of, idle="60")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    one.at("ann")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
