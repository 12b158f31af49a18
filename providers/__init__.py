"""Sellers of language-model calls: prices, quotes, execution, and the words they share with the house.

A leaf: nothing here knows the house. Take names from their modules; :mod:`providers.terms` has the words,
:mod:`providers.base` the contract, :mod:`providers.registry` the kinds of sellers there are.
"""

__all__: list[str] = []
