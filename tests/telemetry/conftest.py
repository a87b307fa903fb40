"""Helpers of the gateway's and the webhooks' tests."""

import sys
from pathlib import Path

for folder in ("gateway", "consumer"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
