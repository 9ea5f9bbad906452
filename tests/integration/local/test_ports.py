"""Ports are chosen free, once, and remembered."""

import socket

import pytest

from nightshift.errors import ServiceError
from nightshift_local import ports
from nightshift_local.ports import LOOPBACK, Ports, is_free


def test_same_port_is_returned_when_it_is_still_free(tmp_path):
    first = Ports(tmp_path).usable("s3")
    assert Ports(tmp_path).usable("s3") == first
    assert Ports(tmp_path).remembered() == {"s3": first}


def test_another_port_is_remembered_when_a_foreign_process_took_it(tmp_path):
    first = Ports(tmp_path).usable("s3")
    with socket.socket() as foreign:
        foreign.bind((LOOPBACK, first))
        foreign.listen()
        assert not is_free(first)
        second = Ports(tmp_path).usable("s3")
    assert second != first
    assert Ports(tmp_path).remembered() == {"s3": second}


def test_services_get_different_ports_when_both_ask(tmp_path):
    ports = Ports(tmp_path)
    assert ports.usable("a") != ports.usable("b")


def test_code_and_advice_are_given_when_no_port_is_usable(tmp_path):
    with pytest.raises(ServiceError, match="NS-SERVICE-001"):
        Ports(tmp_path).usable("s3", lambda _port: False)


def test_same_port_is_waited_for_when_only_a_dying_server_holds_it(tmp_path):
    first = Ports(tmp_path).usable("s3")
    answers = iter([False, False, False, True])
    assert Ports(tmp_path).usable("s3", lambda port: port != first or next(answers)) == first


def test_another_port_is_remembered_when_the_old_one_stays_taken_by_nobody_we_see(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ports, "PATIENCE_SECONDS", 0.2)
    first = Ports(tmp_path).usable("s3")
    assert Ports(tmp_path).usable("s3", lambda port: port != first) != first
