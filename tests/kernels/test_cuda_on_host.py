"""What compiles CUDA kernels for this processor: it reports what would hang or be undefined on a GPU."""

import pytest
from cuda_on_host.kernels import NEEDS_COMPILER, on_host

pytestmark = NEEDS_COMPILER


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ends early", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 7 has ended"),
        ("waits elsewhere", r"thread 0 waits for its block at .*faulty\.cpp:\d+, but thread 32 waits for its block at"),
        ("misses a shuffle", r"waits for its warp at .*faulty\.cpp:\d+, but thread \d+ "),
        ("writes behind", "faulty: writes behind its shared memory"),
        ("wants too much", "faulty: too much shared memory"),
        ("a block ends early", r"faulty_team, block 1: thread 0 waits for its block at .*, but thread 7 has ended"),
    ],
)
def test_threads_that_part_at_a_barrier_are_reported(fault: str, message: str) -> None:
    run = on_host().faulty
    with pytest.raises(RuntimeError, match=message):
        run(fault)
    assert run("nothing") == 64  # and the next kernel runs as if nothing had been


def test_blocks_that_cannot_run_at_once_are_refused() -> None:
    assert on_host().faulty("too many blocks") == -1


def test_a_race_gives_different_results() -> None:
    run = on_host().faulty
    assert len({run("race") for _ in range(20)}) > 1
