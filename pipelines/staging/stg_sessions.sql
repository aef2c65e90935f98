-- The session of every event that the source gave none: a gap of 30 minutes ends a session.
-- Grain: one event of a user without a session. Key: event_id. Reads stg_kept_events.
WITH steps AS (
    SELECT
        event_id,
        user_id,
        occurred_at,
        LAG(occurred_at) OVER (PARTITION BY user_id ORDER BY occurred_at, event_id) AS previous_at
    FROM stg_kept_events
    WHERE session_id IS NULL
),

marked AS (
    SELECT
        event_id,
        user_id,
        occurred_at,
        CASE WHEN previous_at >= occurred_at - INTERVAL '30' MINUTE THEN NULL ELSE occurred_at END AS starts_at
    FROM steps
)

SELECT
    event_id,
    CONCAT(user_id, '@', CAST(
        MAX(starts_at) OVER (
            PARTITION BY user_id ORDER BY occurred_at, event_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS VARCHAR(40)
    )) AS session_id
FROM marked
