"""A process that writes experiences until it is killed: ``python -m ... URL CAPACITY``."""

import itertools
import sys

from services.rl.data.redis_replay import RedisReplayStore

from .experiences import experiences


def main() -> None:
    """Write, correct and remove, round and round."""
    store = RedisReplayStore(sys.argv[1], prefix="forever", capacity=int(sys.argv[2]))
    given = experiences(120)
    print("begun", flush=True)
    for turn in itertools.count():
        store.put(1, given[turn % 7 :: 2])
        store.remove(1, [e.id for e in given[turn % 5 :: 3]])


if __name__ == "__main__":
    main()
