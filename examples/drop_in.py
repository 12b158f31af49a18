"""OpenAI's SDK against the market: change the base URL, keep the program.

Start ``negotiator serve`` first. Prints three answers: one as OpenAI's SDK asks for it, one streamed, and one that
was refused and then taken at the terms the market offered instead.
"""

from __future__ import annotations

import os

from openai import APIStatusError, OpenAI

URL = os.environ.get("NEGOTIATOR_URL", "http://127.0.0.1:8377")
QUESTION = [{"role": "user", "content": "Name three rivers."}]


def main() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("NEGOTIATOR_KEY", "none-needed-on-loopback"))

    terms = {"budget_usd": "0.002", "min_quality": 0.8, "deadline_ms": 20_000}
    answer = client.chat.completions.create(model="auto", messages=QUESTION, extra_body={"negotiator": terms})
    bought = answer.model_extra["negotiator"]
    print(
        f"{bought['provider']}/{bought['model']} for ${bought['cost_usd']}, at most ${bought['ceiling_usd']}:"
    )
    print(f"  {answer.choices[0].message.content!r:.70}")

    print("streamed:")
    stream = client.chat.completions.create(
        model="auto", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    print(f"  {len(pieces)} pieces, {''.join(pieces)!r:.50}")

    try:
        client.chat.completions.create(
            model="auto", messages=QUESTION, extra_body={"negotiator": {"budget_usd": "0.000001"}}
        )
    except APIStatusError as refused:
        offer = refused.body["reject"]["counter_offers"][0]
        print(f"refused with {refused.status_code} {refused.code}; offered instead: {offer['terms']}")
        answer = client.chat.completions.create(
            model="auto", messages=QUESTION, extra_body={"negotiator": offer["terms"]}
        )
        print(f"  taken, for ${answer.model_extra['negotiator']['cost_usd']}")


if __name__ == "__main__":
    main()
