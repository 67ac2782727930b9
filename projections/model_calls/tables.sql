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
