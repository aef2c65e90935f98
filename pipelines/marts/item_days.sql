-- Grain: one item on one day (UTC). Key: day, item_id.
SELECT
    CAST(occurred_at AS DATE) AS day,
    item_id,
    CAST(SUM(CASE WHEN event_type = 'view' THEN 1 ELSE 0 END) AS BIGINT) AS views,
    CAST(SUM(CASE WHEN event_type = 'click' THEN 1 ELSE 0 END) AS BIGINT) AS clicks,
    CAST(SUM(CASE WHEN event_type = 'cart' THEN 1 ELSE 0 END) AS BIGINT) AS carts,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN 1 ELSE 0 END) AS BIGINT) AS purchases,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN quantity ELSE 0 END) AS BIGINT) AS quantity,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN quantity * COALESCE(price_cents, 0) ELSE 0 END) AS BIGINT) AS revenue_cents
FROM interactions
GROUP BY CAST(occurred_at AS DATE), item_id
