-- Grain: one shopper that an event or a user export names. Key: user_id.
WITH met AS (
    SELECT user_id, MIN(occurred_at) AS first_seen_at, MAX(occurred_at) AS last_seen_at
    FROM interactions
    WHERE user_id IS NOT NULL
    GROUP BY user_id
),

listed AS (
    SELECT user_id, MIN(attributes) AS attributes FROM raw_users WHERE user_id IS NOT NULL GROUP BY user_id
)

SELECT
    COALESCE(met.user_id, listed.user_id) AS user_id,
    listed.attributes,
    met.first_seen_at,
    met.last_seen_at
FROM met
FULL OUTER JOIN listed ON listed.user_id = met.user_id
