-- What each surface did on each day, for all answers (experiment and arm empty) and for every arm of an experiment. An answer that was
-- degraded is counted as such and nowhere else: no arm is judged by it.
-- Grain: one day, surface, experiment, arm and phase. Reads exposures, assignments, outcomes.
WITH places AS (
    SELECT request_id, '' AS experiment, '' AS arm FROM (SELECT DISTINCT request_id FROM exposures) AS every_answer
    UNION ALL
    SELECT request_id, experiment, arm FROM assignments
),

credited AS (
    SELECT
        request_id,
        item_id,
        SUM(CASE WHEN event_type = 'click' THEN 1 ELSE 0 END) AS clicks,
        SUM(CASE WHEN event_type = 'cart' THEN 1 ELSE 0 END) AS carts,
        SUM(CASE WHEN event_type = 'hide' THEN 1 ELSE 0 END) AS hides,
        SUM(CASE WHEN event_type = 'return' THEN 1 ELSE 0 END) AS returns,
        SUM(revenue_cents) AS revenue_cents
    FROM outcomes
    GROUP BY request_id, item_id
),

touched AS (
    SELECT COALESCE('user:' || e.user_id, 'session:' || e.session_id) AS shopper, o.item_id, MIN(o.occurred_at) AS first_at
    FROM outcomes AS o
    INNER JOIN exposures AS e ON e.request_id = o.request_id AND e.item_id = o.item_id
    WHERE o.event_type IN ('click', 'cart', 'purchase')
    GROUP BY COALESCE('user:' || e.user_id, 'session:' || e.session_id), o.item_id
),

numbered AS (
    SELECT
        exposures.*,
        COALESCE('user:' || user_id, 'session:' || session_id) AS shopper,
        ROW_NUMBER() OVER (
            PARTITION BY COALESCE('user:' || user_id, 'session:' || session_id), item_id
            ORDER BY CASE WHEN is_seen THEN 0 ELSE 1 END, occurred_at, request_id
        ) AS times_seen
    FROM exposures
),

counted AS (
    SELECT
        CAST(e.occurred_at AS DATE) AS day,
        e.surface,
        COALESCE(e.phase, 0) AS phase,
        e.request_id,
        e.degraded,
        e.is_seen AND NOT e.degraded AS counts,
        CASE
            WHEN e.is_seen AND NOT e.degraded AND e.shopper IS NOT NULL AND e.times_seen > 3
                AND (touched.first_at IS NULL OR touched.first_at > e.occurred_at) THEN 1
            ELSE 0
        END AS ignored,
        COALESCE(credited.clicks, 0) AS clicks,
        COALESCE(credited.carts, 0) AS carts,
        COALESCE(credited.hides, 0) AS hides,
        COALESCE(credited.returns, 0) AS returns,
        COALESCE(credited.revenue_cents, 0) AS revenue_cents
    FROM numbered AS e
    LEFT JOIN credited ON credited.request_id = e.request_id AND credited.item_id = e.item_id
    LEFT JOIN touched ON touched.shopper = e.shopper AND touched.item_id = e.item_id
),

orders AS (
    SELECT
        CAST(e.occurred_at AS DATE) AS day,
        e.surface,
        p.experiment,
        p.arm,
        COALESCE(e.phase, 0) AS phase,
        COUNT(DISTINCT COALESCE(o.order_id, o.event_id)) AS orders
    FROM outcomes AS o
    INNER JOIN exposures AS e ON e.request_id = o.request_id AND e.item_id = o.item_id AND NOT e.degraded
    INNER JOIN places AS p ON p.request_id = o.request_id
    WHERE o.event_type = 'purchase'
    GROUP BY CAST(e.occurred_at AS DATE), e.surface, p.experiment, p.arm, COALESCE(e.phase, 0)
),

summed AS (
    SELECT
        c.day,
        c.surface,
        p.experiment,
        p.arm,
        c.phase,
        COUNT(DISTINCT c.request_id) AS answers,
        COUNT(DISTINCT CASE WHEN c.degraded THEN c.request_id END) AS degraded_answers,
        COUNT(DISTINCT CASE WHEN c.counts THEN c.request_id END) AS seen_answers,
        SUM(CASE WHEN c.counts THEN 1 ELSE 0 END) AS exposures,
        SUM(CASE WHEN c.counts THEN c.clicks ELSE 0 END) AS clicks,
        SUM(CASE WHEN c.counts THEN c.carts ELSE 0 END) AS carts,
        SUM(CASE WHEN c.counts THEN c.revenue_cents ELSE 0 END) AS revenue_cents,
        SUM(CASE WHEN c.counts THEN c.returns ELSE 0 END) AS returns,
        SUM(CASE WHEN c.counts THEN c.hides ELSE 0 END) AS hides,
        SUM(c.ignored) AS ignored_repeats
    FROM counted AS c
    INNER JOIN places AS p ON p.request_id = c.request_id
    GROUP BY c.day, c.surface, p.experiment, p.arm, c.phase
)

SELECT
    s.day, s.surface, s.experiment, s.arm, CAST(s.phase AS INTEGER) AS phase, s.answers, s.degraded_answers, s.seen_answers,
    CAST(s.exposures AS BIGINT) AS exposures,
    CAST(s.clicks AS BIGINT) AS clicks,
    CAST(s.clicks AS DOUBLE) / NULLIF(s.exposures, 0) AS ctr,
    CAST(s.carts AS BIGINT) AS carts,
    COALESCE(orders.orders, 0) AS orders,
    CAST(COALESCE(orders.orders, 0) AS DOUBLE) / NULLIF(s.seen_answers, 0) AS conversion,
    CAST(s.revenue_cents AS BIGINT) AS revenue_cents,
    CAST(s.revenue_cents AS DOUBLE) / NULLIF(orders.orders, 0) AS order_value_cents,
    CAST(s.returns AS BIGINT) AS returns,
    CAST(s.hides AS BIGINT) AS hides,
    CAST(s.ignored_repeats AS BIGINT) AS ignored_repeats
FROM summed AS s
LEFT JOIN orders
    ON orders.day = s.day AND orders.surface = s.surface AND orders.experiment = s.experiment AND orders.arm = s.arm
    AND orders.phase = s.phase
