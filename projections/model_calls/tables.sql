-- What became of one model call? The last event of each request id, whole but for its envelope.
CREATE TABLE IF NOT EXISTS model_calls (
  tenant_id    text COLLATE "C" NOT NULL,
  request_id   text COLLATE "C" NOT NULL,
  ended_at     timestamptz NOT NULL,
  principal_id text COLLATE "C" NOT NULL,
  details      json NOT NULL,  -- json, not jsonb: a name may hold \u0000, and nobody looks inside
  position     bigint NOT NULL,
  PRIMARY KEY (tenant_id, request_id)
);
-- Rows come in the order of their time, or nearly: a few pages of index find the old ones.
CREATE INDEX IF NOT EXISTS model_calls_ended_at ON model_calls USING brin (ended_at);
-- Up to which hour (since the epoch) calls were recorded, and for how many days they are kept.
CREATE TABLE IF NOT EXISTS model_calls_kept (
  is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  newest_hour bigint NOT NULL,
  days        bigint NOT NULL
);
