"""Limits on the number of connections, without any connection."""

import random
import threading
from http import HTTPStatus

import pytest

from wsapi._shared import door as door_module
from wsapi.datastructures import Headers
from wsapi.http11 import Request
from wsapi.limits import Door, forwarded_for
from wsproto_fast import ServerProtocol

ALICE, BOB = ("192.0.2.1", 1000), ("192.0.2.2", 1000)


class Connection:
    def _invoke(self, callback, *args):
        return callback(self, *args)


def reasons(visits):
    return [None if visit.refusal is None else visit.refusal.reason for visit in visits]


def is_empty(door):
    return (
        door.connections == door.opening == door._refusing == 0
        and not door._per_address
        and not door.lock.locked()
    )


def test_no_limits():
    door = Door()
    visits = [door.arrive(ALICE) for _ in range(1000)]
    assert set(reasons(visits)) == {None}
    assert (door.connections, door.opening) == (1000, 1000)
    for visit in visits:
        visit.opened()
    assert (door.connections, door.opening) == (1000, 0)
    for visit in visits:
        visit.leave()
    assert is_empty(door)


def test_max_connections():
    door = Door(max_connections=2)
    visits = [door.arrive(ALICE) for _ in range(3)]
    assert reasons(visits) == [None, None, "max_connections"]
    visits[0].opened()  # makes no room
    visits.append(door.arrive(BOB))
    assert visits[3].refusal.status == HTTPStatus.SERVICE_UNAVAILABLE
    visits[0].leave()
    visits[0].leave()  # says nothing new
    visits += [door.arrive(BOB), door.arrive(BOB)]
    assert reasons(visits[4:]) == [None, "max_connections"]
    for visit in visits:
        visit.leave()
    assert is_empty(door)


def test_max_opening():
    door = Door(max_opening=1)
    visits = [door.arrive(ALICE), door.arrive(ALICE)]
    assert reasons(visits) == [None, "max_opening"]
    visits[0].opened()
    visits[0].opened()
    visits += [door.arrive(ALICE), door.arrive(ALICE)]
    assert reasons(visits[2:]) == [None, "max_opening"]
    visits[2].leave()
    visits.append(door.arrive(ALICE))
    assert visits[4].refusal is None
    for visit in visits:
        visit.leave()
    assert is_empty(door)


def test_none_allowed():
    door = Door(max_connections=0, max_opening=0, max_per_address=0)
    visit = door.arrive(ALICE)
    assert visit.refusal.reason == "max_connections"
    visit.leave()
    assert is_empty(door)


def test_max_per_address():
    door = Door(max_per_address=2)
    visits = [door.arrive(address) for address in [ALICE, ALICE, ALICE, BOB]]
    assert reasons(visits) == [None, None, "max_per_address", None]
    assert visits[2].refusal.status == HTTPStatus.TOO_MANY_REQUESTS
    assert (door.connections, door.opening) == (3, 3)
    visits[0].leave()
    visits.append(door.arrive(ALICE))
    assert visits[4].refusal is None
    for visit in visits:
        visit.leave()
    assert is_empty(door)


@pytest.mark.parametrize("address", ["", b"\0abstract", "/run/client", None, ()])
def test_unix_sockets_have_no_addresses(address):
    door = Door(max_per_address=1)
    visits = [door.arrive(address) for _ in range(3)]
    assert reasons(visits) == [None] * 3
    for visit in visits:
        visit.leave()
    assert is_empty(door)


@pytest.mark.parametrize(
    ("prefix", "one", "other", "same"),
    [
        (64, "2001:db8::1", "2001:db8::ffff:1", True),
        (64, "2001:db8::1", "2001:db8:0:1::1", False),
        (128, "2001:db8::1", "2001:db8::2", False),
        (128, "2001:db8::1", "2001:DB8:0::1", True),
        (1, "2001:db8::1", "7fff::1", True),
        (1, "2001:db8::1", "8000::1", False),
        (64, "::ffff:192.0.2.1", "192.0.2.1", True),
        (64, "::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        (64, "fe80::1%eth0", "fe80::2", True),
        (64, "192.0.2.1", "192.0.2.2", False),
        (64, "not:an:address", "not:an:address", True),
        (64, "not:an:address", "not:another", False),
    ],
)
def test_prefixes(prefix, one, other, same):
    door = Door(max_per_address=1, ipv6_prefix=prefix)
    visits = [door.arrive((one, 1, 0, 0)), door.arrive((other, 2, 0, 0))]
    assert reasons(visits) == [None, "max_per_address" if same else None]


def test_few_wait_for_refusal_by_address(monkeypatch):
    monkeypatch.setattr(door_module, "MAX_REFUSALS", 2)
    door = Door(max_per_address=1)
    visits = [door.arrive(ALICE) for _ in range(3)]
    assert reasons(visits) == [None, "max_per_address", "max_per_address"]
    assert door.arrive(ALICE).reason == "max_per_address"
    assert (door.connections, door.opening, door._refusing) == (1, 1, 2)
    visits.pop().leave()
    visits.append(door.arrive(ALICE))
    assert isinstance(visits[-1], door_module.Visit)
    for visit in visits:
        visit.leave()
    assert is_empty(door)


def test_others_keep_their_places(monkeypatch):
    monkeypatch.setattr(door_module, "MAX_REFUSALS", 1)
    door = Door(max_connections=3, max_opening=3, max_per_address=1, proxy_protocol=True)
    visits = [door.arrive(ALICE) for _ in range(3)]
    for visit in visits:
        visit.identify("192.0.2.7")
    assert reasons(visits) == [None, "max_per_address", "max_per_address"]
    # Both get an answer, but only one of them has made room for others.
    assert (door.connections, door.opening, door._refusing) == (2, 2, 1)
    visits[2].opened()
    assert door.opening == 1
    for visit in visits:
        visit.leave()
        visit.leave()
    assert is_empty(door)


def test_few_wait_for_refusal():
    door = Door(max_connections=0)
    visits = [door.arrive(ALICE) for _ in range(door_module.MAX_REFUSALS)]
    assert door.arrive(ALICE).reason == "max_connections"
    visits.pop().leave()
    visits.append(door.arrive(ALICE))
    assert isinstance(visits[-1], door_module.Visit)
    assert door.arrive(ALICE).reason == "max_connections"
    for visit in visits:
        visit.leave()
    assert is_empty(door)


def test_less_time_for_the_refused():
    door = Door(max_connections=1)
    welcome, refused = door.arrive(ALICE), door.arrive(ALICE)
    assert [welcome.bounded(timeout) for timeout in (None, 1, 100)] == [None, 1, 100]
    assert [refused.bounded(timeout) for timeout in (None, 1, 100)] == [5, 1, 5]


def test_addresses_that_come_later():
    door = Door(max_per_address=1, proxy_protocol=True)
    visits = [door.arrive(("127.0.0.1", 1)) for _ in range(4)]
    assert reasons(visits) == [None] * 4
    visits[0].identify("192.0.2.1")
    visits[0].identify("192.0.2.1")  # that is itself
    visits[1].identify("192.0.2.1")
    visits[2].identify(None)
    assert reasons(visits) == [None, "max_per_address", None, None]
    visits[1].identify("192.0.2.2")  # it is too late
    assert reasons(visits)[1] == "max_per_address"
    visits[0].identify("192.0.2.3")
    visits[3].identify("192.0.2.1")
    assert reasons(visits) == [None, "max_per_address", None, None]
    for visit in visits:
        visit.leave()
        visit.identify("192.0.2.4")  # it is gone
    assert is_empty(door)


def test_address_from_the_request():
    door = Door(max_per_address=1, client_address=lambda connection, request: request.path[1:])
    first, second = door.arrive(ALICE), door.arrive(ALICE)
    first.identify_request(Connection(), Request("/one", Headers()))
    second.identify_request(Connection(), Request("/one", Headers()))
    assert first.client_address == second.client_address == "one"
    assert reasons([first, second]) == [None, "max_per_address"]


def test_who_is_refused_is_not_asked():
    def client_address(connection, request):
        raise AssertionError

    door = Door(max_connections=0, client_address=client_address)
    door.arrive(ALICE).identify_request(Connection(), Request("/", Headers()))


def test_callable_that_returns_something_else():
    door = Door(client_address=lambda connection, request: ("192.0.2.1", 1))
    with pytest.raises(TypeError, match="client_address must return a str or None, not tuple"):
        door.arrive(ALICE).identify_request(Connection(), Request("/", Headers()))


def test_response():
    refusal = Door(max_connections=0, retry_after=7).arrive(ALICE).refusal
    response = refusal.response(ServerProtocol())
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Connection"] == "close"
    assert response.body == b"Too many connections.\n"


@pytest.mark.parametrize(
    ("values", "proxies", "address"),
    [
        ([], 1, None),
        (["192.0.2.1"], 1, "192.0.2.1"),
        (["192.0.2.1"], 2, None),
        (["192.0.2.1, 192.0.2.2"], 1, "192.0.2.2"),
        (["192.0.2.1 ,192.0.2.2"], 2, "192.0.2.1"),
        (["192.0.2.1", "192.0.2.2,  192.0.2.3"], 1, "192.0.2.3"),
        (["192.0.2.1", "192.0.2.2,  192.0.2.3"], 3, "192.0.2.1"),
        (["192.0.2.1:1234"], 1, "192.0.2.1"),
        (["2001:DB8:0::1"], 1, "2001:db8::1"),
        (["[2001:db8::1]"], 1, "2001:db8::1"),
        (['"[2001:db8::1]:1234"'], 1, "2001:db8::1"),
        (["fe80::1%eth0"], 1, "fe80::1"),
        (["::ffff:192.0.2.1"], 1, "192.0.2.1"),
        (["192.0.2.1, unknown"], 1, None),
        (["192.0.2.1, _hidden"], 1, None),
        (["192.0.2.1,"], 1, None),
        (["192.0.2.1, ,192.0.2.3"], 2, None),
        ([""], 1, None),
        (["[2001:db8::1"], 1, "2001:db8::1"),
        (["192.0.2.1:1:2"], 1, None),
    ],
)
def test_forwarded_for(values, proxies, address):
    headers = Headers([("X-Forwarded-For", value) for value in values])
    assert forwarded_for(proxies)(None, Request("/", headers)) == address


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_connections": -1}, ValueError, "max_connections must be 0 or more; got -1"),
        ({"max_opening": 1.5}, TypeError, "max_opening must be an int, not float"),
        ({"max_per_address": True}, TypeError, "max_per_address must be an int, not bool"),
        ({"ipv6_prefix": 0}, ValueError, "ipv6_prefix must be 1 to 128; got 0"),
        ({"ipv6_prefix": 129}, ValueError, "ipv6_prefix must be 1 to 128; got 129"),
        ({"ipv6_prefix": None}, TypeError, "ipv6_prefix must be an int, not NoneType"),
        ({"retry_after": -1}, ValueError, "retry_after must be 0 or more; got -1"),
        ({"client_address": 1}, TypeError, "client_address must be a callable or None, not int"),
    ],
)
def test_arguments(options, error, text):
    with pytest.raises(error, match=text):
        Door(**options)


def test_proxies_argument():
    with pytest.raises(ValueError, match="proxies must be 1 or more; got 0"):
        forwarded_for(0)


def test_counts_of_random_visits():
    # Against a slow model: who is in, and for which address.
    choice = random.Random(1)
    door = Door(max_connections=8, max_opening=4, max_per_address=3, proxy_protocol=True)
    visits = []
    for _ in range(5000):
        step = choice.random()
        if step < 0.3 or not visits:
            visit = door.arrive(ALICE)
            assert isinstance(visit, door_module.Visit)
            visits.append([visit, None, True])
        elif step < 0.5:
            entry = choice.choice(visits)
            address = choice.choice([None, "192.0.2.1", "192.0.2.2"])
            entry[0].identify(address)
            entry[1] = address
        elif step < 0.65:
            entry = choice.choice(visits)
            entry[0].opened()
            entry[2] = False
        else:
            visits.pop(choice.randrange(len(visits)))[0].leave()
        inside = [entry for entry in visits if entry[0].refusal is None]
        assert door.connections == len(inside) <= 8
        assert door.opening == sum(entry[2] for entry in inside) <= 4
        for address in ("192.0.2.1", "192.0.2.2"):
            count = sum(entry[1] == address for entry in inside)
            assert door._per_address.get(address, 0) == count <= 3
    for visit, _, _ in visits:
        visit.leave()
    assert is_empty(door)


def test_threads():
    door = Door(max_connections=5, max_opening=4, max_per_address=3)

    def run(address):
        for _ in range(2000):
            visit = door.arrive((address, 1))
            assert isinstance(visit, door_module.Visit)
            visit.opened()
            visit.leave()

    threads = [threading.Thread(target=run, args=(f"192.0.2.{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_empty(door)
