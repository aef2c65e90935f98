"""What of an item's content becomes a feature, and what odd content does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import orjson
import pytest

from recsys.content import FeatureEncoder, ItemContent, attribute_values, category_levels, words
from recsys.ids import HashIndex
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.features import fit_features, item_contents
from recsys.ranking import Query
from tests.factories import checkerboard, history, make_catalogue


def test_words_are_different_and_lower_case_and_keep_numbers() -> None:
    assert words("Milk 1.5 L, MILK!") == ["milk", "1.5", "l"]


def test_scripts_without_spaces_become_pairs_of_characters() -> None:
    assert words("有機牛乳") == ["有機", "機牛", "牛乳"]


def test_a_category_is_also_everything_above_it() -> None:
    assert category_levels("A > B > C") == ["A", "A > B", "A > B > C"]
    assert category_levels(None) == []


def test_an_encoder_that_went_through_plain_data_encodes_alike() -> None:
    found = fit_features(make_catalogue(40))
    params = orjson.loads(orjson.dumps(found.encoder.params()))
    vocabulary = HashIndex(found.encoder.vocabulary.hashes.copy(), found.encoder.vocabulary.rows.copy())
    again = FeatureEncoder.from_params(params, vocabulary, found.encoder.idf.copy())
    for row, content in enumerate(item_contents(make_catalogue(40))):
        features, weights = again.encode(content)
        assert features.tolist() == found.features[row].tolist()
        assert weights.tolist() == found.weights[row].tolist()


def test_weights_of_an_item_have_length_one() -> None:
    found = fit_features(make_catalogue(40))
    np.testing.assert_allclose((found.weights**2).sum(axis=1), 1.0, rtol=1e-5)


def test_an_item_of_which_nothing_is_known_has_no_feature() -> None:
    encoder = fit_features(make_catalogue(40)).encoder
    for content in (ItemContent(), ItemContent(title="??", category="Unheard of", brand=" ", attributes={"x": None})):
        features, weights = encoder.encode(content)
        assert (features < 0).all() and (weights == 0).all()


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"titles": tuple(f"i{n}" if n < 3 else f"Item {n}" for n in range(40))}, "3 of 40 items have no title"),
        ({"category": np.full(40, -1, dtype=np.int32)}, "40 of 40 items have no category"),
        ({"listed_price_cents": np.r_[np.full(3_999, 100), 10**11]}, "cost more than"),
        (
            {"attributes": tuple(orjson.dumps({"serial": f"SN-{n}"}).decode() for n in range(4_000))},
            "'serial' has 4,000 different",
        ),
    ],
)
def test_odd_content_trains_with_a_warning_that_names_it(
    change: dict[str, object], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    wide = "attributes" in change or "listed_price_cents" in change
    catalogue = replace(make_catalogue(4_000 if wide else 40), **change)  # type: ignore[arg-type]
    found = fit_features(catalogue)
    assert any(warning in text for text in found.warnings), found.warnings
    assert warning in caplog.text


def test_numbers_that_hardly_two_items_share_become_classes_of_their_size() -> None:
    weights = tuple(orjson.dumps({"grams": f"{n}.5", "maker": str(n % 7)}).decode() for n in range(320))
    found = fit_features(replace(make_catalogue(320), attributes=weights))
    plan = found.encoder.plan
    assert set(plan.edges) == {"price", "grams"}, "a maker's number is a name"
    assert len(plan.edges["grams"]) == 31
    (light,), (near,), (heavy,) = (
        dict(plan.values(ItemContent(attributes={"grams": grams})))["grams"] for grams in (3, "4.5", 1e9)
    )
    assert light == near == "0" and heavy == "31"
    for odd in ("a few", float("nan"), 1e308, 10**400, True, None, [3, 4]):
        assert "grams" not in dict(plan.values(ItemContent(attributes={"grams": odd})))


def test_all_items_at_once_are_encoded_as_one_by_one() -> None:
    told = {"tags": ["a", "b", "c", "d"], "colour": "red"}
    texts = tuple(
        orjson.dumps({**told, "tags": [f"tag {(n * step) % 50}" for step in range(1, 20)]}).decode() for n in range(60)
    )
    catalogue = replace(
        make_catalogue(60), attributes=texts, titles=tuple("word " * (n % 3) + str(n) for n in range(60))
    )
    found = fit_features(catalogue)
    assert max(block.slots for block in found.encoder.blocks) < 19, "some items have more tags than slots"
    for row, content in enumerate(item_contents(catalogue)):
        features, weights = found.encoder.encode(content)
        assert features.tolist() == found.features[row].tolist()
        np.testing.assert_allclose(weights, found.weights[row], atol=1e-6)


@pytest.mark.parametrize("name", ["text", "brand", "price", "category", "category 2", "category x brand", "@text"])
@pytest.mark.parametrize("values", [["red", "blue"], [["a", "b"], ["b", "c"]], [1.5, 2.5]])
def test_an_attribute_called_like_one_of_ours_is_encoded_alike(name: str, values: list[object]) -> None:
    told = tuple(orjson.dumps({name: values[n % 2]}).decode() for n in range(40))
    catalogue = replace(make_catalogue(40), attributes=told)
    found = fit_features(catalogue)
    assert (found.encoder.idf > 0).all()
    for row, content in enumerate(item_contents(catalogue)):
        assert found.encoder.encode(content)[0].tolist() == found.features[row].tolist()
        assert not found.encoder.unknown(content) or row == 0 or "text" in found.encoder.unknown(content)


def test_attributes_that_are_no_object_count_as_none() -> None:
    catalogue = replace(make_catalogue(2), attributes=("[1]", "{torn"))
    assert [content.attributes for content in item_contents(catalogue)] == [{}, {}]


def test_a_shop_without_events_or_without_content_still_fits() -> None:
    shop = checkerboard()
    nothing = replace(shop, events=shop.events.take(slice(0, 0)))
    bare = replace(
        shop,
        catalogue=replace(
            shop.catalogue,
            titles=shop.catalogue.item_ids,
            brands=(None,) * 40,
            category=np.full(40, -1, dtype=np.int32),
            listed_price_cents=np.full(40, -1, dtype=np.int64),
        ),
    )
    for dataset in (nothing, bare):
        model = ContentRecommender(epochs=1).fit(dataset, shop.until, np.random.default_rng(0))
        assert len(model.recommend(Query(history=history(0, 2)), 5, np.ones(40, dtype=np.bool_))) in (0, 5)


def test_odd_content_is_learnt_from_without_a_trace_of_nan() -> None:
    shop = checkerboard()
    odd = replace(
        shop.catalogue,
        titles=tuple((f"i{n}", "有機緑茶", "شاي", "🌿", "Tea")[n % 5] for n in range(40)),
        category=np.where(np.arange(40) % 7 == 0, -1, shop.catalogue.category).astype(np.int32),
        listed_price_cents=np.r_[-1, 0, 10**11, np.full(37, 100)].astype(np.int64),
        attributes=tuple(orjson.dumps({"serial": f"SN-{n}"}).decode() for n in range(40)),
    )
    # A moment from which the last snapshot sees half of the events as past, and half as future.
    at = shop.until + 15 * 86_400
    model = ContentRecommender(epochs=1, min_steps=20).fit(replace(shop, catalogue=odd), at, np.random.default_rng(0))
    ranking = model.recommend(Query(history=history(0, 2)), 10, np.ones(40, dtype=np.bool_))
    assert len(ranking) == 10 and np.isfinite(ranking.scores).all()
    assert np.isfinite(model.hidden).all() and np.isfinite(model.match.weights).all()


@pytest.mark.parametrize(
    ("exported", "put", "values"),
    [
        ('["t0","t1"]', ["t0", "t1"], ["t0", "t1"]),
        ("[1, 2.5]", [1, 2.5], ["1", "2.5"]),
        ('["t0", null, ["t1"]]', ["t0", None, ["t1"]], ["t0"]),
        ("[]", [], []),
        ("true", True, ["true"]),
        ("False", False, ["false"]),
        ("3", 3, ["3"]),
        (json.dumps([f"tag {n}" for n in range(50)]), [f"tag {n}" for n in range(50)], [f"tag {n}" for n in range(50)]),
    ],
)
def test_an_attribute_says_the_same_as_text_of_an_export_and_as_a_value_of_the_api(
    exported: str, put: object, values: list[str]
) -> None:
    assert attribute_values(exported) == attribute_values(put) == values


def test_brackets_that_are_no_list_are_text() -> None:
    assert attribute_values("[sic]") == ["[sic]"] and attribute_values("[") == ["["]


def test_attributes_beyond_the_eighth_are_named() -> None:
    """The first has all items, the next one less, and so on: the ninth and tenth are left out, of the last there is but one."""
    told = tuple(
        orjson.dumps(
            {f"a{n}": f"v{row % 2}" for n in range(10) if row >= n} | ({"once": "x"} if row == 0 else {})
        ).decode()
        for row in range(40)
    )
    found = fit_features(replace(make_catalogue(40), attributes=told))
    assert found.encoder.plan.attributes == tuple(f"a{n}" for n in range(8))
    (warning,) = (text for text in found.warnings if "attributes" in text)
    assert warning.endswith("these are not: 'a8', 'a9'")


def test_a_catalogue_of_ids_alone_gives_no_rows_of_features() -> None:
    shop = make_catalogue(40)
    bare = replace(
        shop,
        titles=shop.item_ids,
        brands=(None,) * 40,
        category=np.full(40, -1, dtype=np.int32),
        listed_price_cents=np.full(40, -1, dtype=np.int64),
    )
    rows, weight = fit_features(bare).rows()
    assert rows.shape == (0, 40)
    assert len(weight) == 0
