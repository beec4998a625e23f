"""What a search takes where it is given no numbers."""

import pytest

from fbnet_mobile.search.recipe import SearchRecipe


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size", "rate"),
    # Those of 5,000 and 45,000 images were measured: benchmarks/results/search_quality*.json.
    [(60, 60, 2, 0.052), (2_000, 60, 64, 0.044), (5_000, 40, 64, 0.026), (45_000, 6, 64, 0.019), (10**6, 6, 64, 0.01)],
)
def test_a_recipe_is_fitted_to_the_number_of_images(images: int, epochs: int, batch_size: int, rate: float) -> None:
    fitted = SearchRecipe().fitted(images)
    assert (fitted.epochs, fitted.batch_size, fitted.architecture_learning_rate) == (epochs, batch_size, rate)
    assert fitted.fitted(7) == fitted


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"), [(200, 60, 16), (2_000, 20, 64), (5_000, 8, 64), (45_000, 8, 64)]
)
def test_within_a_trained_network_few_images_are_seen_more_often(images: int, epochs: int, batch_size: int) -> None:
    fitted = SearchRecipe(weight_share=0.9).fitted(images, within=True)
    assert (fitted.epochs, fitted.batch_size) == (epochs, batch_size)


def test_what_is_given_is_kept_and_the_rest_follows_from_it() -> None:
    fitted = SearchRecipe(epochs=10, batch_size=32).fitted(5_000)
    assert (fitted.epochs, fitted.batch_size) == (10, 32)
    assert fitted.architecture_learning_rate == pytest.approx(14 / (0.89 * 10 * 31), rel=0.05)
