-- What an experiment is read out from. An exposure counts once a client says that it was seen; a degraded answer counts for no arm.
-- Totals are all that a unit bought from its first exposure on, until the end of the day of anybody's last one: what is bought when the
-- experiment is over is no part of its period. The pre-period is the 28 days before anybody's first exposure.
-- Who clicks more than three in ten of a dozen items or more is taken for a bot and left out, in every arm alike.
-- Grain: one experiment, unit and arm. Reads exposures, assignments, outcomes, stg_kept_events.
WITH placed AS (
    SELECT a.experiment, a.arm, a.unit, e.request_id, e.item_id, e.occurred_at, e.degraded, e.is_seen, e.seconds
    FROM assignments AS a
    INNER JOIN exposures AS e ON e.request_id = a.request_id
),

firsts AS (
    SELECT
        experiment,
        unit,
        arm,
        MIN(occurred_at) AS first_at,
        MAX(occurred_at) AS last_at,
        COUNT(*) AS exposures
    FROM placed
    WHERE is_seen AND NOT degraded
    GROUP BY experiment, unit, arm
),

starts AS (
    SELECT experiment, MIN(first_at) AS start_at, CAST(MAX(last_at) AS DATE) AS last_day FROM firsts GROUP BY experiment
),

asked AS (
    SELECT DISTINCT experiment, unit, arm, request_id, degraded, seconds FROM placed
),

answered AS (
    SELECT
        experiment,
        unit,
        arm,
        COUNT(*) AS answers,
        SUM(CASE WHEN degraded THEN 1 ELSE 0 END) AS errors,
        -- An answer whose time is unknown took as long as the others of the unit.
        1000 * AVG(seconds) * COUNT(*) AS latency_ms
    FROM asked
    GROUP BY experiment, unit, arm
),

followed AS (
    SELECT
        p.experiment,
        p.unit,
        p.arm,
        SUM(CASE WHEN o.event_type = 'click' THEN 1 ELSE 0 END) AS clicks,
        SUM(CASE WHEN o.event_type = 'cart' THEN 1 ELSE 0 END) AS carts,
        COUNT(DISTINCT CASE WHEN o.event_type = 'purchase' THEN COALESCE(o.order_id, o.event_id) END) AS orders,
        SUM(o.revenue_cents) AS revenue_cents,
        SUM(CASE WHEN o.event_type = 'return' THEN 1 ELSE 0 END) AS returns
    FROM placed AS p
    INNER JOIN outcomes AS o ON o.request_id = p.request_id AND o.item_id = p.item_id
    WHERE NOT p.degraded
    GROUP BY p.experiment, p.unit, p.arm
),

-- Whatever is known of a unit by either of its names.
bought AS (
    SELECT CONCAT('user:', user_id) AS unit, occurred_at, COALESCE(order_id, event_id) AS order_id, quantity * COALESCE(price_cents, 0) AS revenue_cents
    FROM stg_kept_events
    WHERE event_type = 'purchase' AND user_id IS NOT NULL
    UNION ALL
    SELECT CONCAT('session:', session_id) AS unit, occurred_at, COALESCE(order_id, event_id) AS order_id, quantity * COALESCE(price_cents, 0) AS revenue_cents
    FROM stg_kept_events
    WHERE event_type = 'purchase' AND session_id IS NOT NULL
),

totals AS (
    SELECT
        f.experiment,
        f.unit,
        f.arm,
        COUNT(DISTINCT CASE WHEN b.occurred_at >= f.first_at AND CAST(b.occurred_at AS DATE) <= s.last_day THEN b.order_id END)
            AS total_orders,
        SUM(CASE WHEN b.occurred_at >= f.first_at AND CAST(b.occurred_at AS DATE) <= s.last_day THEN b.revenue_cents ELSE 0 END)
            AS total_revenue_cents,
        COUNT(DISTINCT CASE WHEN b.occurred_at < s.start_at AND days_between(b.occurred_at, s.start_at) <= 28 THEN b.order_id END)
            AS pre_total_orders,
        SUM(CASE WHEN b.occurred_at < s.start_at AND days_between(b.occurred_at, s.start_at) <= 28 THEN b.revenue_cents ELSE 0 END)
            AS pre_total_revenue_cents
    FROM firsts AS f
    INNER JOIN starts AS s ON s.experiment = f.experiment
    INNER JOIN bought AS b ON b.unit = f.unit
    GROUP BY f.experiment, f.unit, f.arm
),

earlier AS (
    SELECT CONCAT('user:', user_id) AS unit, request_id, item_id, occurred_at FROM exposures WHERE is_seen AND NOT degraded AND user_id IS NOT NULL
    UNION ALL
    SELECT CONCAT('session:', session_id) AS unit, request_id, item_id, occurred_at FROM exposures WHERE is_seen AND NOT degraded AND session_id IS NOT NULL
),

shown_before AS (
    SELECT f.experiment, f.unit, f.arm, e.request_id, e.item_id
    FROM firsts AS f
    INNER JOIN starts AS s ON s.experiment = f.experiment
    INNER JOIN earlier AS e ON e.unit = f.unit AND e.occurred_at < s.start_at AND days_between(e.occurred_at, s.start_at) <= 28
),

seen_before AS (
    SELECT experiment, unit, arm, COUNT(*) AS pre_exposures FROM shown_before GROUP BY experiment, unit, arm
),

followed_before AS (
    SELECT
        b.experiment,
        b.unit,
        b.arm,
        SUM(CASE WHEN o.event_type = 'click' THEN 1 ELSE 0 END) AS pre_clicks,
        SUM(CASE WHEN o.event_type = 'cart' THEN 1 ELSE 0 END) AS pre_carts,
        COUNT(DISTINCT CASE WHEN o.event_type = 'purchase' THEN COALESCE(o.order_id, o.event_id) END) AS pre_orders,
        SUM(o.revenue_cents) AS pre_revenue_cents,
        SUM(CASE WHEN o.event_type = 'return' THEN 1 ELSE 0 END) AS pre_returns
    FROM shown_before AS b
    INNER JOIN starts AS s ON s.experiment = b.experiment
    -- An outcome of the experiment's own time is no covariate, wherever it was seen first.
    INNER JOIN outcomes AS o ON o.request_id = b.request_id AND o.item_id = b.item_id AND o.occurred_at < s.start_at
    GROUP BY b.experiment, b.unit, b.arm
)

SELECT
    f.experiment, f.unit, f.arm, f.first_at,
    CAST(f.exposures AS DOUBLE) AS exposures,
    CAST(COALESCE(o.clicks, 0) AS DOUBLE) AS clicks,
    CAST(COALESCE(o.carts, 0) AS DOUBLE) AS carts,
    CAST(COALESCE(o.orders, 0) AS DOUBLE) AS orders,
    CAST(COALESCE(o.revenue_cents, 0) AS DOUBLE) AS revenue_cents,
    CAST(COALESCE(o.returns, 0) AS DOUBLE) AS returns,
    CAST(COALESCE(t.total_orders, 0) AS DOUBLE) AS total_orders,
    CAST(COALESCE(t.total_revenue_cents, 0) AS DOUBLE) AS total_revenue_cents,
    CAST(a.answers AS DOUBLE) AS answers,
    CAST(a.errors AS DOUBLE) AS errors,
    CAST(a.latency_ms AS DOUBLE) AS latency_ms,
    CAST(COALESCE(sb.pre_exposures, 0) AS DOUBLE) AS pre_exposures,
    CAST(COALESCE(fb.pre_clicks, 0) AS DOUBLE) AS pre_clicks,
    CAST(COALESCE(fb.pre_carts, 0) AS DOUBLE) AS pre_carts,
    CAST(COALESCE(fb.pre_orders, 0) AS DOUBLE) AS pre_orders,
    CAST(COALESCE(fb.pre_revenue_cents, 0) AS DOUBLE) AS pre_revenue_cents,
    CAST(COALESCE(fb.pre_returns, 0) AS DOUBLE) AS pre_returns,
    CAST(COALESCE(t.pre_total_orders, 0) AS DOUBLE) AS pre_total_orders,
    CAST(COALESCE(t.pre_total_revenue_cents, 0) AS DOUBLE) AS pre_total_revenue_cents
FROM firsts AS f
INNER JOIN answered AS a ON a.experiment = f.experiment AND a.unit = f.unit AND a.arm = f.arm
LEFT JOIN followed AS o ON o.experiment = f.experiment AND o.unit = f.unit AND o.arm = f.arm
LEFT JOIN totals AS t ON t.experiment = f.experiment AND t.unit = f.unit AND t.arm = f.arm
LEFT JOIN seen_before AS sb ON sb.experiment = f.experiment AND sb.unit = f.unit AND sb.arm = f.arm
LEFT JOIN followed_before AS fb ON fb.experiment = f.experiment AND fb.unit = f.unit AND fb.arm = f.arm
WHERE NOT (f.exposures >= 12 AND COALESCE(o.clicks, 0) > 0.3 * f.exposures)
