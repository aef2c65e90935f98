-- What follows from an item that was seen: it belongs to the answer that it names, else to the last one before it that the same shopper
-- saw the item in. Too late is what comes after the window of its type (table attribution). Clocks of clients may be five minutes off: what
-- names its answer may seem to come before it, nothing else may. A return belongs to the answer of the purchase that it undoes, which stays
-- an outcome, of no revenue where all of it came back. A session is its user's, see stg_logins; two users of one are two shoppers.
-- Grain: one event. Key: event_id. Reads stg_kept_events, stg_unique_events, stg_logins, exposures, attribution.
WITH happened AS (
    SELECT
        u.event_id, u.occurred_at, u.event_type, u.user_id, u.session_id, u.item_id, u.order_id, u.request_id,
        CASE WHEN u.event_type = 'purchase' THEN COALESCE(k.quantity, 0) * COALESCE(u.price_cents, 0) ELSE 0 END AS revenue_cents
    FROM stg_unique_events AS u
    LEFT JOIN stg_kept_events AS k ON k.event_id = u.event_id
    WHERE u.event_type IN ('click', 'cart', 'purchase', 'hide')
),

shown AS (
    SELECT
        e.request_id, e.item_id, e.position, e.occurred_at AS shown_at, COALESCE(e.user_id, l.user_id) AS user_id, e.session_id
    FROM exposures AS e
    LEFT JOIN stg_logins AS l
        ON e.user_id IS NULL AND e.session_id = l.session_id AND e.occurred_at >= l.from_at AND e.occurred_at < l.until_at
    WHERE e.is_seen
),

touches AS (
    SELECT h.event_id, s.request_id, s.position, s.shown_at
    FROM happened AS h
    INNER JOIN shown AS s ON s.request_id = h.request_id AND s.item_id = h.item_id
    UNION ALL
    SELECT h.event_id, s.request_id, s.position, s.shown_at
    FROM happened AS h
    INNER JOIN shown AS s ON s.user_id = h.user_id AND s.item_id = h.item_id AND s.shown_at <= h.occurred_at
    UNION ALL
    SELECT h.event_id, s.request_id, s.position, s.shown_at
    FROM happened AS h
    INNER JOIN shown AS s
        ON s.session_id = h.session_id AND s.item_id = h.item_id AND s.shown_at <= h.occurred_at
        AND (s.user_id IS NULL OR h.user_id IS NULL OR s.user_id = h.user_id)
),

in_time AS (
    SELECT
        h.*,
        t.request_id AS touched_id,
        t.position,
        t.shown_at,
        seconds_between(t.shown_at, h.occurred_at) AS seconds_since
    FROM touches AS t
    INNER JOIN happened AS h ON h.event_id = t.event_id
    INNER JOIN attribution AS a ON a.event_type = h.event_type
    WHERE seconds_between(t.shown_at, h.occurred_at) >= -300 AND seconds_between(t.shown_at, h.occurred_at) < a.seconds
),

ranked AS (
    SELECT
        in_time.*,
        COALESCE(request_id = touched_id, FALSE) AS is_named,
        ROW_NUMBER() OVER (
            PARTITION BY event_id
            ORDER BY CASE WHEN request_id = touched_id THEN 0 ELSE 1 END, shown_at DESC, touched_id
        ) AS place
    FROM in_time
),

returned AS (
    SELECT
        r.event_id, r.occurred_at, r.event_type, p.order_id, 0 AS revenue_cents, p.touched_id, p.item_id, p.position,
        seconds_between(p.shown_at, r.occurred_at) AS seconds_since, p.is_named,
        ROW_NUMBER() OVER (PARTITION BY r.event_id ORDER BY p.occurred_at DESC, p.event_id) AS place
    FROM stg_unique_events AS r
    INNER JOIN ranked AS p
        ON p.item_id = r.item_id AND p.occurred_at <= r.occurred_at
        AND (p.user_id = r.user_id OR (p.user_id IS NULL AND r.user_id IS NULL AND p.session_id = r.session_id))
    INNER JOIN attribution AS a ON a.event_type = 'return'
    WHERE r.event_type = 'return' AND p.event_type = 'purchase' AND p.place = 1
        AND seconds_between(p.occurred_at, r.occurred_at) < a.seconds
)

SELECT
    event_id, occurred_at, event_type, order_id, CAST(revenue_cents AS BIGINT) AS revenue_cents, touched_id AS request_id,
    item_id, position, CAST(seconds_since AS BIGINT) AS seconds_since, is_named
FROM ranked
WHERE place = 1
UNION ALL
SELECT
    event_id, occurred_at, event_type, order_id, CAST(revenue_cents AS BIGINT) AS revenue_cents, touched_id AS request_id,
    item_id, position, CAST(seconds_since AS BIGINT) AS seconds_since, is_named
FROM returned
WHERE place = 1
