"""Many patterns at once: the index finds what matching each by itself finds."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from polos.engine.patterns import Patterns, matches

from tests.campaign import scaled

_patterns = st.lists(st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=5), max_size=12)
TOPICS = ["/".join(found) for length in range(1, 5) for found in product(("a", "b", ""), repeat=length)]


@settings(max_examples=scaled(40, 2_000), deadline=None)
@given(_patterns)
def test_the_index_finds_what_matching_one_by_one_finds(found: list[list[str]]):
    """In the order in which they were added, each once, also where a ** stands for nothing or for much."""
    said = ["/".join(segments) for segments in found]
    patterns: Patterns[int] = Patterns()
    for number, pattern in enumerate(said):
        patterns.add(pattern, number)

    for topic in (*TOPICS, "a/*", "**", "*/b"):
        assert [number for number, pattern in enumerate(said) if matches(pattern, topic)] == patterns.matching(topic)
