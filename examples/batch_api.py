"""OpenAI's Batch API at the market: upload lines, let them be planned and run within every limit, fetch the results.

Start ``negotiator serve`` first. The SDK is OpenAI's own; what is ours is the terms: defaults for the batch in its
metadata, and any line may have its own.
"""

from __future__ import annotations

import json
import os
import time

from openai import OpenAI

URL = os.environ.get("NEGOTIATOR_URL", "http://127.0.0.1:8377")
SUBJECTS = ("rivers", "metals", "planets", "grasses", "harbours", "bridges")


def line(number: int, subject: str) -> str:
    """One request in OpenAI's batch format; the last has a budget nobody can meet."""
    asked = {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "auto",
            "messages": [{"role": "user", "content": f"Name three {subject}."}],
            "max_tokens": 60,
        },
    }
    if number == len(SUBJECTS) - 1:
        asked["terms"] = {"budget_usd": "0.00000001"}
    return json.dumps(asked)


def main() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("NEGOTIATOR_KEY", "none-needed-on-loopback"))
    lines = "\n".join(line(number, subject) for number, subject in enumerate(SUBJECTS))
    file = client.files.create(file=("lines.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"negotiator": json.dumps({"min_quality": 0.7, "budget_usd": "0.002"})},
    )
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    print(batch.status, batch.request_counts.completed, "served,", batch.request_counts.failed, "refused")
    if batch.output_file_id:
        for text in client.files.content(batch.output_file_id).text.splitlines():
            result = json.loads(text)
            bought = result["response"]["body"]["negotiator"]
            print(
                f"  {result['custom_id']}: {bought['provider']}/{bought['model']} for ${bought['cost_usd']}"
            )
    if batch.error_file_id:
        for text in client.files.content(batch.error_file_id).text.splitlines():
            result = json.loads(text)
            print(f"  {result['custom_id']}: {result['error']['message']}")


if __name__ == "__main__":
    main()
