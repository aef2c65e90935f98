-- The catalogue, typed, each item once: of differing lines the most frequent stands, then the least. What the catalogue
-- API was told of an item stands above what exports say of it.
-- Grain: one listed item. Key: item_id. Reads raw_items, raw_changes.
WITH lines AS (
    SELECT
        item_id, title, description, category, brand, price, image_url, attributes, available, listed_at,
        COUNT(*) AS copies
    FROM raw_items
    WHERE item_id IS NOT NULL
    GROUP BY item_id, title, description, category, brand, price, image_url, attributes, available, listed_at
),

numbered AS (
    SELECT
        lines.*,
        ROW_NUMBER() OVER (
            PARTITION BY item_id
            ORDER BY
                CASE WHEN title IS NULL THEN 1 ELSE 0 END, copies DESC, title, description, category, brand, price, image_url,
                attributes, available, listed_at
        ) AS place
    FROM lines
),

exported AS (
    SELECT
        item_id, title, description, category, brand,
        CASE WHEN TRY_CAST(price AS DOUBLE) >= 0 THEN CAST(ROUND(TRY_CAST(price AS DOUBLE) * 100) AS BIGINT) END AS price_cents,
        image_url, attributes,
        COALESCE(available, 'true') = 'true' AS available,
        listed_at
    FROM numbered
    WHERE place = 1
)

SELECT
    COALESCE(told.item_id, exported.item_id) AS item_id,
    CASE WHEN told.is_whole THEN told.title ELSE exported.title END AS title,
    CASE WHEN told.is_whole THEN told.description ELSE exported.description END AS description,
    CASE WHEN told.is_whole THEN told.category ELSE exported.category END AS category,
    CASE WHEN told.is_whole THEN told.brand ELSE exported.brand END AS brand,
    CASE WHEN told.is_whole OR told.price_cents IS NOT NULL THEN told.price_cents ELSE exported.price_cents END AS price_cents,
    CASE WHEN told.is_whole THEN told.image_url ELSE exported.image_url END AS image_url,
    CASE WHEN told.is_whole THEN told.attributes ELSE exported.attributes END AS attributes,
    COALESCE(told.available, exported.available) AS available,
    COALESCE(exported.listed_at, CASE WHEN exported.item_id IS NULL AND told.is_whole THEN told.first_at END) AS listed_at
FROM exported
FULL OUTER JOIN raw_changes AS told ON told.item_id = exported.item_id
