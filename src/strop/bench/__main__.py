"""`python -m strop.bench gpu`: as `strop bench gpu`, with nothing installed but torch and Triton."""

import argparse
import sys
from pathlib import Path

from strop.bench import gpu


def main() -> int:
    parser = argparse.ArgumentParser("python -m strop.bench", description=gpu.Options.__doc__)
    parser.add_argument("command", choices=["gpu"])
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--device", default="cuda", help="which GPU")
    parser.add_argument("--minutes", type=float, default=gpu.Options.minutes, help="stop after that long")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a trial of the suite itself")
    options = vars(parser.parse_args())
    options.pop("command")
    try:
        return gpu.run(gpu.Options(**options))
    except ValueError as error:
        print(f"strop: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
