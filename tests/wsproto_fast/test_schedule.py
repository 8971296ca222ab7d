"""The deadlines of all connections of a housekeeper."""

from math import inf

from wsproto_fast.drivers.schedule import MAX_OUTDATED, Schedule


def test_earliest_first_and_ties_in_order() -> None:
    schedule: Schedule[str] = Schedule(lambda time, item: False)
    assert schedule.next_time() == inf
    for time, item in [(2.0, "b"), (1.0, "a"), (2.0, "c"), (2.0, "a")]:
        schedule.add(time, item)
    assert schedule.next_time() == 1.0
    assert [schedule.take() for _ in range(4)] == [(1.0, "a"), (2.0, "b"), (2.0, "c"), (2.0, "a")]
    assert schedule.next_time() == inf


def test_outdated_entries_are_removed_when_they_are_many() -> None:
    schedule: Schedule[int] = Schedule(lambda time, item: item % 2 == 1)
    for number in range(4 * MAX_OUTDATED):
        schedule.add(-number, number)
    assert not schedule.clean(MAX_OUTDATED)
    assert not schedule.clean(2 * MAX_OUTDATED)
    assert len(schedule) == 4 * MAX_OUTDATED
    assert schedule.clean(2 * MAX_OUTDATED + 1)
    taken = [schedule.take() for _ in range(len(schedule))]
    assert taken == [(-number, number) for number in reversed(range(0, 4 * MAX_OUTDATED, 2))]
