-- Grain: one item that the catalogue lists or that an event names. Key: item_id.
WITH met AS (
    SELECT item_id, MIN(occurred_at) AS first_at FROM interactions GROUP BY item_id
),

paid AS (
    SELECT
        item_id,
        price_cents,
        ROW_NUMBER() OVER (PARTITION BY item_id ORDER BY occurred_at DESC, event_id) AS place
    FROM interactions
    WHERE event_type = 'purchase' AND price_cents > 0
),

names AS (
    SELECT item_id FROM met
    UNION
    SELECT item_id FROM stg_items
)

SELECT
    names.item_id,
    COALESCE(stg_items.title, names.item_id) AS title,
    stg_items.description,
    stg_items.category,
    stg_items.brand,
    COALESCE(stg_items.price_cents, paid.price_cents) AS price_cents,
    stg_items.price_cents AS listed_price_cents,
    stg_items.image_url,
    stg_items.attributes,
    -- With a complete catalogue, what it does not list may not be recommended.
    COALESCE(stg_items.available, NOT run.complete_catalogue) AS available,
    COALESCE(stg_items.listed_at, met.first_at) AS listed_at
FROM names
CROSS JOIN run
LEFT JOIN stg_items ON stg_items.item_id = names.item_id
LEFT JOIN met ON met.item_id = names.item_id
LEFT JOIN paid ON paid.item_id = names.item_id AND paid.place = 1
