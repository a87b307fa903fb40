"""Breaks tailrace on purpose, one promise at a time, and sees the test that proves the promise fail.

`python tests/faults/mutants.py [PART OF A NAME]`. Each mutant is made in a copy of the source; nothing here is touched.
Ends with 1 if a mutant lives, or if a line that it changes is there no more.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One line of the source made wrong. `promise` is the number in docs/guarantees.md."""

    promise: int
    name: str
    file: str
    old: str
    new: str
    test: str
    also: tuple[str, str] | None = None
    """A second line of the file, old and new, where each of the two alone would hold."""


MUTANTS: Final = [
    Mutant(
        1,
        "what waits is sent in another order",
        "worker/log_writer.py",
        "self.pending += lines",
        "self.pending[:0] = lines",
        "test_faults_network.py::test_resets_and_cut_replies_cost_nobody_a_record",
    ),
    Mutant(
        2,
        "who resumes gets the record at the position again",
        "joblog/follow.py",
        "sum(parse_position(entry.position) <= self._asked for entry in entries)",
        "sum(parse_position(entry.position) < self._asked for entry in entries)",
        "test_faults_clients.py::test_a_killed_readers_successor_goes_on_where_it_stood",
    ),
    Mutant(
        2,
        "an append whose answer was lost is taken for a failure of another writer",
        "joblog/lua.py",
        "if found == last then return {'ok'} end",
        "if found == last then return {'gone'} end",
        "test_faults_network.py::test_resets_and_cut_replies_cost_nobody_a_record",
    ),
    Mutant(
        3,
        "nobody looks for jobs that are not in the queue",
        "worker/app.py",
        "running(sweep, self._watch()",
        "running(self._watch()",
        "test_faults_clients.py::test_a_job_that_was_stored_but_not_queued_is_found_by_the_sweep",
    ),
    Mutant(
        3,
        "nobody looks through the logs for what the queue's server has lost",
        "worker/app.py",
        "self._announce(), scrub)",
        "self._announce())",
        "test_faults_scrub.py::test_jobs_that_wait_for_a_worker_survive_a_queue_that_comes_back_empty",
    ),
    Mutant(
        4,
        "the end is a record like any other",
        "joblog/lua.py",
        "redis.call('XADD', log, '{END}', 'end', value)",
        "redis.call('XADD', log, string.gsub(found, '%d+$', function(s) return s + 1 end), 'end', value)",
        "test_faults_cancel.py::test_a_hundred_races_between_cancel_and_end_have_one_winner_each",
    ),
    Mutant(
        4,
        "nobody looks whether an end that was handed off still stands",
        "worker/sweep.py",
        "reopened += await reopen_handed_off(broker, keys)",
        "pass",
        "test_faults_apart.py::test_an_end_that_only_the_logs_server_lost_is_written_again",
    ),
    Mutant(
        5,
        "a writer that was fenced claims the log back",
        "joblog/lua.py",
        "if found_epoch > own_epoch then return {'fenced', found} end",
        "if found_epoch > own_epoch then return {'lost', found} end",
        "test_faults_workers.py::test_of_two_workers_that_believe_to_own_a_job_only_one_writes",
        also=("if stands > known then return {'fenced', id} end", ""),
    ),
    Mutant(
        5,
        "leases are not renewed",
        "queue/renewal.py",
        "for start in range(0, len(leases), LEASES_PER_CALL):",
        "for start in range(0):",
        "test_faults_workers.py::test_a_blocked_event_loop_does_not_cost_the_job_its_lease",
    ),
    Mutant(
        5,
        "a job that kills its workers runs beside others that died with it",
        "worker/quarantine.py",
        "SUSPECT_DEATHS: Final = 2",
        "SUSPECT_DEATHS: Final = 99",
        "test_faults_workers.py::test_a_job_that_kills_its_workers_does_not_take_its_neighbours_with_it",
    ),
    Mutant(
        5,
        "a lease that the queue's server lost is the death of its worker",
        "worker/run.py",
        "case CancelReason.LEASE_LOST:",
        "case None:",
        "test_faults_scrub.py::test_a_queue_that_comes_back_without_its_jobs_is_told_of_them",
    ),
    Mutant(
        6,
        "a new attempt says again what stands",
        "worker/splice.py",
        "return not self._parted and self._at < len(self._stands)",
        "return False",
        "test_faults_workers.py::test_a_killed_workers_job_goes_on_without_a_word_lost_or_doubled",
    ),
    Mutant(
        6,
        "what a new attempt says otherwise is not taken back",
        "worker/splice.py",
        "return [rewind(boundary, self._run), *([chunk(cut, self._run)] if cut else [])]",
        "return [chunk(cut, self._run)] if cut else []",
        "test_faults_workers.py::test_a_new_attempt_that_goes_another_way_takes_back_what_does_not_stand",
    ),
    Mutant(
        6,
        "what the server lost is not written again",
        "worker/log_writer.py",
        "self.pending = [*again, *self.sent, *self.pending]",
        "self.pending = [*self.sent, *self.pending]",
        "test_faults_server.py::test_a_server_that_lost_its_last_second_gets_it_written_again",
    ),
    Mutant(
        6,
        "a writer stays with the server that had its log",
        "worker/relay.py",
        "            writer.lane = self._lane_of(writer.job_id)",
        "            pass",
        "test_faults_cluster.py::test_the_streams_of_a_killed_primary_go_on_at_its_replica",
    ),
    Mutant(
        7,
        "a worker does not hear that a job is cancelled",
        "worker/app.py",
        'if claimed is not None and word == "cancel":',
        'if claimed is not None and word == "stop":',
        "test_faults_cancel.py::test_a_cancel_is_durable_at_every_stage",
    ),
    Mutant(
        8,
        "a log that has vanished is an empty one",
        "joblog/reading.py",
        "        raise HistoryLost(job_id, after=START, until=END)\n    raise JobNotFound(job_id)",
        "        raise HistoryLost(job_id, after=START, until=END)\n    return Page([], after)",
        "test_faults_server.py::test_a_killed_server_without_an_aof_forgets_and_says_so",
    ),
    Mutant(
        8,
        "a reader does not notice that the server went back",
        "joblog/cursor.py",
        "if not self.stood(after):\n            raise HistoryLost",
        "if self.stood(after):\n            raise HistoryLost",
        "test_faults_server.py::test_a_server_that_lost_its_last_second_gets_it_written_again",
    ),
    Mutant(
        9,
        "nobody ends a job whose time is over",
        "joblog/reading.py",
        "now_ms > deadline + GRACE_S * 1000",
        "now_ms < 0",
        "test_faults_workers.py::test_a_fleet_that_dies_leaves_readers_with_an_end_not_with_silence",
    ),
    Mutant(
        9,
        "a reader's channel is not followed to another server",
        "consumer/hub.py",
        "                self._put_in_place(channel)\n            for",
        "                pass\n            for",
        "test_faults_slots.py::test_a_reader_hears_a_job_live_wherever_it_goes",
    ),
    Mutant(
        10,
        "a reader's buffer has no bound",
        "consumer/tails.py",
        "_MOST: Final = BUFFERED_CHARACTERS",
        "_MOST: Final = BUFFERED_CHARACTERS * 1000",
        "test_faults_clients.py::test_a_reader_that_does_not_keep_up_holds_a_bounded_buffer_and_misses_nothing",
    ),
    Mutant(
        5,
        "leases are renewed at a primary that was replaced",
        "joblog/sentinel.py",
        "if address != self._followed:",
        "if self._followed is None and address != self._followed:",
        "test_faults_sentinel.py::test_jobs_that_run_while_the_queues_primary_is_replaced_are_not_interrupted",
    ),
]


def run(mutant: Mutant) -> str:
    """What became of it: `caught`, `LIVES` or `STALE`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source)
        file = source / "tailrace" / mutant.file
        text = file.read_text()
        for old, new in [(mutant.old, mutant.new), *([mutant.also] if mutant.also else [])]:
            if text.count(old) != 1:
                return "STALE"
            text = text.replace(old, new)
        file.write_text(text)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-m",
                "faults",
                f"tests/faults/{mutant.test}",
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
        if done.returncode == 1 and "failed" in done.stdout:
            return f"caught: {lines[0][1:].strip() if lines else ''}"[:150]
        return f"LIVES {done.stdout[-300:]}"


def main() -> int:
    wanted = " ".join(sys.argv[1:])
    lives = 0
    for mutant in MUTANTS:
        if wanted not in mutant.name:
            continue
        began = time.monotonic()
        outcome = run(mutant)
        lives += not outcome.startswith("caught")
        print(f"{mutant.promise:2} {mutant.name} ({time.monotonic() - began:.0f} s)\n   {outcome}", flush=True)
    return min(lives, 1)


if __name__ == "__main__":
    sys.exit(main())
