"""No flood of the same line; and what was left out is told."""

import json
import logging

import pytest

from relay import logs
from relay.log_rates import BURST, INTERVAL_S, MAX_KINDS, LogRates
from relay.logs import ALWAYS, LogFormat

KIND = ("relay.x", logging.INFO, "text %s")


def test_the_last_of_the_burst_is_said_and_the_next_is_not() -> None:
    rates = LogRates()
    said = [rates.take(KIND, 0.0) for _ in range(BURST + 3)]
    assert said == [0] * BURST + [None] * 3


def test_one_more_is_said_after_each_interval_with_the_number_of_those_left_out() -> None:
    rates = LogRates()
    for _ in range(BURST + 7):
        rates.take(KIND, 0.0)
    assert rates.take(KIND, INTERVAL_S - 0.001) is None
    assert rates.take(KIND, INTERVAL_S) == 8
    assert rates.take(KIND, INTERVAL_S) is None
    assert rates.take(KIND, 1e9) == 1


def test_another_kind_is_said_all_the_same() -> None:
    rates = LogRates()
    for _ in range(BURST + 1):
        rates.take(KIND, 0.0)
    assert rates.take(("relay.x", logging.ERROR, "text %s"), 0.0) == 0
    assert rates.take(("relay.x", logging.INFO, "other"), 0.0) == 0


def test_a_clock_that_goes_back_opens_nothing() -> None:
    rates = LogRates()
    for _ in range(BURST):
        rates.take(KIND, 1000.0)
    assert rates.take(KIND, 0.0) is None


def test_remembers_so_many_kinds_and_no_more() -> None:
    rates = LogRates(burst=1)
    for number in range(MAX_KINDS + 1):
        rates.take(("x", 20, str(number)), 0.0)
    assert rates.take(("x", 20, str(MAX_KINDS)), 0.0) is None
    assert rates.take(("x", 20, "0"), 0.0) == 0, "the oldest was forgotten"


@pytest.mark.usefixtures("own_logging")
def test_a_flood_of_lines_is_a_few_and_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.JSON, "info")
    logger = logging.getLogger("relay.test")
    for number in range(1000):
        logger.info("refused a request", extra={"fields": {"from": number}})
        logging.getLogger(ALWAYS).info("counters")
    (handler,) = logging.getLogger().handlers
    handler.close()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    refused = [line for line in lines if line["message"] == "refused a request"]
    assert len(refused) == BURST
    assert len([line for line in lines if line["message"] == "counters"]) == 1000
    (last,) = [line for line in lines if line["message"] == "not logged: refused a request"]
    assert last["times"] == 1000 - BURST
