-- Grain: one item of one order. Key: order_id, item_id.
WITH lines AS (
    SELECT
        COALESCE(order_id, session_id) AS order_id, item_id, user_id, session_id, occurred_at, quantity,
        quantity * COALESCE(price_cents, 0) AS revenue_cents
    FROM interactions
    WHERE event_type = 'purchase'
),

orders AS (
    SELECT order_id, MAX(user_id) AS user_id, MIN(session_id) AS session_id, MIN(occurred_at) AS purchased_at
    FROM lines
    GROUP BY order_id
)

SELECT
    lines.order_id,
    lines.item_id,
    MAX(orders.user_id) AS user_id,
    MIN(orders.session_id) AS session_id,
    MIN(orders.purchased_at) AS purchased_at,
    CAST(SUM(lines.quantity) AS BIGINT) AS quantity,
    CAST(SUM(lines.revenue_cents) AS BIGINT) AS revenue_cents
FROM lines
INNER JOIN orders ON orders.order_id = lines.order_id
GROUP BY lines.order_id, lines.item_id
