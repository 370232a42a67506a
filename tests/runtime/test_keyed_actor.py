"""Declaring a class with `by=`, and talking to one of its instances."""

from typing import Any, cast

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    Autoscale,
    Batch,
    Context,
    Debounce,
    KeyedActor,
    MailboxFull,
    MailboxOptions,
    Mesh,
    Part,
    PreconditionFailed,
    Request,
    Restart,
    WrongBody,
    on,
)

pytestmark = pytest.mark.anyio


class Deposit(Struct, frozen=True):
    account: str
    amount: int


class GetBalance(Struct, Request[int], frozen=True):
    account: str


class Account:
    def __init__(self) -> None:
        self.balance = 0

    @on
    async def deposit(self, message: Deposit) -> None:
        self.balance += message.amount

    @on
    async def asked(self, message: GetBalance) -> int:
        return self.balance


def account_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.account)


async def test_one_instance_for_each_value():
    """Each value has a state of its own."""
    mesh = Mesh("bank")
    accounts = mesh.actor(Account, by=account_of)
    async with mesh:
        await accounts.tell(Deposit("ann", 5))
        await accounts.tell(Deposit("bob", 7))
        await accounts.tell(Deposit("ann", 1))
        assert await accounts.ask(GetBalance("ann")) == 6
        assert await accounts.ask(GetBalance("bob")) == 7
        assert await accounts.ask(GetBalance("eve")) == 0
        assert await accounts.handler(Account.asked).ask(GetBalance("bob")) == 7


async def test_a_handle_of_one_instance():
    """`at` gives a name for one instance, whether or not it is there, to tell, ask, and tell without waiting."""
    mesh = Mesh("bank")
    accounts = mesh.actor(Account, by=account_of)
    ann = accounts.at("ann")
    assert ann.name == "Account[ann]"
    assert repr(ann) == "<InstanceHandle 'Account[ann]'>"
    async with mesh:
        assert mesh.statistics().actors["Account"].instances is not None
        receipt = await ann.tell(Deposit("ann", 5))
        assert receipt.routed == 1
        ann.tell_nowait(Deposit("ann", 2))
        assert await ann.ask(GetBalance("ann"), timeout=5.0) == 7


async def test_a_message_for_another_instance():
    """A handle refuses what `by=` says is another one's, and what it has no value for; nothing is sent."""
    mesh = Mesh("bank")

    def by(message: Any) -> str:
        if message.account == "?":
            raise LookupError("no such account")
        return str(message.account)

    accounts = mesh.actor(Account, by=by)
    ann = accounts.at("ann")
    text = r"is for Account\[bob\], not for Account\[ann\]: by= gives 'bob'; tell actor 'Account' itself"
    async with mesh:
        with pytest.raises(ValueError, match=text):
            await ann.tell(Deposit("bob", 5))
        with pytest.raises(ValueError, match=text):
            ann.tell_nowait(Deposit("bob", 5))
        with pytest.raises(ValueError, match=text):
            await ann.ask(GetBalance("bob"))
        with pytest.raises(ValueError, match=r"by= of actor 'Account' gives no value for .*: no such account"):
            await ann.tell(Deposit("?", 5))
        with pytest.raises(WrongBody, match="actor 'Account' takes Deposit or GetBalance, not str"):
            await ann.tell("money")
        assert accounts.mailbox.statistics().entered == 0


async def test_a_full_mailbox_behind_a_handle():
    """A handle waits for room, or refuses to, as its actor does: the mailbox is the actor's."""
    mesh = Mesh("bank")
    accounts = mesh.actor(Account, by=account_of, mailbox=MailboxOptions(capacity=1))
    async with mesh:
        accounts.pause()
        accounts.at("ann").tell_nowait(Deposit("ann", 1))
        with pytest.raises(MailboxFull):
            accounts.at("bob").tell_nowait(Deposit("bob", 1))
        accounts.resume()


async def test_a_handle_in_a_turn():
    """`ctx.tell` takes a handle, and checks the message where it is said."""
    mesh, refused = Mesh("bank"), list[str]()
    accounts = mesh.actor(Account, by=account_of)

    @mesh.actor
    async def pay(amount: int, ctx: Context) -> None:
        ctx.tell(accounts.at("ann"), Deposit("ann", amount))
        try:
            ctx.tell(accounts.at("ann"), Deposit("bob", amount))
        except ValueError as error:
            refused.append(str(error))

    async with mesh:
        await pay.tell(3)
        await mesh.idle()
        assert await accounts.ask(GetBalance("ann")) == 3
    assert len(refused) == 1


def test_a_value_that_cannot_be_told_from_others():
    """It is refused where it is said, with the actor and the mend."""
    accounts: Any = Mesh("bank").actor(Account, by=account_of)
    with pytest.raises(TypeError, match=r"\['ann'\] is no value of actor 'Account': unhashable.*a tuple instead of a list"):
        accounts.at(["ann"])


@pytest.mark.parametrize(
    "options, text",
    [
        ({"idle": 0}, "idle must be more than zero seconds, or None, not 0"),
        ({"idle": float("inf")}, "idle must be more than zero seconds, or None, not inf"),
        ({"idle": "60"}, "idle must be more than zero seconds, or None, not '60'"),
        ({"max_active": 0}, "max_active must be a whole number of at least 1, or None, not 0"),
        ({"max_active": True}, "max_active must be a whole number of at least 1, or None, not True"),
        ({"batch": Batch(2, 1.0)}, "class actor 'Account' takes one message at a time: leave batch= out"),
        (
            {"debounce": Debounce(1.0, max_wait=5.0)},
            r"has debounce=, which keeps values apart and in order itself: say Debounce\(..., by=...\)",
        ),
    ],
)
def test_options_that_do_not_fit(options: Any, text: str):
    """Options out of their range, or that cannot go with one instance for each value, are refused where they are said."""
    mesh = Mesh("bank")
    with pytest.raises(ValueError, match=text):
        mesh.actor(Account, by=account_of, **options)
    assert not mesh.statistics().actors


@pytest.mark.parametrize("option", ["idle", "max_active"])
def test_options_of_a_function(option: str):
    """A function has no instances that could be put away."""

    async def take(message: Deposit) -> None: ...

    declare: Any = Mesh("bank").actor
    with pytest.raises(
        ValueError, match=f"actor 'take' is a function, which has no instances to put away: leave {option}= out"
    ):
        declare(take, by=account_of, **{option: 1})


def test_a_function_that_is_declared_again_is_checked_again():
    """What a function was read as the first time is not what it is with other options."""

    async def take(messages: list[Deposit]) -> None: ...

    mesh = Mesh("bank")
    plain = mesh.actor(take, name="plain")
    with pytest.raises(ValueError, match="has no instances to put away"):
        cast("Any", mesh.actor)(take, name="idle", idle=3)
    with pytest.raises(ValueError, match="nothing of it to make anew"):
        mesh.actor(take, name="anew", restart=Restart(max=1, within=1.0))
    batched = mesh.actor(take, name="batched", batch=Batch(2, 0.1))
    again = mesh.actor(take, name="again")
    assert plain.cell.handler.accepts is again.cell.handler.accepts is list
    assert batched.cell.handler.accepts is Deposit


def test_a_mailbox_of_its_own():
    """An actor with an instance for each value shares its mailbox with nobody, whoever was first."""
    mesh = Mesh("bank")
    shared = mesh.mailbox("shared")
    mesh.actor(Account, by=account_of, mailbox=shared)

    async def take(message: Deposit) -> None: ...

    with pytest.raises(PreconditionFailed, match="actors 'Account' and 'take' cannot share mailbox 'shared': 'Account' has an"):
        mesh.actor(take, mailbox=shared)
    mesh.actor(take, mailbox=mesh.mailbox("other"))
    with pytest.raises(PreconditionFailed, match="actors 'take' and 'Second' cannot share mailbox 'other': 'Second' has an"):
        mesh.actor(Account, name="Second", by=account_of, mailbox=mesh.mailbox("other"))


async def test_in_a_part():
    """A part brings such actors like any other; declared while the mesh runs, too."""
    part, mesh = Part("banking"), Mesh("bank")
    accounts = part.actor(Account, by=account_of, idle=60.0)
    async with mesh:
        mesh.add(part)
        mesh.add(part)
        await accounts.tell(Deposit("ann", 5))
        assert await accounts.at("ann").ask(GetBalance("ann")) == 5


async def test_presets():
    """A kept preset, and a decorator, declare them as well."""
    mesh = Mesh("bank")
    keyed = mesh.actor(by=account_of, idle=60.0)

    @mesh.actor(by=account_of, name="decorated")
    class Decorated(Account): ...

    preset = keyed(Account)
    assert isinstance(preset, KeyedActor)
    assert isinstance(Decorated, KeyedActor)
    async with mesh:
        await preset.at("ann").tell(Deposit("ann", 5))
        assert await preset.at("ann").ask(GetBalance("ann")) == 5
        assert await Decorated.at("ann").ask(GetBalance("ann")) == 0


async def test_as_many_at_once_as_the_load_needs():
    """Autoscale goes with instances: each has one message at a time, and the slots follow the load."""
    mesh, running, most = Mesh("bank"), list[str](), list[int]()

    class Slow:
        @on
        async def take(self, message: Deposit) -> None:
            assert message.account not in running
            running.append(message.account)
            most.append(len(running))
            await anyio.sleep(1.0)
            running.remove(message.account)

    slow = mesh.actor(Slow, by=account_of, concurrency=Autoscale(1, 4, target=0.5))
    async with mesh:
        for number in range(40):
            await slow.tell(Deposit(str(number % 8), number))
        await mesh.idle()
    assert max(most) == 4
