"""Fleet: workers that submitit starts, as jobs of Slurm, or as processes of this machine where there is no Slurm.

It needs no more than cloudpickle and the scheduler that is there; Ray would bring a cluster of its own, with daemons and ports.
Which work a worker does it finds out by itself (`gendiff.comparison.engine.Engine.share`): here they are started, replaced
where they die, and stopped. Where the job of a worker is preempted or reaches its time limit, what it does is saved and its job
queued again, by itself.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from gendiff.errors import ConfigError, GendiffError
from gendiff.extra import extra
from gendiff.storage.files import Files

DAY = 24 * 60  # minutes that a job may take where nobody says
PATIENCE = 3  # deaths without any work done for each worker, after which it is no accident
LAST = 5  # lines of a worker's log in an error
GRACE = 30  # seconds in which a worker that is asked to stop saves
STOPPED = (0, 75, 130)  # exit codes of a worker that ended well, or was asked to


@dataclass(frozen=True)
class Worker:
    """What the job of a worker does: ``work``, with these words, whose exit code it comes to.

    A job that is preempted, or at its time limit, gets SIGUSR2 from submitit: a request to stop, after which it is queued again.
    """

    work: Callable[[list[str]], int]
    words: list[str]

    def __call__(self) -> int:
        """Do it."""
        preempted = list[int]()

        def ask(number: int, frame: FrameType | None) -> None:
            preempted.append(number)
            os.kill(os.getpid(), signal.SIGUSR1)

        queue_again = signal.signal(signal.SIGUSR2, ask)
        try:
            code = self.work(self.words)
        finally:
            signal.signal(signal.SIGUSR2, queue_again)
        if preempted and code:
            os.kill(os.getpid(), signal.SIGUSR2)
        return code

    def checkpoint(self) -> Any:
        """What the job does that is queued again: the same, which goes on where it was saved."""
        return extra("submitit", "a worker", name="slurm").helpers.DelayedSubmission(self)


class Fleet:
    """Workers of one comparison.

    Args:
        folder: in which a new one is made for what submitit writes: logs, and pickles, of which none that was there is read.
        worker: what each does.
        count: how many there are at a time.
        parameters: of submitit, such as ``slurm_partition``, ``gpus_per_node`` and ``timeout_min``; ``cluster`` is ``slurm`` or
            ``local``, by default what there is.

    Raises:
        ConfigError: for parameters that there are not.

    """

    def __init__(self, folder: Path, worker: Worker, count: int, parameters: Mapping[str, Any]) -> None:
        submitit = extra(
            "submitit", "--workers", name="slurm", otherwise="start workers yourself: gendiff compare --join DIR"
        )
        self.folder = folder / secrets.token_hex(4)
        Files().make_directory(self.folder)
        others = {key: value for key, value in parameters.items() if key != "cluster"}
        try:
            self.executor = submitit.AutoExecutor(folder=str(self.folder.absolute()), cluster=parameters.get("cluster"))
            self.executor.update_parameters(**{"timeout_min": DAY, "name": "gendiff", **others})
        except (ValueError, NameError, TypeError, AttributeError, RuntimeError) as error:
            raise ConfigError(
                f"submitit takes no such workers: {' '.join(str(error).split()):.300}",
                where="--worker",
                fix="write --worker KEY=VALUE with parameters of submitit: slurm_partition, gpus_per_node, timeout_min, ...",
            ) from error
        self.worker, self.count = worker, count
        self.jobs: list[Any] = []

    @property
    def cluster(self) -> str:
        """On what they run: ``slurm``, ``local``."""
        return str(self.executor.cluster)

    def finish(
        self,
        left: Callable[[], int],
        heed: Callable[[], None],
        done: Callable[[int], None] = lambda count: None,
        say: Callable[[str], None] = lambda text: None,
        wait: float = 5.0,
    ) -> None:
        """Keep workers at work until nothing is ``left``.

        Args:
            heed: raises to stop.
            done: hears of pieces of work that are done.
            say: hears what happens to workers.
            wait: seconds between two looks.

        Raises:
            GendiffError: of a worker that fails, and where workers die again and again with nothing done.

        """
        before, deaths = left(), 0
        try:
            while missing := left():
                heed()
                if missing < before:
                    done(before - missing)
                    before, deaths = missing, 0
                for job in [job for job in self.jobs if job.done()]:
                    self.jobs.remove(job)
                    deaths += self._ended(job)
                    say(f"worker {job.job_id} has ended; another takes its place")
                if deaths >= PATIENCE * self.count:
                    raise GendiffError(
                        f"{deaths} workers died one after the other, and nothing was done",
                        details=self._last_words(job),
                        fix=f"see their logs: {self.folder}",
                    )
                while len(self.jobs) < min(self.count, missing):
                    self.jobs.append(self._started())
                time.sleep(wait)
            done(before)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ask all workers to stop, and wait a while until they have."""
        running = [job for job in self.jobs if not job.done()]
        for job in running:
            with suppress(OSError):
                # submitit stops a process of this machine by SIGINT and, a second later, SIGKILL.
                os.kill(int(job.job_id), signal.SIGTERM) if self.cluster == "local" else job.cancel(check=False)
        patience = time.monotonic() + GRACE
        while any(not job.done() for job in running) and time.monotonic() < patience:
            time.sleep(0.1)
        self.jobs.clear()

    def _started(self) -> Any:
        try:
            return self.executor.submit(self.worker)
        except Exception as error:  # submitit has errors of its own for what sbatch says
            raise GendiffError(
                f"no worker could be started: {' '.join(str(error).split()):.500}", fix="see --worker KEY=VALUE"
            ) from error

    def _ended(self, job: Any) -> bool:
        """Whether a job was killed; raises the error of its worker where that failed by itself."""
        try:
            code: int = job.result()
        except Exception:  # killed: it left no result, for which submitit has errors of its own; deaths are counted
            return True
        if code in STOPPED:
            return code != 0
        error = GendiffError(
            f"worker {job.job_id} failed with exit code {code}",
            details=self._last_words(job),
            fix=f"see its log: {job.paths.stderr}",
        )
        error.exit_code = code
        raise error

    def _last_words(self, job: Any) -> list[str]:
        with suppress(OSError):
            lines = job.paths.stderr.read_text(encoding="utf-8", errors="replace").splitlines()
            first = next((k for k, line in enumerate(lines) if line.startswith("error:")), len(lines) - LAST)
            return [line.strip() for line in lines[max(first, 0) :][:LAST]]
        return []
