-- From when to when a session belonged to whom. What it did before anybody logged in belongs to the first who did.
-- Grain: one session and one change of its user. Reads raw_merges.
WITH ordered AS (
    SELECT
        session_id,
        user_id,
        since,
        ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY since, number) AS place,
        LEAD(since) OVER (PARTITION BY session_id ORDER BY since, number) AS next_since
    FROM raw_merges
)

SELECT
    session_id,
    user_id,
    CASE WHEN place = 1 THEN TIMESTAMP '0001-01-01 00:00:00' ELSE since END AS from_at,
    COALESCE(next_since, TIMESTAMP '9999-12-31 00:00:00') AS until_at
FROM ordered
