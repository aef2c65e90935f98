-- Grain: one accepted event of a shopper with an item. Key: event_id.
SELECT
    e.event_id,
    e.occurred_at,
    e.received_at,
    e.user_id,
    COALESCE(e.session_id, s.session_id) AS session_id,
    e.item_id,
    e.event_type,
    CAST(event_weights.weight AS FLOAT) AS weight,
    e.quantity,
    e.price_cents,
    e.order_id,
    e.request_id,
    e.surface,
    e.region,
    e.source
FROM stg_kept_events AS e
INNER JOIN event_weights ON event_weights.event_type = e.event_type
LEFT JOIN stg_sessions AS s ON s.event_id = e.event_id
