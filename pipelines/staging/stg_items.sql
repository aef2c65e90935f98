-- The catalogue, typed, each item once: of differing lines the most frequent stands, then the least.
-- Grain: one listed item. Key: item_id. Reads raw_items.
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
)

SELECT
    item_id, title, description, category, brand,
    CASE WHEN TRY_CAST(price AS DOUBLE) >= 0 THEN CAST(ROUND(TRY_CAST(price AS DOUBLE) * 100) AS BIGINT) END AS price_cents,
    image_url, attributes,
    COALESCE(available, 'true') = 'true' AS available,
    listed_at
FROM numbered
WHERE place = 1
