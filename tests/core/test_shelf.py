"""The shelf: which copies of a durable mailbox are in memory, which lie on disk only, and which are suspect."""

from flowmesh._core.shelf import Shelf


def shelf(window: float = 4) -> Shelf:
    """A shelf with a small window."""
    return Shelf(3, window=window)


def enter(one: Shelf, priority: int = 0, *, at_hand: int = 0) -> tuple[int, bool]:
    """Give the next copy its number, and say whether it will be in memory."""
    number = one.place(priority)
    return number, one.invite(number, at_hand)


def settle(one: Shelf, number: int, *, in_memory: bool) -> bool:
    """Let it have entered; True if it was swept on its way."""
    is_swept = one.uninvite(number, is_shelved=not in_memory)
    if not in_memory and not is_swept:
        one.tail += 1
    return is_swept


def test_numbers_stand_in_the_order_of_hand_out():
    """Higher priorities come first, and within one those that entered first; all lie within the mailbox's range."""
    one = shelf()
    low, high, other = one.place(0), one.place(9), one.place(0)
    assert high < low < other
    assert one.first < high
    assert other < one.last
    assert Shelf(2).last < one.first


def test_window_bounds_what_is_in_memory():
    """As many as a window holds are in memory, those on their way counted; the next one joins the tail."""
    one = shelf()
    assert [enter(one)[1] for _ in range(6)] == [True] * 4 + [False] * 2
    assert (one.arriving, one.coming) == (4, 2)


def test_what_comes_behind_the_tail_joins_it():
    """While something lies in the tail, or is on its way there, nothing overtakes it, however much room there is."""
    one = shelf()
    number, _ = enter(one, at_hand=4)
    assert not enter(one, at_hand=0)[1]
    settle(one, number, in_memory=False)
    assert not enter(one, at_hand=0)[1]


def test_what_comes_before_the_tail_is_in_memory():
    """A copy of higher priority than the tail's is in memory: it is handed out before them."""
    one = shelf()
    settle(one, enter(one)[0], in_memory=True)
    settle(one, enter(one, at_hand=4)[0], in_memory=False)
    assert enter(one, 9, at_hand=4)[1]


def test_reading_begins_when_half_of_the_window_is_empty():
    """It reads on once there is room for half a window, and not twice at a time."""
    one = shelf()
    one.tail = 10
    assert [one.wants(at_hand) for at_hand in (4, 3, 2, 0)] == [False, False, True, True]
    one.arriving = 2
    assert not one.wants(1)
    one.arriving, one.is_reading = 0, True
    assert not one.wants(0)


def test_sweep_takes_what_is_coming():
    """A purge of the tail takes along what is on its way into it, and nothing that comes later."""
    one = shelf()
    there = enter(one, at_hand=4)[0]
    settle(one, there, in_memory=False)
    before = enter(one)[0]
    assert one.sweep() == 1
    after = enter(one)[0]
    assert settle(one, before, in_memory=False)
    assert not settle(one, after, in_memory=False)
    assert one.tail == 1


def test_sweep_is_not_confused_by_one_that_will_not_enter():
    """A copy that is left out again does not stand in for one that was swept."""
    one = shelf()
    settle(one, enter(one, at_hand=4)[0], in_memory=False)
    before = enter(one)[0]
    one.sweep()
    left_out = enter(one)[0]
    assert not one.uninvite(left_out, is_shelved=True)
    assert settle(one, before, in_memory=False)


def test_sweep_spares_what_the_horizon_has_passed():
    """One that was on its way to the tail and comes before what has been read since is not in the range that is swept."""
    one = shelf()
    one.tail = 3
    early = enter(one, 5)[0]
    one.horizon, one.tail = one.place(1), 2  # What was read meanwhile.
    one.sweep()
    assert not one.uninvite(early, is_shelved=True)


def test_sweep_discards_what_is_being_read():
    """Rows that were read before a purge are not handed out after it."""
    one = shelf()
    one.tail, one.is_reading = 3, True
    one.sweep()
    assert one.discards


def test_suspects_are_those_that_were_marked():
    """Copies up to the mark of their line may have been in the hands of a process that died; others not."""
    one = shelf()
    numbers = [one.place(0) for _ in range(3)]
    one.suspects[numbers[0] >> 40] = 2
    assert [one.is_suspect(number) for number in numbers] == [True, True, False]


def test_marks_at_rest_keep_suspects_of_the_tail():
    """What is suspect and has not been read stays so when the mesh stops; otherwise nothing is marked any more."""
    one = shelf()
    numbers = [one.place(0) for _ in range(3)]
    line = numbers[0] >> 40
    one.suspects[line] = 2
    one.tail, one.horizon = 2, numbers[0]
    assert one.marks_at_rest() == {line: 2}
    one.tail, one.horizon = 1, numbers[1]
    assert one.marks_at_rest() == {line: 0}


def test_an_unlimited_shelf_has_no_tail():
    """Of a mailbox that is looked through, everything is in memory."""
    one = Shelf.unlimited(1)
    assert all(one.invite(one.place(0), at_hand) for at_hand in range(0, 10_000, 1_000))


def test_each_reason_blocks_by_itself():
    """Marking, resting and being closed keep each other's copies back, and end one by one."""
    one = shelf()
    assert not one.is_blocked
    one.is_resting = one.is_closed = True
    one.is_resting = False
    assert one.is_blocked
