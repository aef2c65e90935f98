-- Units that came back of a shopper's item, and until when. A user and a session that are called the same are two shoppers.
-- Grain: one shopper and item with returns. Reads stg_unique_events.
SELECT
    COALESCE('user:' || user_id, 'session:' || session_id) AS shopper,
    item_id,
    SUM(quantity) AS returned,
    MAX(occurred_at) AS last_return_at
FROM stg_unique_events
WHERE event_type = 'return'
GROUP BY COALESCE('user:' || user_id, 'session:' || session_id), item_id
