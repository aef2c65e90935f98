-- Grain: one visit. Key: session_id.
SELECT
    session_id,
    MAX(user_id) AS user_id,
    MIN(occurred_at) AS started_at,
    MAX(occurred_at) AS ended_at,
    COUNT(*) AS events,
    COUNT(DISTINCT item_id) AS items,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN 1 ELSE 0 END) AS BIGINT) AS purchases,
    CAST(SUM(CASE WHEN event_type = 'purchase' THEN quantity * COALESCE(price_cents, 0) ELSE 0 END) AS BIGINT) AS revenue_cents
FROM interactions
GROUP BY session_id
