"""`make faults` in small."""

from __future__ import annotations

from tests.schedules import place, run

# It fails over to a server that lacks something, and then loses everything.
SEEDS = (18,)


async def test_random_faults(redis_binary: str) -> None:
    """0 lost, 0 duplicated, 0 out of order, or the client was told. Alone: `python -m tests.schedules --seed N`."""
    with place(redis_binary) as at:
        for seed in SEEDS:
            outcome = await run(at, seed)
            print(f"figure: {outcome}")
            assert not outcome.fork.violations, outcome
            assert outcome.fork.deliveries > 100
