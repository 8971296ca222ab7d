"""Read the reports of the Autobahn Testsuite. Usage: check.py index.json [LEAST_NUMBER_OF_CASES]

The exit status is 1 if a case failed in behaviour or in its way of closing, or if too few ran.
"""

import collections
import json
import sys
from pathlib import Path

# "UNIMPLEMENTED" means that compression was not negotiated.
FAILING = {"FAILED", "WRONG CODE", "UNCLEAN", "UNIMPLEMENTED"}


def check(index: dict[str, dict[str, dict[str, str]]], least: int = 1) -> list[str]:
    """Return what is wrong, a line each."""
    wrong = [
        f"{agent} {case}: behaviour {result['behavior']}, closing {result['behaviorClose']}"
        for agent, cases in index.items()
        for case, result in cases.items()
        if FAILING & {result["behavior"], result["behaviorClose"]}
    ]
    count = sum(map(len, index.values()))
    if count < least:
        wrong.append(f"only {count} cases ran, of at least {least}")
    return wrong


def main(path: str, least: str = "1") -> int:
    index = json.loads(Path(path).read_text(encoding="utf-8"))
    for agent, cases in index.items():
        for key in ("behavior", "behaviorClose"):
            counts = collections.Counter(result[key] for result in cases.values())
            print(f"{agent} {key}: " + ", ".join(f"{k} {n}" for k, n in sorted(counts.items())))
    wrong = check(index, int(least))
    print("\n".join(wrong) if wrong else "passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
