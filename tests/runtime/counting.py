"""What the runtime's tests count: every number of a mailbox that is not zero, so that nothing lost or doubled goes unseen."""

from flowmesh import Mailbox

NUMBERS = ("ready", "leased", "delayed", "entered", "acked", "dead", "expired", "dropped", "withdrawn", "purged", "over")


def counts(mailbox: Mailbox) -> dict[str, int]:
    """Return the mailbox's numbers that are not zero; they add up, since `leased` is what the others leave."""
    statistics = mailbox.statistics()
    return {name: number for name in NUMBERS if (number := getattr(statistics, name))}
