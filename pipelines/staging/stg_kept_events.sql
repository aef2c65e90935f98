-- Interactions, without returns and hides: what came back is taken off the shopper's latest purchases of the item; what came back whole leaves.
-- Grain: one event. Key: event_id. Reads stg_unique_events, stg_returns.
WITH purchases AS (
    -- Only purchases that a return can concern, the latest first.
    SELECT
        e.event_id,
        e.quantity,
        r.returned,
        SUM(e.quantity) OVER (
            PARTITION BY COALESCE('user:' || e.user_id, 'session:' || e.session_id), e.item_id
            ORDER BY e.occurred_at DESC, e.event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS units_so_far
    FROM stg_unique_events AS e
    INNER JOIN stg_returns AS r
        ON r.shopper = COALESCE('user:' || e.user_id, 'session:' || e.session_id)
        AND r.item_id = e.item_id AND e.occurred_at <= r.last_return_at
    WHERE e.event_type = 'purchase'
),

reduced AS (
    SELECT
        event_id,
        quantity - LEAST(quantity, GREATEST(0, returned - (units_so_far - quantity))) AS quantity
    FROM purchases
)

SELECT
    e.event_id, e.event_type, e.user_id, e.session_id, e.item_id, e.order_id,
    CAST(COALESCE(reduced.quantity, e.quantity) AS INTEGER) AS quantity,
    e.price_cents, e.occurred_at, e.received_at, e.request_id, e.surface, e.region, e.source
FROM stg_unique_events AS e
LEFT JOIN reduced ON reduced.event_id = e.event_id
WHERE e.event_type NOT IN ('return', 'hide') AND COALESCE(reduced.quantity, e.quantity) > 0
