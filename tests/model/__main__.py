"""``make model``: many lists, two at a time; what is different is shrunk and shown.

``CSYNCFS_MODEL_LISTS`` says how many lists (20,000), ``CSYNCFS_MODEL_SEED`` where the seeds begin,
``CSYNCFS_MODEL_PROCESSES`` how many run at a time (2).
"""

import logging
import multiprocessing
import os
import sys
import time
import traceback

from tests.support.batches import run_batch

_BATCH = 100


def _run(seed: int) -> tuple[int, str]:
    logging.disable(logging.CRITICAL)
    try:
        return run_batch(seed, _BATCH), ""
    except BaseException as exc:  # noqa: BLE001 (counted and shown)
        notes = "\n".join(getattr(exc, "__notes__", ()))
        last = "".join(traceback.format_exception(exc)[-25:])
        return _BATCH, f"{last}\n{notes}"


def main() -> int:
    """The number of differences, as an exit code."""
    wanted = int(os.environ.get("CSYNCFS_MODEL_LISTS", "20000"))
    first = int(os.environ.get("CSYNCFS_MODEL_SEED", "1000"))
    processes = int(os.environ.get("CSYNCFS_MODEL_PROCESSES", "2"))
    began = time.monotonic()
    done = differences = 0
    seeds = range(first, first + (wanted + _BATCH - 1) // _BATCH)
    with multiprocessing.Pool(processes, maxtasksperchild=20) as pool:
        for count, difference in pool.imap_unordered(_run, seeds):
            done += count
            if difference:
                differences += 1
                print(f"\n--- difference {differences} ---\n{difference}\n", flush=True)
            rate = done / (time.monotonic() - began)
            print(f"{done} lists, {differences} differences, {rate:.1f} lists/s", flush=True)
    return min(differences, 100)


if __name__ == "__main__":
    sys.exit(main())
