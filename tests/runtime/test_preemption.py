"""The first signal sets the stop flag, a second ends the process; several agree through JAX."""

import os
import signal
from collections.abc import Iterator

import jax
import pytest
from jax.experimental import multihost_utils

from gap_jax import process
from gap_jax.runtime import preemption

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def takes_sighup() -> Iterator[None]:
    """Catches SIGHUP even if nohup started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_sets_the_stop_flag(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOPS]
    with preemption.catching_signals() as stop_flag:
        assert not stop_flag.is_stopping()
        os.kill(os.getpid(), number)
        assert stop_flag.is_stopping() and stop_flag.is_stopping()
        assert stop_flag.cause == number.name
    assert [signal.getsignal(each) for each in STOPS] == before


def test_signal_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), preemption.catching_signals():
        assert signal.getsignal(signal.SIGTERM) != before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_sigterm_and_sighup_at_once_are_one_request(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd sends both to processes with a terminal; other schedulers send SIGTERM twice."""
    ends: list[str] = []
    monkeypatch.setattr(process, "end_at_once", ends.append)
    monkeypatch.setattr(process._command, "wake", 0)
    with preemption.catching_signals() as stop_flag:
        for number in (first, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop_flag.is_stopping() and stop_flag.cause == first.name and not ends
        os.kill(os.getpid(), signal.SIGINT)
        assert len(ends) == 1


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_the_second_signal_ends_a_command_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process._command, "wake", 0)
    child = os.fork()
    if not child:
        with preemption.catching_signals() as stop_flag:
            os.kill(os.getpid(), signal.SIGTERM)
            if stop_flag.is_stopping():
                os.kill(os.getpid(), signal.SIGINT)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    errors = capfd.readouterr().err
    assert errors.startswith("gap_jax: error 75: ") and errors.count("\n") == 1


def test_the_second_signal_interrupts_a_notebook_and_leaves_its_process() -> None:
    with pytest.raises(KeyboardInterrupt), preemption.catching_signals() as stop_flag:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_flag.is_stopping()
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_several_processes_leave_sigterm_to_jax(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the agreed check the flag stays set."""
    terminated: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda asked: asked == 3)
    before = [signal.getsignal(each) for each in STOPS]
    with preemption.catching_signals() as stop_flag:
        assert signal.getsignal(signal.SIGTERM) == before[0]
        assert [stop_flag.is_stopping() for _ in range(5)] == [False, False, True, True, True]
        assert stop_flag.cause == "the scheduler"
        signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
        os.kill(os.getpid(), number)
        assert terminated == [signal.SIGTERM] and stop_flag.cause == number.name
        signal.signal(signal.SIGTERM, before[0])
    assert [signal.getsignal(each) for each in STOPS] == before
