-- Units that came back of a shopper's item, and until when.
-- Grain: one shopper and item with returns. Reads stg_unique_events.
SELECT
    COALESCE(user_id, session_id) AS shopper,
    item_id,
    SUM(quantity) AS returned,
    MAX(occurred_at) AS last_return_at
FROM stg_unique_events
WHERE event_type = 'return'
GROUP BY COALESCE(user_id, session_id), item_id
