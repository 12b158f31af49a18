#!/usr/bin/env python3
"""Makes a workload of any size: chat requests with terms, one JSON object a line, in the shape of workload.jsonl.

    python examples/make_workload.py 100000 --seed 7 --out big.jsonl

Line i depends on the seed and on i alone: the same seed gives the same file, a longer file begins with the
shorter one, and memory does not grow. About one line in ten asks about a rule book of some 1,600 tokens that
about seven others ask about as well; with the short ones a line has about 250 tokens on average.
Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["main", "requests"]

LINES_PER_BOOK = 80
SHARE_ABOUT_BOOKS = 0.1
SHARE_IMPOSSIBLE = 0.015

# Quality floor, then list prices (nano-dollars per token, input and output) of what usually meets it.
CLASSES = (
    (0.70, 0.80, 150, 600),
    (0.80, 0.88, 150, 600),
    (0.88, 0.95, 300, 2_000),
    (0.95, 0.97, 2_000, 10_000),
)
CLASS_WEIGHTS = (30, 35, 27, 8)

NAMED_MODELS = (
    "anthropic/claude-haiku-5-5",
    "anthropic/claude-sonnet-5-5",
    "deepseek/deepseek-flash",
    "google/gemini-3.5-flash-lite",
    "openai/gpt-6-luna",
    "openai/gpt-6.1-sol",
)

# fmt: off
PLACES = (
    "Aarhus", "Bergen", "Cadiz", "Dresden", "Evora", "Fribourg", "Ghent", "Hilo", "Izmir", "Jaipur",
    "Kobe", "Lugano", "Malmo", "Nantes", "Oulu", "Porto",
)
PEOPLE = (
    "Adaeze", "Bjarne", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiroshi", "Ines", "Jamal", "Katja",
    "Liam", "Mei", "Noor", "Oskar", "Priya",
)
THINGS = (
    "kettle", "bicycle", "tent", "router", "lamp", "violin", "printer", "kayak", "drill", "microscope",
    "suitcase", "toaster", "heater", "loom",
)
# fmt: on
FAULTS = (
    "arrived without its cable",
    "makes a grinding noise",
    "is the wrong colour",
    "stopped after two days",
    "smells of burnt dust",
    "shows error {n}",
    "was charged twice",
    "came with somebody else's invoice",
)
WISHES = (
    "I need it by Friday.",
    "Can I have my money back?",
    "Please send a new one to {place}.",
    "What should I try first?",
    "I would rather keep it for a discount.",
    "Whom can I call?",
    "It is a present, so please be quick.",
)
LANGUAGES = ("Danish", "German", "Hindi", "Italian", "Japanese", "Polish", "Portuguese", "Swahili", "Turkish")
CODE_LANGUAGES = ("C++", "Go", "Java", "Kotlin", "Python", "Rust", "SQL", "TypeScript")
CODE_TASKS = (
    "removes duplicates from a list of {things} but keeps the first of each",
    "finds the {n} largest files below a folder",
    "reads {things} from a CSV file and sums their prices per month",
    "retries a call at most {n} times with growing pauses",
    "checks whether two time spans overlap",
    "keeps the {n} latest {things} in a cache and drops the oldest",
)
FACTS = (
    "{person} opened the workshop in {place} in {year} with {n} {things}.",
    "Last year {n} visitors came, {m} of them from {place}.",
    "A {thing} costs {n} euros to make and {m} hours of somebody's patience.",
    "The roof was repaired twice, and {person} still keeps a bucket under it.",
    "In {year} the council of {place} offered to buy the building; {person} asked for {m} days to think.",
    "Half of the {things} are lent out, mostly to schools, at {m} euros a week.",
    "What is broken is repaired on Thursdays by {person} and {other}, who do not agree on glue.",
)
RULES = (
    "A {thing} may be borrowed for {m} days; after that each further day costs {n} cents.",
    "Whoever returns a {thing} damaged tells {person}, and pays at most {n} euros.",
    "Bookings from {place} are confirmed within {m} hours, others on the next working day.",
    "Groups of more than {m} people need the consent of {person}, asked for {n} days ahead.",
    "Between {m} and {n} o'clock the hall belongs to {person}'s class, whatever the calendar says.",
    "A deposit of {n} euros is taken for every {thing} and given back on its return, less {m} euros for cleaning.",
    "Members of {m} years' standing pay nothing for a {thing} on weekdays.",
    "Keys are handed out by {person} or {other}, never by both on the same day.",
    "A {thing} that was not fetched within {m} hours goes to the next in the queue.",
    "Complaints go to {person}; if there is no answer within {n} days, to {other}.",
)
QUESTIONS = (
    "How long may I keep a {thing}, and what does it cost if I am late?",
    "Whom do I ask if {m} of us want to come?",
    "I broke a {thing}. What now?",
    "Which rules mention {person}? Quote their numbers.",
    "Do the rules contradict each other?",
    "What do I pay for a {thing} as a member of {n} years' standing?",
    "Sum up what a newcomer must know in five lines.",
)


def requests(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``count`` request lines, made one by one."""
    for number in range(count):
        yield _request(number, seed)


def _request(number: int, seed: int) -> dict[str, Any]:
    rng = Random(f"{seed}/{number}")
    if rng.random() < SHARE_ABOUT_BOOKS:
        book = number // LINES_PER_BOOK
        kind, system, prompt, max_tokens = "book", _book(seed, book), _fill(rng.choice(QUESTIONS), rng), 250
        session = f"book-{book}"
    else:
        kind = rng.choices(tuple(_MAKERS), _WEIGHTS)[0]
        system, session = None, None
        prompt, max_tokens = _MAKERS[kind](rng)
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {"model": "auto", "messages": messages}
    if rng.random() < 0.06:
        body["model"] = rng.choice(NAMED_MODELS)
    if rng.random() < 0.95:
        body["max_tokens"] = max_tokens
    input_tokens = (len(prompt) + len(system or "")) // 4 + 10
    terms = _terms(rng, kind, input_tokens, max_tokens, session)
    return {
        "custom_id": f"{kind}-{number:07}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
        "terms": terms,
    }


def _terms(rng: Random, kind: str, input_tokens: int, max_tokens: int, session: str | None) -> dict[str, Any]:
    low, high, input_nusd, output_nusd = rng.choices(CLASSES, CLASS_WEIGHTS)[0]
    worth_nusd = input_tokens * input_nusd + max_tokens * output_nusd
    budget_nusd = worth_nusd * rng.randint(120, 400) // 100
    terms: dict[str, Any] = {"min_quality": round(rng.uniform(low, high), 3), "task": kind}
    if rng.random() < SHARE_IMPOSSIBLE:
        budget_nusd //= 1_000
    if rng.random() < 0.35:
        terms["deadline_ms"] = rng.choice((6_000, 10_000, 20_000, 45_000))
    elif rng.random() < 0.4:
        terms["tiers"] = ["standard", "flex", "batch"] if rng.random() < 0.5 else ["standard", "flex"]
    if rng.random() < 0.15:
        terms["value_usd"] = _usd(budget_nusd * rng.randint(2, 30))
    if rng.random() < 0.04:
        terms["exclude"] = [rng.choice(("anthropic/*", "deepseek/*", "google/*", "openai/*", "x-ai/*"))]
    if rng.random() < 0.05:
        terms["policy"] = rng.choice(("balanced", "best_quality", "fastest", "two_tier"))
    if session:
        terms["session"] = session
    return {"budget_usd": _usd(budget_nusd), **terms}


def _usd(nusd: int) -> str:
    """Nano-dollars as a decimal string, cut to ten-millionths."""
    dollars, rest = divmod(nusd // 100, 10**7)
    return f"{dollars}.{rest:07}".rstrip("0").rstrip(".")


def _fill(text: str, rng: Random) -> str:
    person, other = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    return text.format(
        person=person,
        other=other,
        place=rng.choice(PLACES),
        thing=thing,
        things=thing + "s",
        n=rng.randint(12, 97),
        m=rng.randint(2, 11),
        year=rng.randint(1921, 2024),
    )


@lru_cache(maxsize=64)
def _book(seed: int, number: int) -> str:
    rng = Random(f"{seed}/book/{number}")
    house = f"the lending house of {rng.choice(PLACES)}, no. {number}"
    rules = (f"{rule}. {_fill(rng.choice(RULES), rng)}" for rule in range(1, 66))
    return f"You answer questions about {house}, by its rules alone. Quote rule numbers.\n\n" + "\n".join(
        rules
    )


def _support(rng: Random) -> tuple[str, int]:
    fault, wish = _fill(rng.choice(FAULTS), rng), _fill(rng.choice(WISHES), rng)
    opening = rng.choice(("Hello,", "Hi there!", "Good morning.", "To whom it may concern:"))
    order = f"order {rng.randint(10_000, 99_999)}"
    return (
        f"{opening} the {rng.choice(THINGS)} from {order} {fault}. {wish} {rng.choice(PEOPLE)}, {rng.choice(PLACES)}",
        250,
    )


def _extract(rng: Random) -> tuple[str, int]:
    lines = [
        f"{rng.randint(1, 9)} x {rng.choice(THINGS)} at {rng.randint(3, 400)}.{rng.randint(0, 99):02}"
        for _ in range(rng.randint(2, 12))
    ]
    head = f"Invoice {rng.randint(1000, 9999)}, {rng.choice(PEOPLE)}, {rng.choice(PLACES)}, due in {rng.choice((14, 30, 45))} days"
    return (
        f"As JSON {{number, name, city, due_days, lines: [{{count, item, price}}]}}:\n\n{head}\n"
        + "\n".join(lines),
        400,
    )


def _classify(rng: Random) -> tuple[str, int]:
    text = f"The {rng.choice(THINGS)} {_fill(rng.choice(FAULTS), rng)}. {_fill(rng.choice(WISHES), rng)}"
    return f"One label of: delivery, defect, payment, praise, other.\n\n{text}", 16


def _code(rng: Random) -> tuple[str, int]:
    task = _fill(rng.choice(CODE_TASKS), rng)
    extra = rng.choice(
        (
            "Say what it costs in time and memory.",
            "Add three tests.",
            "No dependency.",
            "Explain the edge cases.",
        )
    )
    return f"Write a function in {rng.choice(CODE_LANGUAGES)} that {task}. {extra}", 600


def _maths(rng: Random) -> tuple[str, int]:
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 30)
    return rng.choice(
        (
            f"A tank of {a * 40} litres fills at {b} litres a minute and leaks {c % b} of them. When is it full?",
            f"{a} {rng.choice(THINGS)}s cost {b * 13} euros together. How much are {c}, with {a % 20} % off?",
            f"How many ways are there to seat {c} people round a table if {rng.choice(PEOPLE)} and {rng.choice(PEOPLE)} quarrel?",
            f"The remainder of {a}^{b * 7} divided by {c * 11 + 1}, with the steps.",
        )
    ), 400


def _summary(rng: Random) -> tuple[str, int]:
    text = " ".join(_fill(rng.choice(FACTS), rng) for _ in range(rng.randint(4, 18)))
    return f"In {rng.choice(('one sentence', 'three bullet points', 'forty words'))}:\n\n{text}", 160


def _translate(rng: Random) -> tuple[str, int]:
    text = " ".join(_fill(rng.choice(FACTS), rng) for _ in range(rng.randint(1, 5)))
    return f"Translate into {rng.choice(LANGUAGES)}, and keep the tone:\n\n{text}", 300


_MAKERS: dict[str, Callable[[Random], tuple[str, int]]] = {
    "support": _support,
    "extract": _extract,
    "classify": _classify,
    "code": _code,
    "maths": _maths,
    "summary": _summary,
    "translate": _translate,
}
_WEIGHTS = (20, 18, 20, 8, 8, 16, 10)


def main(arguments: list[str] | None = None) -> int:
    """Writes the lines to a file or to standard output."""
    parser = argparse.ArgumentParser(description="Make a workload of chat requests with terms (JSON lines).")
    parser.add_argument("count", type=_positive, metavar="N", help="how many lines")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other lines (default 0)")
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")
    options = parser.parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(options.out.open("w", encoding="utf-8")) if options.out else sys.stdout
            for line in requests(options.count, options.seed):
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough, as in `| head`
    except OSError as error:
        print(f"make_workload: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number > 0, found {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
