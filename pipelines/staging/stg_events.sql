-- Every raw line, typed, with the first reason for which it cannot be used (null: none).
-- An anonymous event of the service's log is the user's to whom its session belonged when it was received.
-- Grain: one raw line. Reads raw_events, stg_logins and run (one row: as_of, the moment of this run).
WITH typed AS (
    SELECT
        source,
        line,
        event_type,
        COALESCE(raw_events.user_id, stg_logins.user_id) AS user_id,
        -- An order without a customer is an anonymous session of its own.
        COALESCE(raw_events.session_id, CASE WHEN raw_events.user_id IS NULL THEN order_id END) AS session_id,
        item_id,
        order_id,
        quantity AS quantity_text,
        price AS price_text,
        CASE WHEN quantity IS NULL THEN 1 ELSE TRY_CAST(ROUND(ABS(TRY_CAST(quantity AS DOUBLE))) AS INTEGER) END AS quantity,
        TRY_CAST(ROUND(TRY_CAST(price AS DOUBLE) * 100) AS BIGINT) AS price_cents,
        occurred_at,
        occurred_at_text,
        received_at,
        request_id,
        surface,
        region,
        event_id AS source_event_id
    FROM raw_events
    LEFT JOIN stg_logins
        ON raw_events.user_id IS NULL
        AND raw_events.session_id = stg_logins.session_id
        AND raw_events.received_at >= stg_logins.from_at
        AND raw_events.received_at < stg_logins.until_at
),

judged AS (
    SELECT
        typed.*,
        CASE
            WHEN line IS NOT NULL THEN 'not splittable into columns'
            WHEN occurred_at IS NULL THEN 'unreadable time'
            WHEN occurred_at > run.as_of THEN 'time in the future'
            WHEN occurred_at < TIMESTAMP '1990-01-01 00:00:00' THEN 'time before 1990'
            WHEN item_id IS NULL THEN 'no item'
            WHEN event_type IS NULL OR event_type NOT IN ('view', 'click', 'cart', 'purchase', 'return', 'hide') THEN 'unknown event type'
            WHEN quantity IS NULL THEN 'unreadable quantity'
            WHEN quantity = 0 THEN 'quantity is zero'
            WHEN price_text IS NOT NULL AND price_cents IS NULL THEN 'unreadable price'
            WHEN price_cents < 0 THEN 'negative price'
            WHEN user_id IS NULL AND session_id IS NULL THEN 'neither user, session nor order'
        END AS reason
    FROM typed
    CROSS JOIN run
)

SELECT
    source,
    -- Without an id of the source's own, equal content is the same event.
    CASE WHEN reason IS NULL THEN COALESCE(
        source_event_id,
        MD5(CONCAT_WS(
            '|', event_type, COALESCE(user_id, ''), COALESCE(session_id, ''), item_id, COALESCE(order_id, ''),
            CAST(quantity AS VARCHAR(20)), COALESCE(CAST(price_cents AS VARCHAR(20)), ''), CAST(occurred_at AS VARCHAR(40))
        ))
    ) END AS event_id,
    event_type,
    user_id,
    session_id,
    item_id,
    order_id,
    quantity,
    price_cents,
    occurred_at,
    received_at,
    request_id,
    surface,
    region,
    reason,
    CASE WHEN reason IS NOT NULL THEN COALESCE(line, CONCAT_WS(
        ' | ', COALESCE(source_event_id, ''), COALESCE(event_type, ''), COALESCE(user_id, ''), COALESCE(session_id, ''),
        COALESCE(item_id, ''), COALESCE(order_id, ''), COALESCE(quantity_text, ''), COALESCE(price_text, ''),
        COALESCE(occurred_at_text, '')
    )) END AS record
FROM judged
