"""What a million tokens cost, from speeds and a bill."""

import math
from pathlib import Path

import pytest

from benchmarks.client import Answer
from benchmarks.cost import Measured, faults, report, speed
from benchmarks.pricing import Gpu, Prices, Speed, Waking, break_even, cost, price_of, read_prices

STEADY = Waking(start=0, busy=1000, idle=0)
SPEED = Speed(concurrency=8, output=500, input=1000, prompts=4000)
H100 = Gpu("H100", 80, flex=0.00116, active=0.00093)


def answer(num_prompt_tokens: int = 0, num_tokens: int = 0, *, error: str = "", is_cut: bool = False) -> Answer:
    return Answer(0.0, num_prompt_tokens=num_prompt_tokens, num_tokens=num_tokens, error=error, is_cut=is_cut)


def test_saturated_output_costs_the_price_over_the_rate() -> None:
    """The published figure: an H100 at 0.00116 a second and 3,141 tokens/s is 37 cents a million."""
    found = cost(0.00116, SPEED._replace(output=3141), STEADY)

    assert found.all_on_output == pytest.approx(0.369, abs=0.001)


def test_input_and_output_together_are_the_whole_bill() -> None:
    waking = Waking(start=10, busy=300, idle=5)

    found = cost(0.002, SPEED, waking)

    tokens = waking.busy / 1e6
    assert found.input * SPEED.input * tokens + found.output * SPEED.output * tokens == pytest.approx(0.002 * 315)
    assert found.blended * (SPEED.input + SPEED.output) * tokens == pytest.approx(0.002 * 315)


def test_input_costs_what_prompts_alone_would_take() -> None:
    assert cost(0.004, SPEED, STEADY).input == pytest.approx(1.0)


@pytest.mark.parametrize(("start", "idle", "times"), [(10, 5, 1.75), (60, 5, 4.25), (0, 0, 1.0)])
def test_short_work_pays_for_its_cold_start(start: float, idle: float, times: float) -> None:
    """20 s of work each."""
    waking = Waking(start, 20, idle)

    assert cost(1, SPEED, waking).blended / cost(1, SPEED, STEADY).blended == pytest.approx(times)


def test_a_part_of_a_second_is_billed_as_a_second() -> None:
    assert Waking(start=2.2, busy=10, idle=5).billed == 18


def test_the_shares_of_a_bill() -> None:
    waking = Waking(start=10, busy=25, idle=5)

    assert (waking.cold_share, waking.idle_share) == (0.25, 0.125)


def test_workers_that_shared_the_load_are_all_paid() -> None:
    one, three = (cost(1, SPEED._replace(workers=number), STEADY) for number in (1, 3))

    assert three.blended == pytest.approx(3 * one.blended)


@pytest.mark.parametrize("none", [SPEED._replace(output=0), SPEED._replace(input=0), SPEED._replace(prompts=0)])
def test_no_tokens_have_no_price(none: Speed) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        cost(1, none, STEADY)


def test_prompts_that_are_slower_alone_than_beside_answers_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="measure for longer"):
        cost(1, SPEED._replace(prompts=900), STEADY)


def test_an_active_worker_pays_from_its_discount_on() -> None:
    assert break_even(H100) == pytest.approx(0.80, abs=0.005)
    assert break_even(H100._replace(active=None)) is None


@pytest.mark.parametrize(("text", "dollars"), [("3.6", 0.001), ("3.6/h", 0.001), ("0.00116/s", 0.00116)])
def test_prices_are_by_the_hour_or_the_second(text: str, dollars: float) -> None:
    assert price_of(text) == pytest.approx(dollars)


@pytest.mark.parametrize("text", ["free", "0", "-1", "1/d", "nan/s", "inf"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        price_of(text)


def test_the_file_of_prices_says_where_they_are_from() -> None:
    prices = read_prices()

    assert prices.source.startswith("https://")
    assert {"A100", "H100", "H200"} <= {gpu.name for gpu in prices.gpus}
    assert all(gpu.active and 0 < gpu.active < gpu.flex < 0.01 for gpu in prices.gpus)


def test_input_comes_in_the_proportion_of_the_answers_that_ended() -> None:
    """One that was cut has no usage."""
    answers = [answer(200, 100), answer(300, 150), answer(is_cut=True), answer(error="refused")]

    found = speed(8, [90.0, 100.0, 110.0], answers, prompts=4000, workers=1)

    assert (found.output, found.input) == (100, 200)
    assert found.spread == pytest.approx(0.1)


def test_what_makes_a_price_doubtful_is_said() -> None:
    ended = answer(10, 10)
    ended.finish_reason = "stop"

    said = " ".join(faults([ended, answer(error="status 429"), answer(is_cut=True)], 1, 2))

    for part in ("1 of 3 answers failed: status 429", "cut", "ended before", "scaled from 1 to 2", "2 workers shared"):
        assert part in said


def test_a_clean_run_says_nothing() -> None:
    assert faults([answer(10, 10)], 1, 1) == []


def test_the_report_marks_the_gpu_that_was_measured() -> None:
    prices = Prices("2026", "https://example.org", [H100, Gpu("L40, L40S", 48, 0.00053, 0.00037)])
    measured = Measured("2026-11-30", "a worker", None, [SPEED], [])

    lines = report(measured, STEADY, prices, "L40S").splitlines()

    assert [line.split("  ")[0] for line in lines if "L40" in line or "H100" in line] == ["H100", "L40, L40S *"]
    assert "no row is a measurement" in report(measured, STEADY, prices, "")


def test_a_measurement_can_be_priced_again(tmp_path: Path) -> None:
    measured = Measured("2026-11-30", "a worker", 3.5, [SPEED, SPEED._replace(concurrency=32)], ["a note"])

    assert Measured.from_json(measured.json()) == measured
    assert math.isclose(cost(1, Measured.from_json(measured.json()).speeds[0], STEADY).input, 250)
