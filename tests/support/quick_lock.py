"""`python -m tests.support.quick_lock` is `gap_jax train` whose lock in a bucket is soon stale."""

import sys

from gap_jax import cli
from gap_jax.runtime.bucket import heartbeat_lock as lock

if __name__ == "__main__":
    lock.HEARTBEAT_S, lock.STALE_AFTER_S, lock.POLL_S = 0.2, 1.5, 0.2
    sys.exit(cli.run_process("train"))
