"""The nouns of strategies: nothing said is nothing kept."""

from modelux.config.strategies import TIERS, Own


def test_a_strategy_of_which_nothing_was_said_has_nothing_of_its_own() -> None:
    assert Own() == Own(variants=(), rules=(), accepts=())
    assert Own().quality_tier is None


def test_tiers_go_from_the_cheapest_to_the_dearest() -> None:
    assert TIERS == ("economy", "standard", "premium", "frontier")
