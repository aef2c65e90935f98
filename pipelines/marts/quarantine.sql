-- Grain: one different line that could not be used. Key: source, record.
SELECT source, MIN(reason) AS reason, record
FROM stg_events
WHERE reason IS NOT NULL
GROUP BY source, record
