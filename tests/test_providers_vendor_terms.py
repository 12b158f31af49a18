"""Vendor terms: rows that are checked, and errors that name theirs."""

from __future__ import annotations

import pytest

from providers.terms import CacheWrites, RateKind, RateLimit
from providers.vendor_terms import VendorTermsInvalid, load_vendor_terms, parse_vendor_terms

TERMS = load_vendor_terms()

GOOD = """
[prices]
package = "genai-prices"
version = "0.2.3"
released = 2026-11-10
[[vendor]]
name = "v"
cached_input_counts = true
source = "https://example.com"
checked = 2026-11-23
[[tokens]]
vendor = "*"
models = ["*"]
vocabulary = "o200k"
factor = 1.0
margin = 1.1
source = "https://example.com"
checked = 2026-11-23
[[model]]
vendor = "*"
models = ["*"]
source = "https://example.com"
checked = 2026-11-23
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "margin = 1.1",
            "margin = 0.9",
            r"\[\[tokens\]\] row 1, margin: expected at least factor 1.0, found 0.9",
        ),
        ("factor = 1.0", 'factor = "x"', r"\[\[tokens\]\] row 1 \(\*\), factor: .* found 'x'"),
        ('name = "v"', 'name = "v"\nspeed = 1', r"\[\[vendor\]\] row 1 \(v\), speed: .* found 1"),
        (
            'vendor = "*"\nmodels = ["*"]\nsource',
            'vendor = "w"\nmodels = ["*"]\nsource',
            r"\[\[model\]\] row 1, vendor: .* 'w'",
        ),
        (
            "checked = 2026-11-23\n[[tokens]]",
            "[[tokens]]",
            r"\[\[vendor\]\] row 1 \(v\), checked: field required",
        ),
        ("[[vendor]]", "[vendor]", r"expected \[\[vendor\]\] rows"),
        ("[[model]]", "[[modle]]", "found 'modle'"),
        ("[prices]", "[prices", "expected TOML"),
    ],
)
def test_a_wrong_row_of_vendor_terms_is_named(old: str, new: str, message: str) -> None:
    """File, table, row number, field, what was expected and what was found."""
    parse_vendor_terms(GOOD)
    with pytest.raises(VendorTermsInvalid, match=rf"here\.toml: .*{message}|here\.toml: {message}"):
        parse_vendor_terms(GOOD.replace(old, new, 1), "here.toml")


def test_every_listed_model_has_its_facts() -> None:
    """Each has a row on its tokens; a cache has whole blocks; every vendor has a page it was read from."""
    for vendor in TERMS.vendors:
        assert TERMS.vendor(vendor).source.startswith("https://")
        for model in TERMS.listed(vendor):
            assert TERMS.tokens(vendor, model).vocabulary != "unknown"
            cache = TERMS.cache(vendor, model)
            assert cache is None or cache.min_tokens >= cache.block_tokens


def test_the_first_row_that_fits_holds() -> None:
    """GPT-6 charges cache writes and GPT-5 does not; Haiku 5.5 caches from 512 tokens and Haiku 4.5 from 4,096."""
    gpt_6, gpt_5 = TERMS.cache("openai", "gpt-6-luna"), TERMS.cache("openai", "gpt-5-nano")
    new, old = TERMS.cache("anthropic", "claude-haiku-5-5"), TERMS.cache("anthropic", "claude-haiku-4-5")
    assert gpt_6 is not None
    assert gpt_5 is not None
    assert (gpt_6.writes, gpt_5.writes) == (CacheWrites.CHARGED, CacheWrites.FREE)
    assert new is not None
    assert old is not None
    assert (new.min_tokens, old.min_tokens) == (512, 4096)


def test_limits_are_counted_as_the_vendor_counts() -> None:
    """Anthropic's input limit leaves cached tokens out; OpenAI's does not; other limits stay."""
    limits = (RateLimit(RateKind.INPUT_TOKENS, 100), RateLimit(RateKind.REQUESTS, 5))
    assert TERMS.limits("openai", limits) == limits
    assert TERMS.limits("anthropic", limits) == (RateLimit(RateKind.UNCACHED_INPUT_TOKENS, 100), limits[1])


def test_an_unknown_vendor_is_told_the_known_ones() -> None:
    """The message lists them."""
    with pytest.raises(KeyError, match=r"vendor: expected one of alibaba, anthropic.* found 'opnai'"):
        TERMS.vendor("opnai")
