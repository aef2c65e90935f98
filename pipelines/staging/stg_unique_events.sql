-- Usable events, each id once: where lines of one id differ, the least of them in the order below stands.
-- Grain: one event. Key: event_id. Reads stg_events.
WITH numbered AS (
    SELECT
        stg_events.*,
        ROW_NUMBER() OVER (
            PARTITION BY event_id
            ORDER BY occurred_at, item_id, event_type, user_id, session_id, order_id, quantity, price_cents, received_at,
                request_id, surface, region, source
        ) AS copy
    FROM stg_events
    WHERE reason IS NULL
)

SELECT
    event_id, event_type, user_id, session_id, item_id, order_id, quantity, price_cents, occurred_at, received_at,
    request_id, surface, region, source
FROM numbered
WHERE copy = 1
