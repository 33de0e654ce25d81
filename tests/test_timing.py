"""Whole networks on the device: what is reported hangs together."""

import pytest
import torch
from torch import nn

from amc import timing
from amc.latency import LatencyTable, NetworkTime
from amc.timing import measure_network, measure_networks

INPUTS = (torch.rand(2, 4),)


def table(reference_s: float = 1e-4, dense_s: float = 1e-5) -> LatencyTable:
    networks = {"dense/batch2": NetworkTime(dense_s, 0.0, 40)}
    return LatencyTable({}, 1, "", {}, "", reference_s, {}, {}, networks)


@pytest.fixture(autouse=True)
def as_long_as_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests measure as briefly as can be."""
    monkeypatch.setattr(timing, "TURNS", 8)
    monkeypatch.setattr(timing, "PRECISION", 0.02)


def test_several_networks_share_one_session_and_one_clock() -> None:
    networks = {"a": nn.Linear(4, 8), "b": nn.Sequential(nn.Linear(4, 8), nn.ReLU())}
    found = measure_networks(networks, INPUTS, table(reference_s=1.0), seconds_each=0.2)
    assert list(found) == ["a", "b"]
    assert found["a"].clock_factor == found["b"].clock_factor
    for measured in found.values():
        assert measured.measured_raw_s > 0
        assert measured.repeats >= 20
        assert measured.noisy == (measured.interval > 0.02)
        assert measured.measured_latency_s == pytest.approx(
            measured.measured_raw_s / measured.clock_factor
        )
        assert set(measured.as_json()) >= {"measured_latency_s", "measured_raw_s", "clock_factor"}


def test_what_was_timed_on_a_core_slower_than_the_tables_is_noisy() -> None:
    network = nn.Linear(4, 8)
    assert measure_network(network, INPUTS, table(reference_s=1e-9)).noisy


@pytest.mark.slow
@pytest.mark.long
def test_the_dense_network_takes_part_where_the_table_knows_it() -> None:
    network = nn.Linear(4, 8)
    with_dense = measure_network(network, INPUTS, table(dense_s=1e3), ("dense/batch2", network))
    without = measure_network(network, INPUTS, table(), ("unknown/batch2", network))
    # A dense network that the table holds to take 1000 s makes this machine look very fast.
    assert with_dense.clock_factor < without.clock_factor / 100


def test_measuring_changes_neither_the_network_nor_the_settings() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    threads = torch.get_num_threads()
    measure_networks({"n": network}, (torch.rand(2, 1, 6, 6),), table(), seconds_each=0.1)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.get_num_threads() == threads
