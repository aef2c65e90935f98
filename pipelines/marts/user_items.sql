-- Grain: one shopper and one item they met. Key: user_id, item_id.
WITH latest AS (
    SELECT MAX(occurred_at) AS last_at FROM interactions
)

SELECT
    user_id,
    item_id,
    MIN(occurred_at) AS first_at,
    MAX(occurred_at) AS last_at,
    CAST(SUM(CASE WHEN event_type = 'view' THEN 1 ELSE 0 END) AS BIGINT) AS views,
    CAST(SUM(CASE WHEN event_type = 'click' THEN 1 ELSE 0 END) AS BIGINT) AS clicks,
    CAST(SUM(CASE WHEN event_type = 'cart' THEN 1 ELSE 0 END) AS BIGINT) AS carts,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN 1 ELSE 0 END) AS BIGINT) AS purchases,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN quantity ELSE 0 END) AS BIGINT) AS quantity,
    -- Whole millionths add up to the same sum in any order; floating-point terms would not.
    CAST(SUM(CAST(ROUND(
        1000000 * weight * POWER(2.0, -days_between(occurred_at, latest.last_at) / 90.0)
    ) AS BIGINT)) AS DOUBLE) / 1000000.0 AS weight
FROM interactions
CROSS JOIN latest
WHERE user_id IS NOT NULL
GROUP BY user_id, item_id
