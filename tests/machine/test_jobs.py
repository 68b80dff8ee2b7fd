"""Jobs: several at a time in processes of their own, their outcomes, their failures and requests to stop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import exit_code, forked

from gendiff.errors import ConfigError, GendiffError
from gendiff.machine import jobs
from gendiff.machine.jobs import ALONE, Crew, Job, JobDied, Trace, memory_of, possible, together
from gendiff.machine.stopping import StopRequest, heed, interruptible, stop_requests

TWO = Crew(2, 1)


def job(work, memory=0):
    return Job("a job", work, memory)


def paused(until):
    """Wait until a file is there, in a job that hears requests."""
    while not until.exists():
        heed()
        time.sleep(0.01)


@pytest.mark.parametrize("crew", [Crew(1, 1), TWO, Crew(5, 1)])
def test_outcomes_come_in_the_order_of_the_jobs(crew):
    said = []
    works = [job(lambda say, k=k: (say(f"I am {k}"), k * k, os.getpid())[1:]) for k in range(5)]
    outcomes = together(works, crew, lambda number, text: said.append((number, text)))
    assert [square for square, _ in outcomes] == [0, 1, 4, 9, 16]
    assert sorted(said) == [(k, f"I am {k}") for k in range(5)]
    assert len({process for _, process in outcomes} | {os.getpid()}) == 6


def test_two_are_done_at_the_same_time_and_no_more(tmp_path):
    def work(say, k):
        (tmp_path / f"{k}").touch()
        if k < 2:  # each waits for the other
            paused(tmp_path / f"{1 - k}")
        return len(list(tmp_path.iterdir()))

    counts = together([job(lambda say, k=k: work(say, k)) for k in range(4)], TWO)
    assert max(counts[:2]) <= 3


def test_they_have_a_thread_each():
    assert together([job(lambda say: torch.get_num_threads())] * 2, TWO) == [1, 1]
    assert torch.get_num_threads() == 1


def test_memory_is_for_those_that_fit_and_always_for_one(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "available", lambda: 100)

    def work(say, k):
        (tmp_path / f"begun-{k}").touch()
        alone = not list(tmp_path.glob("here-*"))
        (tmp_path / f"here-{k}").touch()
        time.sleep(0.05)
        (tmp_path / f"here-{k}").unlink()
        return alone

    assert all(together([job(lambda say, k=k: work(say, k), 500) for k in range(3)], TWO))
    assert all(together([job(lambda say, k=k: work(say, k), 50) for k in range(3)], TWO))


def greeting(say) -> str:
    say("hello")
    return f"of {os.getpid()}"


def test_one_that_begins_anew_hears_no_ctrl_c_of_the_terminal_either():
    process = jobs._Process(Job("a worker", greeting), 1, anew=True)
    os.kill(process.process.pid, signal.SIGINT)  # before it can hear
    assert [process.hear() for _ in range(2)] == [("said", "hello"), ("done", f"of {process.process.pid}")]
    process.end()


class TestFailure:
    def test_it_comes_whole_with_its_place(self):
        def work(say):
            raise ConfigError("no", where="--here", details=["a"], fix="b")

        with pytest.raises(ConfigError, match="no") as error:
            together([job(work)], TWO)
        assert error.value.lines == ["no (from --here)", "  a"]
        assert isinstance(error.value.__cause__, Trace)
        assert "in work" in str(error.value.__cause__)

    @pytest.mark.parametrize("wrong", [ValueError("odd"), MemoryError("much"), SystemExit(3)])
    def test_of_any_kind(self, wrong):
        def work(say):
            raise wrong

        kind = RuntimeError if isinstance(wrong, SystemExit) else type(wrong)
        with pytest.raises(kind, match=r"odd|much|sys\.exit"):
            together([job(work)], TWO)

    def test_of_a_kind_that_does_not_travel(self):
        class Odd(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")

        def work(say):
            raise Odd(1, 2)

        with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
            together([job(work)], TWO)
        with pytest.raises(GendiffError, match="cannot be sent"):
            together([job(lambda say: lambda: 1)], TWO)

    def test_the_others_are_stopped_where_nothing_is_lost(self, tmp_path):
        def long(say):
            with stop_requests() as requests:
                (tmp_path / "begun").touch()
                while not requests:
                    time.sleep(0.01)
                (tmp_path / "saved").touch()

        def wrong(say):
            paused(tmp_path / "begun")
            raise ConfigError("wrong")

        with pytest.raises(ConfigError, match="wrong"):
            together([job(long), job(wrong), job(lambda say: (tmp_path / "third").touch())], TWO)
        assert (tmp_path / "saved").exists()
        assert not (tmp_path / "third").exists()

    def test_one_that_is_killed_is_named(self):
        with pytest.raises(JobDied, match="the process of a job has died") as error:
            together([job(lambda say: os.kill(os.getpid(), signal.SIGKILL))], TWO)
        assert error.value.details == ("SIGKILL",)
        assert "--at-once 1" in error.value.fix


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_a_request_stops_all_where_nothing_is_lost(self, tmp_path, number):
        def work(say, k):
            with stop_requests() as requests:
                (tmp_path / f"begun-{k}").touch()
                while not requests:
                    time.sleep(0.01)
                (tmp_path / f"saved-{k}").touch()

        def heard(k, said):
            os.kill(os.getpid(), number)

        def last(say):
            paused(tmp_path / "begun-0")
            say("now")
            work(say, 1)

        with interruptible(), pytest.raises(StopRequest):
            together([job(lambda say: work(say, 0)), job(last), job(lambda say: work(say, 2))], TWO, heard)
        assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]

    def test_what_a_scheduler_sends_to_every_process_is_one_request(self, tmp_path):
        """A terminal and a scheduler send a signal to jobs too, which hear it from their owner alone."""

        def work(say):
            with stop_requests() as requests:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    os.kill(os.getpid(), number)
                say("now")
                while not requests:
                    time.sleep(0.01)
                (tmp_path / "saved").touch()

        with interruptible(), pytest.raises(StopRequest):
            together([job(work)], TWO, lambda number, said: os.kill(os.getpid(), signal.SIGTERM))
        assert (tmp_path / "saved").exists()

    def test_they_end_with_their_owner(self, tmp_path):
        def owner():
            def work(say):
                say(os.getpid())
                time.sleep(60)

            def heard(number, process):
                (tmp_path / "process").write_text(str(process))
                os.kill(os.getpid(), signal.SIGKILL)

            together([job(work)], TWO, heard)

        assert exit_code(forked(owner)) == -signal.SIGKILL
        process = int((tmp_path / "process").read_text())
        for _ in range(200):
            if not alive(process):
                break
            time.sleep(0.01)
        assert not alive(process)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_memory_is_measured_in_a_process_that_is_forgotten():
    taken = memory_of(lambda: torch.ones(2**26).sum())
    assert 2**28 <= taken < 2**28 + 2**26
    assert memory_of(lambda: 1 / 0) < 2**24
    assert memory_of(lambda: os.kill(os.getpid(), signal.SIGKILL)) > 0


class TestCrew:
    @pytest.mark.parametrize(
        ("cores", "count", "asked", "threads", "at_once", "each"),
        [
            (2, 6, None, None, 2, 1),
            (1, 6, None, None, 1, 1),
            (1.5, 6, None, None, 1, 1),
            (16, 6, None, None, 6, 1),
            (16, 40, None, None, 16, 1),
            (8, 2, None, None, 2, 1),
            (8, 6, None, 4, 1, 4),
            (2, 6, None, 4, 1, 4),
            (2, 6, 1, None, 1, 1),
            (2, 6, 5, None, 5, 1),
        ],
    )
    def test_a_thread_each_or_one_after_the_other(self, monkeypatch, cores, count, asked, threads, at_once, each):
        monkeypatch.setattr(jobs, "allowance", lambda: cores)
        crew = jobs.crew(count, asked, threads)
        assert (crew.at_once, crew.threads) == (at_once, each)

    def test_it_says_so(self, monkeypatch):
        monkeypatch.setattr(jobs, "allowance", lambda: 2.0)
        assert jobs.crew(6, None, None).words == "2 at a time, a thread each: there are 2 cores"
        assert jobs.crew(6, 1, None).words == "one at a time: --at-once 1"
        monkeypatch.setattr(jobs, "available", lambda: 1000)
        crew = Crew(4, 1, "there are 4 cores")
        assert crew.within(100) is crew
        assert crew.within(300).words == "2 at a time, a thread each: there is memory for 2"
        assert crew.within(5000).at_once == 1

    def test_where_they_are_possible(self, monkeypatch):
        assert possible(torch.device("cpu"))
        assert not possible(torch.device("cuda"))
        monkeypatch.setattr(jobs.sys, "platform", "darwin")
        assert not possible(torch.device("cpu"))
        assert ALONE.at_once == 1
