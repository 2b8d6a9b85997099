"""A file in, code over it, a chart out."""

from __future__ import annotations

import os

from alphagent import ResourceLimitError, Sandbox, TimeoutError

BASE_URL = os.environ.get("ALPHAGENT_BASE_URL", "http://127.0.0.1:8000")
CODE = """
import pandas as pd
frame = pd.read_csv("/workspace/sales.csv")
frame.plot(x="month", y="revenue").figure.savefig("/workspace/chart.png")
print(frame.revenue.sum())
"""


def main() -> None:
    """Make the chart, or say why not."""
    with Sandbox(timeout=60, memory=1024, base_url=BASE_URL) as sandbox:
        sandbox.upload("/workspace/sales.csv", b"month,revenue\n1,10\n2,32\n")
        try:
            result = sandbox.run(CODE)
        except (TimeoutError, ResourceLimitError) as error:
            print(error, "It had printed:", error.result.output if error.result else "")
            return
        print(result.output or result.error)
        with open("chart.png", "wb") as file:
            file.write(sandbox.download("/workspace/chart.png"))


if __name__ == "__main__":
    main()
