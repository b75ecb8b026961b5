"""How often do votes lead to the limit that people want? Simulated polls of known preference; one JSON line each.

Usage: python benchmarks/bench_votes.py [--polls 1000] [--seed 0]

The lower two of five bins are bad. Who sees a bad and a good clip prefers the good one with the chance `certainty`; who
sees two of a kind, or has the certainty 0.5, says left, right or equal by chance.
"""

import argparse
import json
from itertools import combinations

import numpy as np

from mutoscope.curate.verdict import Outcomes, Verdict
from mutoscope.curate.vote import Candidates, bins_of

BINS, BAD = 5, 2
VALUES = {f"{i:03d}": float(i) for i in range(100)}


def poll(votes: int, certainty: float, chance: np.random.Generator) -> tuple[int, int]:
    """Return how many bins are left out at the low end and at the high end."""
    pairs = np.array(list(combinations(range(BINS), 2)))
    low, high = pairs[np.arange(votes) % len(pairs)].T
    by_chance = chance.choice([0.0, 0.5, 1.0], votes)
    knows = (low < BAD) & (high >= BAD) & (certainty > 0.5)
    worth = np.where(knows, (chance.random(votes) >= certainty).astype(float), by_chance)  # to the lower bin
    verdict = Verdict(Candidates("score", VALUES, {}), bins_of(VALUES, BINS), Outcomes(low, high, worth), 1, 0)
    return verdict.cuts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--polls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for certainty in (0.5, 0.65, 0.8, 0.95):
        for votes in (50, 100, 200, 400):
            chance = np.random.default_rng([args.seed, votes, round(100 * certainty)])
            cuts = [poll(votes, certainty, chance) for _ in range(args.polls)]
            shares = {
                "none": sum(cut == (0, 0) for cut in cuts),
                "lower": sum(cut == (1, 0) for cut in cuts),
                "right": sum(cut == (BAD, 0) for cut in cuts),
            }
            told = {name: round(count / args.polls, 3) for name, count in shares.items()}
            told["other"] = round(1 - sum(shares.values()) / args.polls, 3)
            print(json.dumps({"votes": votes, "certainty": certainty, "polls": args.polls, **told}))


if __name__ == "__main__":
    main()
